// SPDX-License-Identifier: Apache-2.0
// What notices.test.ts does inside a node: pods' and the host's redirection is broken, and the time taken until the kernel has it again.
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import type { CniCall } from "../support/node/cni-runtime.ts";
import { ipRoutes, ipRules, iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const podCount = 20;
const calls: CniCall[] = [];
// nothing but an announcement can bring a look meanwhile
const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "3600" },
  onCniCall: (call) => calls.push(call),
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();
let pods: readonly Pod[] = [];

/** Starts the pods; resolves when each has been looked at since it is listened to. */
export async function fill(): Promise<void> {
  const started: Pod[] = [];
  for (let i = 0; i < podCount; i++)
    started.push(await mesh.kubelet.runPod({ namespace: "mesh", name: `pod-${i}` }));
  pods = started;
  await listening();
}

/** The last look that nobody asked for comes at most three seconds after that which found a pod captured. */
const listening = () => delay(4_000);

interface Breakage {
  readonly command: readonly string[];
  /** Resolves to whether the kernel has it as it should be. */
  readonly isRight: (pod: Pod) => Promise<boolean>;
}

const nat = (pod: Pod) => iptablesSave(pod.netns, 4, { variant: "nft" });
const sh = (script: string) => ["sh", "-ec", script];

const hasRoute = (routes: readonly string[]) => routes.some((route) => route.startsWith("local default"));

