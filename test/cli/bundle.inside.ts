// SPDX-License-Identifier: Apache-2.0
// What bundle.test.ts does inside a node: what users start, dist/ambient-cni.js, as agent, as the dashboard and as each command.
import { readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { firstEvent } from "../dashboard/first-event.ts";
import { AGENT_BUNDLE } from "../support/node/agent-process.ts";
import { DashboardProcess } from "../support/node/dashboard-process.ts";
import { ruleCounters } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const netDir = "/run/node/cni/net.d";
const settings = {
  INSTALL_CNI_PLUGIN: "true",
  MOUNTED_CNI_NET_DIR: netDir,
  MOUNTED_CNI_BIN_DIR: "/run/node/cni/bin",
};

const mesh = await MeshNode.start({
  // nobody repairs what is hurt while we look
  agentEnv: { ...settings, RECONCILE_INTERVAL_SECONDS: "3600", KERNEL_NOTICES: "false" },
});
for (const folder of [settings.MOUNTED_CNI_BIN_DIR, netDir]) await mkdir(folder, { recursive: true });
await writeFile(join(netDir, "10-podnet.conflist"), JSON.stringify(mesh.plainPods.network));
mesh.kubelet.createNamespace("shop", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await Promise.all([mesh.startAgent(), mesh.startZtunnel()]);
await mesh.ztunnel.waitForReady();
const web = await mesh.kubelet.runPod({ namespace: "shop", name: "web-0", labels: { app: "web" } });
await mesh.kubelet.runPod({ namespace: "plain", name: "outsider" });
await waitFor(
  "the annotation",
  () => mesh.kubelet.annotation(web, "ambient.istio.io/redirection") === "enabled",
);

const dashboard = await DashboardProcess.start();

/** How a command ended. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command as an operator on the node does; `env` on top of the agent's settings. */
export async function command(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  const own = { ...settings, KUBECONFIG: "/run/node/kubeconfig", NODE_NAME: "node-1", ...env };
  return await run([process.execPath, AGENT_BUNDLE, ...args], { env: cleanEnv(own), mayFail: true });
}

/** How willingly the kernel ends the page's process, and the agent's, when memory runs out. */
export function oomScores(): { dashboard: number; agent: number } {
  const of = (pid: number): number => Number(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8"));
  return { dashboard: of(dashboard.pid), agent: of(mesh.agent.pid) };
}

/** A file of the page. */
export async function file(path: string): Promise<{ status: number; type: string; text: string }> {
  const response = await fetch(dashboard.at(path));
  const type = response.headers.get("content-type") ?? "";
  return { status: response.status, type, text: await response.text() };
}

/** States of the pods as the page's live stream first says, and the chain. */
export async function live(): Promise<{ states: Record<string, string>; node: string }> {
  const { node, pods } = await firstEvent(dashboard.url);
  return {
    node: node.node,
    states: Object.fromEntries(pods.map(({ ns, name, state }) => [`${ns}/${name}`, state])),
  };
}

/** The captured pod's rules of IPv4, as the kernel prints them. */
export async function kernelRules(): Promise<string[]> {
  return [...(await ruleCounters(web.netns, 4)).keys()];
}

/** Takes a jump away, lets `verify` look, and puts it back. */
export async function verifyHurt(): Promise<Outcome> {
  const rule = ["OUTPUT", "-j", "ISTIO_OUTPUT"];
  await web.exec(["iptables", "-t", "nat", "-D", ...rule]);
  try {
    return await command(["verify", "--json"]);
  } finally {
    await web.exec(["iptables", "-t", "nat", "-A", ...rule]);
  }
}
