// SPDX-License-Identifier: Apache-2.0
// What real-agent.test.ts does inside a node: a real agent is asked about real pods, whole and hurt.
import { readFileSync } from "node:fs";
import { startFleet } from "../kernel/verified-fleet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { ask } from "./state-client.ts";

const socket = { socketPath: "/var/run/istio-cni/state.sock" };
const port = { port: 15014 };

// nobody repairs what is hurt while we look
const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "3600", KERNEL_NOTICES: "false" },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace("fleet");
await mesh.startAgent();
await mesh.startZtunnel();
const web = await mesh.kubelet.runPod({ namespace: "mesh", name: "web" });
await mesh.kubelet.runPod({ namespace: "plain", name: "outsider" });
await waitFor(
  "the annotation",
  () => mesh.kubelet.annotation(web, "ambient.istio.io/redirection") === "enabled",
);

type Json = Record<string, unknown>;

/** The answer to a question on the socket. */
export async function answer(path: string): Promise<{ status: number; json: Json }> {
  const { status, json } = await ask(socket, path);
  return { status, json: json() };
}

/** The metrics, from the port. */
export async function metrics(): Promise<string> {
  return (await ask(port, "/metrics")).text;
}

/** Changes levels. @returns the answer's status, and how many lines the agent then writes */
export async function changeLevels(): Promise<{ status: number; debugLines: number }> {
  const change = { method: "PUT", body: '{"scopes":{"enrolment":"debug"}}' };
  const { status } = await ask(socket, "/api/v1/log-levels", change);
  const debugLines = (): number => mesh.agent.lines.filter(({ json }) => json?.level === "debug").length;
  const before = debugLines();
  mesh.kubelet.labelNamespace("mesh", { "istio.io/dataplane-mode": "ambient", touched: "yes" });
  await waitFor("a debug line", () => debugLines() > before);
  return { status, debugLines: debugLines() - before };
}

/** Hurts the pod, asks about it, heals it again. @returns what was answered meanwhile */
export async function hurt(commands: { hurt: readonly string[]; heal: readonly string[] }): Promise<Json> {
  await web.exec([...commands.hurt] as [string, ...string[]]);
  try {
    return (await answer("/api/v1/pods/mesh/web")).json;
  } finally {
    await web.exec([...commands.heal] as [string, ...string[]]);
  }
}

/** Stops ztunnel and tells what is said of the pod then. */
export async function withoutZtunnel(): Promise<{ pod: Json; node: Json; metrics: string }> {
  await mesh.ztunnel.kill();
  const connected = async (): Promise<number> => {
    const { connections } = (await answer("/api/v1/node")).json.ztunnel as { connections: unknown[] };
    return connections.length;
  };
  await waitFor("the agent to notice", async () => (await connected()) === 0);
  const seen = {
    pod: (await answer("/api/v1/pods/mesh/web")).json,
    node: (await answer("/api/v1/node")).json,
    metrics: await metrics(),
  };
  await mesh.startZtunnel();
  await mesh.ztunnel.waitForReady();
  return seen;
}

/** Processor time of the agent. Source: proc_pid_stat(5), fields 14 and 15 in ticks of 10 ms. */
function cpuMs(): number {
  const stat = readFileSync(`/proc/${mesh.agent.pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return 10 * (Number(fields[11]) + Number(fields[12]));
}

function rssMb(): number {
  const status = readFileSync(`/proc/${mesh.agent.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1000;
}

/** What asking costs with so many more pods in the mesh. */
export async function costs(pods: number): Promise<{
  scrapeCpuMs: number;
  listMs: number;
  nodeMs: number;
  podMs: number;
  rssBeforeMb: number;
  rssMb: number;
  captured: number;
}> {
  await startFleet(mesh, "fleet", pods);
  mesh.kubelet.labelNamespace("fleet", { "istio.io/dataplane-mode": "ambient" });
  const captured = async (): Promise<number> => {
    const list = (await answer("/api/v1/pods")).json.pods as { state: string }[];
    return list.filter(({ state }) => state === "enrolled").length;
  };
  await waitFor("the fleet", async () => (await captured()) >= pods + 1, {
    timeoutMs: 60_000,
    intervalMs: 500,
  });
  const rssBeforeMb = rssMb();
  for (let i = 0; i < 20; i++) await metrics();
  const rounds: number[] = [];
  // the best of a few: a busy machine only errs upwards, and ticks are coarse
  for (let round = 0; round < 3; round++) {
    const before = cpuMs();
    for (let i = 0; i < 60; i++) await metrics();
    rounds.push((cpuMs() - before) / 60);
  }
  const timed = async (path: string): Promise<number> => {
    const startMs = performance.now();
    await answer(path);
    return performance.now() - startMs;
  };
  return {
    scrapeCpuMs: Math.min(...rounds),
    listMs: await timed("/api/v1/pods"),
    nodeMs: await timed("/api/v1/node"),
    podMs: await timed("/api/v1/pods/mesh/web"),
    rssBeforeMb,
    rssMb: rssMb(),
    captured: await captured(),
  };
}
