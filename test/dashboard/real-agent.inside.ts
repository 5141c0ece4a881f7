// SPDX-License-Identifier: Apache-2.0
// What real-agent.test.ts does inside a node: a browser looks at a real agent, with real pods in every state.

import { DashboardProcess } from "../support/node/dashboard-process.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { iptablesCounters } from "./rule-counters.ts";
import { startBrowser, Visitor } from "./visitor.ts";

const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "3600", KERNEL_NOTICES: "false" },
});
const { kubelet } = mesh;
kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();
const browserStarts = startBrowser();
const web = await kubelet.runPod({ namespace: "mesh", name: "web" });
const peer = await kubelet.runPod({ namespace: "plain", name: "peer" });
const broken = await kubelet.runPod({ namespace: "plain", name: "broken" });
const refused = await kubelet.runPod({ namespace: "plain", name: "refused" });
const webApp = await web.startApp();
const peerApp = await peer.startApp();
await webApp.call.serveHttp(8080);
await peerApp.call.serveHttp(8080);
// a chain of iptables' name that no packet passes where ours do: nobody can write our rules behind it
await broken.exec(["nft", "add table ip nat; add chain ip nat OUTPUT { type nat hook input priority 100; }"]);
// ztunnel has the one before its rules are tried, and refuses the other
kubelet.labelPod(broken, { "istio.io/dataplane-mode": "ambient" });
await waitFor("the rules to fail", () => mesh.agent.text.includes("does not hang where iptables hangs it"));
await mesh.ztunnel.setFaults("nack=not today");
kubelet.labelPod(refused, { "istio.io/dataplane-mode": "ambient" });
const browser = await browserStarts;
const dashboard = await DashboardProcess.start();
const { url } = dashboard;
const visitor = await Visitor.open(browser, url);

/** States that the page shows, by pod. */
export async function states(): Promise<Record<string, string>> {
  const rows = await visitor.page.locator("#pod-rows tr").all();
  const pairs = rows.map(async (row) => [
    await row.getByRole("link").textContent(),
    await row.locator(".state").textContent(),
  ]);
  return Object.fromEntries(await Promise.all(pairs)) as Record<string, string>;
}

/** Waits until the page shows these states. */
export async function untilStates(wanted: Readonly<Record<string, string>>): Promise<Record<string, string>> {
  const text = JSON.stringify(wanted);
  let seen: Record<string, string> = {};
  await waitFor(
    `the page to show ${text}`,
    async () => {
      seen = await states();
      return JSON.stringify(Object.fromEntries(Object.entries(seen).sort())) === text;
    },
    { timeoutMs: 10_000, intervalMs: 50 },
  ).catch((error: unknown) => {
    throw new Error(`the page shows ${JSON.stringify(seen)}`, { cause: error });
  });
  return seen;
}

/** Opens a pod and waits until its rules are read. @returns the section's text */
export async function open(pod: string): Promise<string> {
  await visitor.page.getByRole("link", { name: pod, exact: true }).click();
  await visitor.page.locator(".note", { hasText: /Read from|not in the mesh|Not read/ }).waitFor();
  await visitor.page.locator(".checks li, .facts dd").first().waitFor();
  return (await visitor.page.locator("#detail").textContent()) ?? "";
}

/** Texts of the lanes, by title, once they are drawn. */
export async function lanes(): Promise<Record<string, string[]>> {
  await visitor.page.locator(".lane").first().waitFor();
  const found: Record<string, string[]> = {};
  for (const lane of await visitor.page.locator(".lane").all())
    found[(await lane.locator("h4").textContent()) ?? ""] = await lane.locator(".stop").allTextContents();
  return found;
}

interface Counted {
  readonly page: number;
  readonly kernel: number;
}

/** The counter of the rule that sends the pod's own connections to ztunnel: on the page, and as the kernel has it. */
async function outbound(): Promise<Counted> {
  const stop = visitor.page.locator(".lane[data-path=out] .stop", { hasText: "REDIRECT 15001" });
  const text = (await stop.locator(".count").first().textContent()) ?? "";
  const page = Number(/IPv4 ([\d,]+) packet/.exec(text)?.[1]?.replaceAll(",", ""));
  return { page, kernel: await iptablesCounters(web, { table: "nat", target: "15001" }) };
}

/** Connects out of the open pod and waits until the page shows the kernel's number. */
export async function sendTraffic(
  connections: number,
): Promise<{ before: Counted; after: Counted; ms: number }> {
  const before = await outbound();
  for (let index = 0; index < connections; index++)
    await webApp.call.get({ host: peer.ip4, port: 8080, body: "counted" });
  const startMs = performance.now();
  let after = await outbound();
  await waitFor("the page to show the kernel's counter", async () => {
    after = await outbound();
    return after.page === after.kernel && after.page >= before.page + connections;
  });
  return { before, after, ms: performance.now() - startMs };
}

