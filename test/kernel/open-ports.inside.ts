// SPDX-License-Identifier: Apache-2.0
// What open-ports.test.ts does inside a node: a pod of one tenant asks every port of the agent about those of another.
import { join } from "node:path";
import { DashboardProcess } from "../support/node/dashboard-process.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { ask } from "./port-asker.ts";

const mesh = await MeshNode.start();
const { kubelet } = mesh;
kubelet.createNamespace("tenant-red", { "istio.io/dataplane-mode": "ambient" });
kubelet.createNamespace("tenant-blue");
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();
const secret = await kubelet.runPod({
  namespace: "tenant-red",
  name: "payroll-0",
  labels: { app: "payroll" },
});
const asker = await kubelet.runPod({ namespace: "tenant-blue", name: "curious" });
await waitFor("the capture", () => mesh.agent.text.includes("pod enrolled"));
const module = await asker.startModule<typeof import("./port-asker.ts")>(
  join(import.meta.dirname, "port-asker.ts"),
);

/** What a pod's words must not be found in the answers of: everything by which another pod is known. */
export function words(): string[] {
  return ["tenant-red", "payroll", secret.uid, ...secret.ips, secret.netns, secret.sandbox.id];
}

/** TCP ports that the agent listens on, with their addresses, as ss prints them. */
export async function listeners(): Promise<{ address: string; port: number }[]> {
  const { stdout } = await run(["ss", "-Hltnp"]);
  const own = stdout.split("\n").filter((line) => line.includes(`pid=${mesh.agent.pid},`));
  return own.map((line) => {
    const local = line.split(/\s+/)[3] ?? "";
    const colon = local.lastIndexOf(":");
    return { address: local.slice(0, colon), port: Number(local.slice(colon + 1)) };
  });
}

const ordinary = ["GET / HTTP/1.1", "HEAD /metrics HTTP/1.1", "OPTIONS * HTTP/1.1", "TRACE / HTTP/1.1"];
const paths = [
  "/metrics",
  "/healthz",
  "/readyz",
  "/readyz?verbose",
  "/api/v1/pods",
  "/api/v1/pods/",
  "/api/v1/node",
  "/api/v1/log-levels",
  "/api/v1/pods/tenant-red/payroll-0",
  "/api/v1/pods/tenant-red/payroll-0/rules",
  "//api/v1/pods",
  "/%61pi/v1/pods",
  "/metrics/../api/v1/pods",
  "/events",
  "/dashboard.js",
  "/debug/pprof",
  "/config_dump",
];

/** As the pod has it: its gateway. */
async function nodeAddress(): Promise<string> {
  const { stdout } = await asker.exec(["ip", "-4", "route", "show", "default"]);
  return /via (\S+)/.exec(stdout)?.[1] ?? "";
}

/** Each answer of each port, by the question; from the pod, at the node's address. */
export async function answers(): Promise<Record<string, string>> {
  const host = await nodeAddress();
  const found: Record<string, string> = {};
  for (const { port } of await listeners()) {
    for (const line of [...ordinary, ...paths.map((path) => `GET ${path} HTTP/1.1`)]) {
      // a name that would pass for the node's own is a header that anybody can write
      for (const name of ["node-1", "127.0.0.1"])
        found[`${port} ${line} (${name})`] = await module.call.ask({
          host,
          port,
          bytes: `${line}\r\nHost: ${name}\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n`,
        });
    }
    found[`${port} garbage`] = await module.call.ask({
      host,
      port,
      bytes: "\u0016\u0003\u0001 payload\r\n\r\n",
    });
  }
  return found;
}

/** While somebody looks at the page: what a pod is answered at its port, and what a process of the host network is without its key. */
export async function besideThePage(): Promise<{ pod: string; host: string }> {
  const dashboard = await DashboardProcess.start();
  const bytes = "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
  try {
    const pod = await module.call.ask({ host: await nodeAddress(), port: 15015, bytes });
    return { pod, host: await ask({ host: "127.0.0.1", port: 15015, bytes }) };
  } finally {
    await dashboard.stop();
  }
}

/** What readiness says to the node itself. */
export async function ownReadiness(): Promise<string> {
  return await (await fetch("http://127.0.0.1:8000/readyz")).text();
}

/** Another agent, whose settings name the other tenant and cannot be followed: it works, and is not ready. */
export async function withFaultySetting(): Promise<void> {
  await mesh.agent.stop();
  // it does not get ready
  mesh.startAgent({ HOST_PROBE_SNAT_IP: "payroll" }).catch(() => {});
  await waitFor(
    "readiness to say why",
    () =>
      ownReadiness().then(
        (text) => /^not ready: settings: [^\n]*is used instead\n$/.test(text),
        () => false,
      ),
    { timeoutMs: 15_000, intervalMs: 50 },
  );
}