const breakages: Readonly<Record<string, Breakage>> = {
  "a chain is emptied": {
    command: ["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"],
    isRight: async (pod) => /-A ISTIO_OUTPUT .*--to-ports 15001/.test(await nat(pod)),
  },
  "our jump is taken away": {
    command: ["iptables", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
    isRight: async (pod) => (await nat(pod)).includes("-A OUTPUT -j ISTIO_OUTPUT"),
  },
  "a rule comes before our jump": {
    command: ["iptables", "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT"],
    isRight: async ({ spec: { name } }) => bypassesTold(name) > (told.get(name) ?? 0),
  },
  "the ip rule is taken away": {
    command: ["ip", "rule", "del", "pref", "32764"],
    isRight: async (pod) => (await ipRules(pod.netns, 4)).some((rule) => rule.includes("0x111/0xfff")),
  },
  "the route is taken away": {
    command: ["ip", "route", "del", "local", "default", "dev", "lo", "table", "100"],
    isRight: async (pod) => hasRoute(await ipRoutes(pod.netns, 4, 100)),
  },
  "the loopback device goes down and up": {
    command: sh("ip link set lo down && ip link set lo up"),
    isRight: async (pod) => hasRoute(await ipRoutes(pod.netns, 4, 100)),
  },
  "the loopback device goes down": {
    command: sh("ip link set lo down"),
    isRight: async (pod) =>
      hasRoute(await ipRoutes(pod.netns, 4, 100)) &&
      / lo: <[^>]*\bUP\b/.test((await pod.exec(["ip", "link", "show", "lo"])).stdout),
  },
};

/** How often people were told of what stands before a pod's rules, by the log; and how often before the pod was broken. */
function bypassesTold(name: string): number {
  return mesh.agent.lines.filter(
    ({ json }) => json?.pod === name && json.msg === "a pod's traffic may get past ztunnel",
  ).length;
}
const told = new Map<string, number>();

/** Breaks one pod after the other, two at a time. @returns how long each was not as it should be, in ms */
export async function breakOften(kind: string, times: number): Promise<number[]> {
  const took: number[] = [];
  // each its own pods: one that takes long is not broken once more by the other
  const breakInTurn = async (first: 0 | 1): Promise<void> => {
    for (let i: number = first; i < times; i += 2) {
      const startMs = performance.now();
      took.push(await breakOne(pods[i % podCount] as Pod, kind));
      // a pod that is changed all the time is looked at less often, and none of these is to be
      await delay(Math.max(0, (2 * PERIOD_MS) / podCount - (performance.now() - startMs)));
    }
  };
  await Promise.all([breakInTurn(0), breakInTurn(1)]);
  return took;
}

/** From one change of a pod to the next. */
const PERIOD_MS = 2_500;

async function breakOne(pod: Pod, kind: string): Promise<number> {
  const { command, isRight } = breakages[kind] as Breakage;
  const { name } = pod.spec;
  told.set(name, bypassesTold(name));
  await pod.exec(command);
  const startMs = performance.now();
  const wait = { timeoutMs: 20_000, intervalMs: 30 };
  await waitFor(`${name} to be right again`, () => isRight(pod), wait);
  const ms = performance.now() - startMs;
  if (kind !== "a rule comes before our jump") return ms;
  await pod.exec(["iptables", "-t", "nat", "-D", "OUTPUT", "1"]);
  await waitFor(`the end of it in ${name}`, () => lastWord(name)?.startsWith("nothing stands before"), wait);
  return ms;
}

/** What the log says last of a pod. */
function lastWord(name: string): string | undefined {
  const line = mesh.agent.lines.filter(({ json }) => json?.pod === name).at(-1);
  return line?.json?.msg as string | undefined;
}

/** Empties our chain of the host. @returns how long it was empty each time, in ms */
export async function breakHost(times: number): Promise<number[]> {
  const took: number[] = [];
  const isRight = async () =>
    /-A ISTIO_POSTRT .*SNAT/.test(await iptablesSave("/proc/self/ns/net", 4, { variant: "nft" }));
  for (let i = 0; i < times; i++) {
    await run(["iptables", "-t", "nat", "-F", "ISTIO_POSTRT"]);
    const startMs = performance.now();
    await waitFor("the host to be right again", isRight, { timeoutMs: 20_000, intervalMs: 20 });
    took.push(performance.now() - startMs);
    await delay(3_500);
  }
  return took;
}

/** Breaks a pod while no agent runs, and again after the next one has looked. @returns how long the second took to be mended, in ms */
export async function restart(): Promise<number> {
  const [pod] = pods as [Pod];
  await mesh.agent.stop();
  await pod.exec(["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady(20_000);
  const isRight = () => breakages["a chain is emptied"]?.isRight(pod);
  await waitFor("the look at the start", isRight, { timeoutMs: 20_000 });
  await listening();
  return await breakOne(pod, "a chain is emptied");
}

/** One pod's rules change as fast as they can for a while. */
export async function flood() {
  const [victim, ...rest] = pods as [Pod, ...Pod[]];
  const addsBefore = await adds(5);
  // rules that nobody minds, in one process for each some hundred changes
  const lines = Array.from(
    { length: 300 },
    (_, i) => `rule add fwmark ${i + 1000} lookup 77 pref ${i + 1000}`,
  );
  const undo = lines.map((line) => line.replace("add", "del"));
  const batch = [...lines, ...undo].join("\n");
  let isOver = false;
  let rounds = 0;
  const flooding = (async () => {
    while (!isOver) {
      await victim.exec(["ip", "-batch", "-"], { stdin: `${batch}\n` });
      rounds++;
    }
  })();
  await waitFor("the flood", () => rounds > 2);
  const cpuMs = mesh.agent.cpuMs();
  const startMs = performance.now();
  await delay(10_000);
  const agentCpuMsPerS = ((mesh.agent.cpuMs() - cpuMs) * 1_000) / (performance.now() - startMs);
  const others: number[] = [];
  for (const pod of rest.slice(0, 10)) others.push(await breakOne(pod, "a chain is emptied"));
  const during = await adds(5);
  const lost = dropsOf((await victim.exec(["cat", "/proc/net/netlink"])).stdout);
  const victimMs = await breakOne(victim, "a chain is emptied");
  isOver = true;
  await flooding;
  return { agentCpuMsPerS, lost, others, adds: during, addsBefore, victimMs };
}

/** What our plugin took for new pods, in ms. */
async function adds(count: number): Promise<number[]> {
  calls.length = 0;
  for (let i = 0; i < count; i++) {
    const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `add-${performance.now().toFixed()}` });
    await mesh.kubelet.deletePod(pod);
  }
  return calls.filter(({ type, verb }) => type === "ambient-cni" && verb === "ADD").map(({ ms }) => ms);
}

/** Announcements that no queue of the namespace had room for. Source: linux net/netlink/af_netlink.c, netlink_native_seq_show */
function dropsOf(table: string): number {
  const rows = table.trim().split("\n").slice(1);
  return rows.reduce((sum, row) => sum + Number(row.trim().split(/\s+/)[8] ?? 0), 0);
}

/** A pod comes, is listened to and goes while something announces itself in it. */
export async function deleted(): Promise<{
  isHeard: boolean;
  isGone: boolean;
  leftFds: number;
  warnings: string[];
}> {
  const before = await fdsAtRest();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "short" });
  await listening();
  const isHeard = hears((await pod.exec(["cat", "/proc/net/netlink"])).stdout);
  // what is in a namespace ends with it: the other end of this pair is in ours
  const name = "outlives";
  await run(["ip", "link", "add", name, "type", "veth", "peer", "name", "in0", "netns", pod.netns]);
  await pod.exec(["ip", "rule", "add", "fwmark", "7", "lookup", "77"]);
  // Source: containerd 2.1.9, whose DELs begin with the loopback network's: under load ours comes much later than the announcement
  mesh.kubelet.terminate(pod);
  await pod.exec(["ip", "link", "set", "lo", "down"]);
  // an announcement is answered within a second
  await delay(1_000);
  await mesh.kubelet.deletePod(pod);
  const isThere = async () => (await readFile("/proc/net/dev", "utf8")).includes(`${name}:`);
  const isGone = await waitFor("the namespace to end", async () => !(await isThere()), { timeoutMs: 10_000 });
  const warnings = mesh.agent.lines.flatMap(({ text, json }) =>
    json?.level === "warn" && json.uid === pod.uid ? [text] : [],
  );
  return { isHeard, isGone, leftFds: (await fdsAtRest()) - before, warnings };
}

/** A pod that ended by itself: nobody says that it is to be deleted before the runtime takes its "lo" down. @returns what people were told */
export async function completed(): Promise<string[]> {
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "job" });
  await listening();
  await pod.exec(["ip", "link", "set", "lo", "down"]);
  await delay(200);
  await mesh.kubelet.deletePod(pod);
  return mesh.agent.lines.flatMap(({ text, json }) =>
    json?.level === "warn" && json.uid === pod.uid ? [text] : [],
  );
}

/** The fewest descriptors of the agent in some seconds: connections come and go. */
async function fdsAtRest(): Promise<number> {
  const counts: number[] = [];
  for (let i = 0; i < 30; i++) {
    counts.push(mesh.agent.openFds());
    await delay(100);
  }
  return Math.min(...counts);
}

/** Whether somebody hears of nf_tables and of routes here. Source: linux net/netlink/af_netlink.c, netlink_native_seq_show */
function hears(table: string): boolean {
  const rows = table.split("\n").map((row) => row.trim().split(/\s+/));
  return ["0", "12"].every((protocol) =>
    rows.some((row) => row[1] === protocol && /[1-9a-f]/.test(row[3] ?? "")),
  );
}
