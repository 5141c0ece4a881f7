// SPDX-License-Identifier: Apache-2.0
// What node.test.ts does inside a node: pods made by a CNI chain, and questions about them.
import { readdir, readFile } from "node:fs/promises";
import type { CniCall } from "../support/node/cni-runtime.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { bridgeConflist, type PluginConfig } from "../support/node/conflist.ts";
import { requireNode } from "../support/node/inside.ts";
import {
  conntrackEntries,
  ipRules,
  iptablesSave,
  linkNames,
  listeningSockets,
  rulesWithHandles,
} from "../support/node/kernel.ts";
import { type Pod, type PodApp, PodRuntime } from "../support/node/pod.ts";
import type { SeenRequest } from "../support/node/pod-app.ts";
import { RuleMonitor } from "../support/node/rule-monitor.ts";

const node = requireNode();
const calls: CniCall[] = [];
const cni = new CniRuntime({ onCall: (call) => calls.push(call) });
const pods = new Map<string, { pod: Pod; runtime: PodRuntime; app?: PodApp }>();

export async function addPod(
  name: string,
  chained: PluginConfig[] = [],
): Promise<{ uid: string; ips: string[] }> {
  const network = bridgeConflist({ leaseDir: `${node.scratch}/ipam`, chained });
  const runtime = new PodRuntime({ cni, network, cgroupFolder: node.cgroupFolder });
  const pod = await runtime.runPodSandbox({ namespace: "shop", name });
  pods.set(name, { pod, runtime });
  return { uid: pod.uid, ips: [...pod.ips] };
}

export async function serve(name: string, port: number): Promise<void> {
  const app = await appOf(name);
  await app.call.serveHttp(port);
}

export async function request(from: string, host: string, port: number): Promise<SeenRequest> {
  return (await appOf(from)).call.get({ host, port, body: "hello" });
}

export async function cgroupLines(name: string): Promise<string> {
  return readFile(`/proc/${entry(name).pod.pid}/cgroup`, "utf8");
}

export async function appCgroupLines(name: string): Promise<string> {
  return readFile(`/proc/${(await appOf(name)).pid}/cgroup`, "utf8");
}

export async function listening(name: string): Promise<string[]> {
  return (await listeningSockets(entry(name).pod.netns)).map(
    (socket) => `${socket.protocol} ${socket.address} ${socket.port}`,
  );
}

export async function conntrack(name: string): Promise<string[]> {
  return conntrackEntries(entry(name).pod.netns);
}

export async function rules(name: string): Promise<string[]> {
  return ipRules(entry(name).pod.netns, 4);
}

export async function check(name: string): Promise<void> {
  const { pod, runtime } = entry(name);
  await cni.check(runtime.network, pod.sandbox, { netns: pod.netns });
}

export async function deletePod(name: string): Promise<void> {
  await entry(name).pod.delete();
}

export function takeCalls(): {
  verb: string;
  type: string;
  netns: string;
  hasPrevResult: boolean;
  args: string;
  error: string;
}[] {
  return calls.splice(0).map((call) => ({
    verb: call.verb,
    type: call.type,
    netns: call.env.CNI_NETNS ?? "unset",
    hasPrevResult: "prevResult" in (JSON.parse(call.stdin) as object),
    args: call.env.CNI_ARGS ?? "unset",
    error: call.error ?? "",
  }));
}

/** What is left in the node after all pods are gone, except the bridge. */
export async function remains(): Promise<{
  links: string[];
  netns: string;
  podFolders: number;
  leases: string;
}> {
  const pods = await readdir(`${node.cgroupFolder}/kubepods/burstable`, { withFileTypes: true });
  return {
    links: (await linkNames("/proc/self/ns/net")).filter((name) => name.startsWith("veth")),
    netns: (await readdir("/run/netns")).join(" "),
    podFolders: pods.filter((entry) => entry.isDirectory()).length,
    leases: (await readdir(`${node.scratch}/ipam/podnet`))
      .filter((name) => /^[\dfa-f]+[.:]/.test(name))
      .join(" "),
  };
}

/** Adds one rule to a pod while a monitor watches; returns what it saw, and the rules by handle before and after. */
export async function watchOneRule(
  name: string,
): Promise<{ quiet: string[]; changes: string[]; same: boolean; save: string }> {
  const { pod } = entry(name);
  await pod.exec(["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT"]);
  const before = await rulesWithHandles(pod.netns);
  const monitor = await RuleMonitor.start(pod.netns);
  const quiet = monitor.changes;
  await pod.exec(["iptables", "-t", "nat", "-D", "OUTPUT", "1"]);
  await pod.exec(["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT"]);
  await monitor.untilLine("a rule", (line) => line.text.startsWith("add rule"));
  await monitor.kill();
  return {
    quiet,
    changes: monitor.changes,
    same: before === (await rulesWithHandles(pod.netns)),
    save: await iptablesSave(pod.netns, 4),
  };
}

function entry(name: string): { pod: Pod; runtime: PodRuntime; app?: PodApp } {
  const found = pods.get(name);
  if (found === undefined) throw new Error(`no pod "${name}"`);
  return found;
}

async function appOf(name: string): Promise<PodApp> {
  const found = entry(name);
  found.app ??= await found.pod.startApp();
  return found.app;
}
