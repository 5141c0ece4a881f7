// SPDX-License-Identifier: Apache-2.0
// What demo-pods.browser.ts does inside a node: the demo's pods on the dashboard, one of them open.
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { claimStates } from "../demo/dashboard-claims.ts";
import { populate } from "../demo/keep-up.ts";
import { appPort, proxiedRequest } from "../demo/proxied-request.ts";
import { knownName, Scene } from "../demo/scene.ts";
import { startBrowser, Visitor } from "./visitor.ts";

const scene = await Scene.begin();
await populate(scene);
const browser = await startBrowser();
const visitor = await Visitor.open(browser, scene.dashboard.url, {
  viewport: { width: 1280, height: 900 },
  colorScheme: "light",
});

/** Sends traffic, asks for a name and opens the server. @returns pods that are captured in the kernel and on the page */
export async function show(): Promise<string[]> {
  const { client, server, mesh } = scene;
  await proxiedRequest(mesh, { ...scene, family: 6, inboundPort: 15006 });
  for (let sent = 0; sent < 20; sent++)
    await client.app.call.get({ host: server.pod.ip4, port: appPort, body: "hello" });
  for (const transport of ["udp", "tcp"] as const)
    await server.app.call.dnsQuery({ server: "192.0.2.53", transport, name: knownName.name });
  await visitor.page.getByRole("link", { name: "shop/server", exact: true }).click();
  await visitor.page.locator(".note", { hasText: /Read from/ }).waitFor();
  await visitor.page
    .locator(".lane[data-path=out] .stop", { hasText: /IPv4 \d+ packets/ })
    .first()
    .waitFor();
  const captured = await claimStates(scene);
  for (const { spec } of captured)
    await visitor.row(`${spec.namespace}/${spec.name}`).locator(".state[data-state=enrolled]").waitFor();
  await visitor.row("shop/loner").locator(".state[data-state=outside]").waitFor();
  await visitor.page.locator("#probes", { hasText: "pass ztunnel by" }).waitFor();
  await visitor.page.mouse.move(0, 0);
  return captured.map(({ spec }) => spec.name).sort();
}

/** A picture for people who have not installed anything; smaller than what `Visitor.picture` makes. @returns its size in bytes */
export async function takePicture(path: string): Promise<number> {
  const devTools = await visitor.page.context().newCDPSession(visitor.page);
  const { data } = await devTools.send("Page.captureScreenshot", { format: "webp", quality: 90 });
  const picture = Buffer.from(data, "base64");
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, picture);
  return picture.length;
}

/** What the page complained of. */
export function complaints(): string[] {
  return visitor.complaints;
}