/** From a change in the cluster, through agent, kernel and ztunnel, to the page; the agent's own word for comparison. */
export async function captureLive(): Promise<{ total: number; afterAgent: number }> {
  await mesh.ztunnel.setFaults();
  const pod = await kubelet.runPod({ namespace: "plain", name: "late" });
  await visitor.row("plain/late").waitFor();
  // the clock of the machine is one for the agent, the browser and us
  const startMs = Date.now();
  kubelet.labelPod(pod, { "istio.io/dataplane-mode": "ambient" });
  await visitor.row("plain/late").locator(".state[data-state=enrolled]").waitFor();
  const shownMs = Date.now();
  const response = await fetch(dashboard.at("/api/v1/pods/plain/late"));
  const report = (await response.json()) as { transitions: { at: string; to: string }[] };
  const enrolledMs = Date.parse(report.transitions.find(({ to }) => to === "enrolled")?.at ?? "");
  return { total: shownMs - startMs, afterAgent: shownMs - enrolledMs };
}

/** Deletes a pod. @returns how long the page still showed it, after the API server had taken it away */
export async function deleteLive(): Promise<number> {
  const pod = [...mesh.pods.pods].find(({ spec }) => spec.name === "late");
  if (pod === undefined) throw new Error('no pod "late"');
  await kubelet.deletePod(pod);
  const startMs = performance.now();
  await visitor.row("plain/late").waitFor({ state: "detached" });
  return performance.now() - startMs;
}

/** Takes a rule out of the open pod behind the agent's back. @returns what the page says about it */
export async function hurt(): Promise<{ lane: string[]; checks: string[] }> {
  await web.exec(["iptables", "-t", "nat", "-D", "ISTIO_OUTPUT", "1"]);
  await web.exec([
    "iptables",
    "-t",
    "nat",
    "-I",
    "ISTIO_OUTPUT",
    "-p",
    "tcp",
    "--dport",
    "9999",
    "-j",
    "RETURN",
  ]);
  await visitor.page.locator(".stop[data-state=missing]").waitFor();
  await visitor.page.locator(".checks li[data-right=false]").first().waitFor();
  await visitor.picture("real-hurt");
  return {
    lane: await visitor.page
      .locator(".stop[data-state=missing] .title, .stop[data-state=foreign]")
      .allTextContents(),
    checks: await visitor.page.locator(".checks li[data-right=false]").allTextContents(),
  };
}

/** Text of a part of the page. */
export async function text(selector: string): Promise<string> {
  return (await visitor.page.locator(selector).textContent()) ?? "";
}

export async function picture(name: string): Promise<void> {
  await visitor.picture(name);
}

/** What the page complained of, or did that it must not do. */
export function complaints(): string[] {
  return visitor.complaints;
}

/** Status of a request to the dashboard's port at an address of the node that is not the loopback's. */
export async function fromOutside(): Promise<string> {
  // the bridge's address: what the pods have as their gateway
  const { stdout } = await peer.exec(["ip", "-4", "route", "show", "default"]);
  const gateway = /via (\S+)/.exec(stdout)?.[1] ?? "";
  return await peerApp.call.get({ host: gateway, port: 15015 }).then(
    () => `answered at ${gateway}`,
    (error: Error) => error.message,
  );
}

/** What a page that is open on a pod costs over a while: CPU time in ms, and resident memory. */
export async function costs(
  ms: number,
): Promise<Record<"agent" | "dashboard", { cpuMs: number; rssMb: number }>> {
  const processes = { agent: mesh.agent, dashboard };
  const before = { agent: mesh.agent.cpuMs(), dashboard: dashboard.cpuMs() };
  const endMs = performance.now() + ms;
  await waitFor("the time to pass", () => performance.now() >= endMs, {
    timeoutMs: ms + 1000,
    intervalMs: 100,
  });
  const cost = (name: "agent" | "dashboard") => ({
    cpuMs: processes[name].cpuMs() - before[name],
    rssMb: Math.round(processes[name].rssBytes() / 1e6),
  });
  return { agent: cost("agent"), dashboard: cost("dashboard") };
}

/** Kills the agent under the page and starts the next one. @returns what the page says while there is none, and afterwards */
export async function restartAgent(): Promise<string[]> {
  await visitor.page.keyboard.press("Escape");
  await visitor.page.locator("#detail").waitFor({ state: "hidden" });
  await mesh.agent.kill();
  await visitor.page.locator("#link[data-link=lost]").waitFor();
  const said = [await text("#link-text")];
  await mesh.startAgent();
  await visitor.page.locator("#link[data-link=live]").waitFor();
  await visitor.row("mesh/web").locator(".state[data-state=enrolled]").waitFor();
  return [...said, await text("#link-text"), ...dashboard.lines.slice(1).map((line) => line.text)];
}
