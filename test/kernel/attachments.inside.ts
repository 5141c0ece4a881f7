// SPDX-License-Identifier: Apache-2.0
// What attachments.test.ts does inside a node: calls about attachments as runtimes and Multus make them, agents that come and
// go, and pods without a process.
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import type { SandboxIdentity } from "../support/node/cni-runtime.ts";
import { ambientPlugin, bridgeConflist, type Conflist } from "../support/node/conflist.ts";
import { ipRules, iptablesSave } from "../support/node/kernel.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import type { LogLine } from "../support/node/managed-process.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { type MetaPlugin, type Pod, PodRuntime } from "../support/node/pod.ts";
import { RuleMonitor } from "../support/node/rule-monitor.ts";
import { cleanEnv, type RunResult, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { monotonicMs } from "../support/ztunnel/event-log.ts";

const modeLabel = "istio.io/dataplane-mode";
const statusAnnotation = "ambient.istio.io/redirection";
const sandboxFolder = "/var/run/istio-cni/sandboxes";
const reconcileMs = 3_000;

const mesh = await MeshNode.start({
  plugin: { agentWaitSeconds: 5 },
  agentEnv: {
    RECONCILE_INTERVAL_SECONDS: String(reconcileMs / 1000),
    // looks are waited for that nothing but the clock brings
    KERNEL_NOTICES: "false",
    EXCLUDE_NAMESPACES: "excluded",
    LOG_LEVEL: "debug",
  },
});
mesh.kubelet.createNamespace("mesh", { [modeLabel]: "ambient" });
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace("excluded", { [modeLabel]: "ambient" });
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 50 });
await mesh.ztunnel.waitForReady();

/** Our entry of the network that all pods have, alone: the other entries would fail over what is asked here. */
const podnet: Conflist = { ...mesh.pods.network, plugins: mesh.pods.network.plugins.slice(1) };
let counter = 0;

function nextName(): string {
  counter += 1;
  return `pod-${counter}`;
}

/** A pod that runs, and that says that it is captured. */
async function runCaptured(runner: Kubelet = mesh.kubelet): Promise<Pod> {
  const pod = await runner.runPod({ namespace: "mesh", name: nextName() });
  await waitFor("the annotation", () => annotationOf(pod) === "enabled");
  return pod;
}

function annotationOf(pod: Pod): string | undefined {
  return mesh.kubelet.annotation(pod, statusAnnotation);
}

/** A pod's object without a sandbox and without an address. */
function createObject(namespace = "mesh"): { uid: string; namespace: string; name: string } {
  const named = { uid: randomUUID(), namespace, name: nextName() };
  mesh.api.put("pods", {
    metadata: named,
    spec: { nodeName: "node-1", serviceAccountName: "default", containers: [{ name: "app", image: "app" }] },
    status: { phase: "Pending" },
  });
  return named;
}

async function isCaptured(pod: Pod): Promise<boolean> {
  return await claimCaptured(pod).then(
    () => true,
    () => false,
  );
}

async function isHeld({ uid }: { readonly uid: string }): Promise<boolean> {
  return (await mesh.ztunnel.stats()).workloads[uid] !== undefined;
}

/** Waits until the agent has looked at a pod so often from a line of its log on, each time in vain. */
async function untilLookedAt(pod: { readonly uid: string }, times: number, from = 0): Promise<void> {
  const isLook = (text: string): boolean => text.includes(`"uid":"${pod.uid}","outcome":"enrolled"`);
  const looks = (): number => mesh.agent.lines.slice(from).filter(({ text }) => isLook(text)).length;
  await waitFor(`${times} looks at the pod`, () => looks() >= times, { timeoutMs: 20_000, intervalMs: 20 });
}

/** What the agent has to say that is not for those who debug it; the probes' way is looked at whenever it likes. */
function loudLines(from: number): string[] {
  return mesh.agent.lines
    .slice(from)
    .flatMap(({ json, text }) => (json?.level === "debug" || json?.scope === "probes" ? [] : [text]));
}

/** What the agent of now has warned of, but for its self-test. */
function warnings(): string[] {
  const isWarning = ({ json }: LogLine): boolean => json?.level === "warn" || json?.level === "error";
  return mesh.agent.lines
    .filter((line) => isWarning(line) && line.json?.check === undefined)
    .map(({ text }) => text.replace(/^.*?"scope":/, '{"scope":'));
}

/** What a call leaves out is not said at all. */
interface Call {
  readonly verb: "ADD" | "DEL" | "CHECK" | "GC";
  readonly network?: string;
  readonly container?: string;
  readonly ifName?: string;
  readonly netns?: string;
  readonly pod?: { readonly uid?: string; readonly namespace: string; readonly name: string };
  /** Further fields of the configuration, such as the lists of a GC. */
  readonly fields?: Readonly<Record<string, unknown>>;
}

/** One call of our launcher, with all that it printed. */
async function call(what: Call): Promise<RunResult> {
  const { verb, network = "podnet", container, ifName, netns, pod, fields = {} } = what;
  const config = { cniVersion: "1.0.0", name: network, ...ambientPlugin({ agentWaitSeconds: 5 }), ...fields };
  const args =
    pod && `K8S_POD_NAMESPACE=${pod.namespace};K8S_POD_NAME=${pod.name};K8S_POD_UID=${pod.uid ?? ""}`;
  const env = cleanEnv({
    CNI_COMMAND: verb,
    CNI_PATH: PLUGIN_DIR,
    ...(container === undefined ? {} : { CNI_CONTAINERID: container }),
    ...(ifName === undefined ? {} : { CNI_IFNAME: ifName }),
    ...(netns === undefined ? {} : { CNI_NETNS: netns }),
    ...(args === undefined ? {} : { CNI_ARGS: args }),
  });
  return await run([join(PLUGIN_DIR, "ambient-cni")], { env, stdin: JSON.stringify(config), mayFail: true });
}

/** A call that must succeed without a word. */
async function callQuietly(what: Call): Promise<void> {
  assert.deepEqual(await call(what), { code: 0, stdout: "", stderr: "" }, JSON.stringify(what));
}

/** The lists of a GC, under the name of today and the one of before. */
function keeping(valid: unknown): { fields: Record<string, unknown> } {
  return { fields: { "cni.dev/valid-attachments": valid, "cni.dev/attachments": valid } };
}

function attachmentOf(pod: Pod, ifName = "eth0"): { containerID: string; ifname: string } {
  return { containerID: pod.sandbox.id, ifname: ifName };
}

function namedBy(pod: Pod, ifName: string): Required<Omit<Call, "verb" | "network" | "fields">> {
  return { container: pod.sandbox.id, ifName, netns: pod.netns, pod: pod.sandbox };
}

/** Sees to it that nothing happens to pods: no rule is written in them, ztunnel hears nothing of them, they stay captured. */
class Quiet {
  readonly #pods: readonly Pod[];
  readonly #monitors: readonly RuleMonitor[];
  readonly #eventsBefore = mesh.ztunnel.events.length;
  readonly #statuses: string[] = [];
  readonly #unsubscribe: () => void;

  private constructor(pods: readonly Pod[], monitors: readonly RuleMonitor[]) {
    this.#pods = pods;
    this.#monitors = monitors;
    this.#unsubscribe = mesh.api.store.subscribe(({ resource, object }) => {
      const { uid = "", annotations } = object.metadata;
      if (resource === "pods" && pods.some((pod) => pod.uid === uid))
        this.#statuses.push(annotations?.[statusAnnotation] ?? "none");
    });
  }

  static async start(...pods: readonly Pod[]): Promise<Quiet> {
    return new Quiet(pods, await Promise.all(pods.map(({ netns }) => RuleMonitor.start(netns))));
  }

  /** @param options.isSameZtunnel it has not been replaced meanwhile, nor was the agent */
  async claim(options: { readonly isSameZtunnel?: boolean } = {}): Promise<void> {
    for (const monitor of this.#monitors) {
      await monitor.stop();
      assert.deepEqual(monitor.changes, [], "a rule was written");
    }
    this.#unsubscribe();
    assert.deepEqual(
      this.#statuses.filter((status) => status !== "enabled"),
      [],
      "the annotation changed",
    );
    for (const pod of this.#pods) {
      await claimCaptured(pod);
      assert.equal(annotationOf(pod), "enabled");
      const told = mesh.ztunnel.events.slice(this.#eventsBefore).filter(({ uid }) => uid === pod.uid);
      if (options.isSameZtunnel !== false) assert.deepEqual(told, [], "ztunnel heard of the pod");
    }
  }
}

/** GC of other networks, and DEL of other attachments: nothing happens to a pod over some rounds of reconciliation. */
export async function othersEnd(): Promise<void> {
  const pods = await Promise.all([runCaptured(), runCaptured(), runCaptured()]);
  const [collected, unplugged, twoLegs] = pods as [Pod, Pod, Pod];
  // a second leg of the network that all pods have comes through our entry as well
  await mesh.pods.cni.add(podnet, twoLegs.sandbox, { netns: twoLegs.netns, ifName: "net1" });
  await untilQuiet();
  const quiet = await Quiet.start(...pods);
  const from = mesh.agent.lines.length;
  const attachments = [{ containerID: "somebody-elses", ifname: "eth0" }];
  await callQuietly({ verb: "GC", network: "storage", ...keeping(attachments) });
  await callQuietly({ verb: "GC", network: "storage", ...keeping([]) });
  await callQuietly({ verb: "GC", network: "storage", ...keeping([attachmentOf(collected, "net1")]) });
  await callQuietly({ verb: "DEL", ...namedBy(unplugged, "net1") });
  await callQuietly({ verb: "DEL", network: "storage", ...namedBy(unplugged, "eth0") });
  await callQuietly({ verb: "DEL", ...namedBy(twoLegs, "net1") });
  for (const pod of pods) await untilLookedAt(pod, 2, from);
  await quiet.claim();
  assert.deepEqual(loudLines(from), []);
  for (const pod of pods) await mesh.kubelet.deletePod(pod);
  for (const pod of pods) await waitFor("ztunnel to drop it", async () => !(await isHeld(pod)));
}

/** What happened to a pod that only a meta plugin attached to us, by the attachments that it made. */
export interface MultusTold {
  /** Times that ztunnel was given the pod, while it ran. */
  readonly adds: number;
  /** Rules written by the second ADD and by all DELs but the last. */
  readonly changes: readonly string[];
  /** Address that the host's probe had at the pod. */
  readonly probe: string;
}

/**
 * Pods whose only calls of ours come through a meta plugin: `net1` and so on, without an address.
 * @param networks names of the networks, in the order of their ADDs
 */
export async function onlyThroughMultus(networks: readonly string[]): Promise<MultusTold> {
  const legs = networks.map((name, index) => ({
    network: { cniVersion: "1.0.0", name, plugins: [ambientPlugin({ agentWaitSeconds: 5 })] },
    ifName: `net${index + 1}`,
  }));
  const changes: string[] = [];
  const silently = async (netns: string, act: () => Promise<unknown>): Promise<void> => {
    const monitor = await RuleMonitor.start(netns);
    await act();
    await claimCaptured({ netns, spec: { name: "multus" } });
    await monitor.stop();
    changes.push(...monitor.changes);
  };
  const { cni } = mesh.pods;
  const meta: MetaPlugin = {
    async attach(sandbox, netns) {
      for (const [index, { network, ifName }] of legs.entries()) {
        const add = (): Promise<unknown> => cni.add(network, sandbox, { netns, ifName });
        if (index > 0) await silently(netns, add);
        else await add();
        // before the runtime has its answer, and before any process runs
        await claimCaptured({ netns, spec: sandbox });
      }
    },
    async detach(sandbox, netns) {
      for (const [index, { network, ifName }] of [...legs.entries()].reverse()) {
        const del = (): Promise<void> => cni.del(network, sandbox, { netns, ifName });
        if (index > 0 && netns !== "") await silently(netns, del);
        else await del();
      }
      await waitFor("the pod to be let go", async () => !(await isHeld(sandbox)));
      if (netns !== "") await waitFor("its rules to go", () => untouched(netns, sandbox));
    },
  };
  const { network } = mesh.plainPods;
  const runtime = new PodRuntime({ cni, network, cgroupFolder: mesh.node.cgroupFolder, meta });
  const runner = new Kubelet({ api: mesh.api, runtime, nodeName: "node-1" });
  const pod = await runCaptured(runner);
  const probe = await probeAddress(pod);
  const adds = mesh.ztunnel.messages.filter(({ kind, uid }) => kind === "add" && uid === pod.uid).length;
  await runner.deletePod(pod);
  return { adds, changes, probe };
}

/** How the second leg of a pod comes to be; in each case a definition chains our entry to a bridge with addresses of its own. */
export type SecondLeg = "with the first" | "while it runs" | "alone through us";

/** What the host lets pass to a pod with a second leg. */
export interface PassedAddresses {
  /** In the host's sets, of this pod. */
  readonly members: readonly string[];
  /** Addresses that the pod's status has: what the kubelet's probes go to. */
  readonly status: readonly string[];
  readonly probe: string;
  /** Members once the second leg is gone. */
  readonly after: readonly string[];
}

/** Source: multus-cni 95a09323, CmdAdd: net1 follows eth0 in the same RunPodSandbox, before the pod has an address in its status. */
export async function secondLeg(how: SecondLeg): Promise<PassedAddresses> {
  const { cni } = mesh.pods;
  const second = bridgeConflist({
    name: "second",
    bridge: "cni1",
    subnetV4: "10.222.0.0/16",
    subnetV6: null,
    leaseDir: join(mesh.node.scratch, "second-leases"),
    chained: [ambientPlugin({ agentWaitSeconds: 5 })],
  });
  const leg = { ifName: "net1" };
  const meta: MetaPlugin = {
    attach: async (sandbox, netns) => void (await cni.add(second, sandbox, { ...leg, netns })),
    detach: (sandbox, netns) => cni.del(second, sandbox, { ...leg, netns }),
  };
  const { network } = how === "alone through us" ? mesh.plainPods : mesh.pods;
  const made = { cni, network, cgroupFolder: mesh.node.cgroupFolder };
  const runtime = new PodRuntime(how === "while it runs" ? made : { ...made, meta });
  const runner = new Kubelet({ api: mesh.api, runtime, nodeName: "node-1" });
  const pod = await runCaptured(runner);
  if (how === "while it runs") await meta.attach(pod.sandbox, pod.netns);
  const from = mesh.agent.lines.length;
  await untilLookedAt(pod, 2, from);
  const members = await probeMembers(pod);
  const probe = await probeAddress(pod);
  if (how === "while it runs") await meta.detach(pod.sandbox, pod.netns);
  await untilLookedAt(pod, 2, mesh.agent.lines.length);
  const after = await probeMembers(pod);
  await runner.deletePod(pod);
  return { members, status: [...pod.ips].sort(), probe, after };
}

async function probeMembers({ uid }: Pod): Promise<string[]> {
  const { stdout } = await run(["ipset", "list", "-output", "save"]);
  return [...stdout.matchAll(/^add \S+ (\S+) .*"(.*)"$/gm)]
    .flatMap(([, address = "", owner]) => (owner === uid ? [address] : []))
    .sort();
}

async function untouched(netns: string, { name }: SandboxIdentity): Promise<true> {
  await claimUntouched({ netns, spec: { name } });
  return true;
}

/** The address of the host's probe, as the pod's application sees it. */
async function probeAddress(pod: Pod): Promise<string> {
  const app = await pod.startApp();
  await app.call.serveHttp(8080);
  let address = "";
  const isAnswered = async (): Promise<boolean> => {
    // each time a connection of its own, as the kubelet makes them
    const signal = AbortSignal.timeout(1_000);
    const answer = await fetch(`http://${pod.ip4}:8080/`, { headers: { connection: "close" }, signal });
    address = ((await answer.json()) as { peer: { address: string } }).peer.address;
    return true;
  };
  await waitFor("the pod to answer a probe", isAnswered);
  return address;
}

/** How a false end went. Times in ms after the call. */
export interface FalseEnd {
  /** Values of the annotation from the call on. */
  readonly statuses: readonly string[];
  readonly concealedMs: number;
  readonly firstRuleGoneMs: number;
  readonly servedMs: number;
  readonly annotatedMs: number;
  readonly capturedMs: number;
  readonly intervalMs: number;
  readonly events: readonly string[];
}

/** A call says that all attachments of a running pod have ended, which is not so. */
export async function falseEnds(): Promise<Record<"DEL" | "GC", FalseEnd>> {
  const byDel = await runCaptured();
  const byGc = await runCaptured();
  const other = await runCaptured();
  const quiet = await Quiet.start(other);
  const [DEL, GC] = await Promise.all([
    falseEnd(byDel, () => callQuietly({ verb: "DEL", ...namedBy(byDel, "eth0") })),
    falseEnd(byGc, () => callQuietly({ verb: "GC", ...keeping([attachmentOf(other), attachmentOf(byDel)]) })),
  ]);
  await quiet.claim();
  // after that nobody remembers an attachment: the next calls must still come to the right end
  const again = await Quiet.start(byDel, byGc);
  const from = mesh.agent.lines.length;
  await callQuietly({ verb: "DEL", ...namedBy(byDel, "net1") });
  await callQuietly({ verb: "DEL", ...namedBy(byGc, "eth0") });
  for (const pod of [byDel, byGc]) await untilLookedAt(pod, 2, from);
  await again.claim();
  for (const pod of [byDel, byGc, other]) await mesh.kubelet.deletePod(pod);
  for (const pod of [byDel, byGc, other])
    await waitFor("the pod to be let go", async () => !(await isHeld(pod)));
  return { DEL, GC };
}

async function falseEnd(pod: Pod, act: () => Promise<void>): Promise<FalseEnd> {
  const statuses: { readonly value: string; readonly atMs: number }[] = [];
  const unsubscribe = mesh.api.store.subscribe(({ resource, object }) => {
    if (resource !== "pods" || object.metadata.uid !== pod.uid) return;
    statuses.push({ value: object.metadata.annotations?.[statusAnnotation] ?? "none", atMs: monotonicMs() });
  });
  const monitor = await RuleMonitor.start(pod.netns);
  const eventsBefore = mesh.ztunnel.events.length;
  const offsetMs = monotonicMs() - performance.now();
  const startMs = monotonicMs();
  await act();
  await waitFor("the annotation to go", () => annotationOf(pod) === undefined);
  await waitFor("the pod to be let go", () => untouched(pod.netns, pod.sandbox), { intervalMs: 20 });
  assert.equal(annotationOf(pod), undefined, "annotated while it was let go");
  await waitFor("the pod to be captured again", () => isCaptured(pod));
  const capturedMs = monotonicMs() - startMs;
  await waitFor("the annotation to be back", () => annotationOf(pod) === "enabled");
  await waitFor("an Event", () => eventsOf(pod, "AmbientRecaptured").length > 0);
  await monitor.stop();
  unsubscribe();
  const gone = monitor.lines.find(({ text }) => text.startsWith("delete "))?.atMs ?? Number.NaN;
  const served = mesh.ztunnel.events
    .slice(eventsBefore)
    .find(({ event, kind, uid }) => event === "message" && kind === "add" && uid === pod.uid);
  const after = (atMs = Number.NaN): number => Math.round(10 * (atMs - startMs)) / 10;
  return {
    statuses: statuses.map(({ value }) => value),
    concealedMs: after(statuses.find(({ value }) => value === "none")?.atMs),
    firstRuleGoneMs: after(gone + offsetMs),
    servedMs: after(served?.atMs),
    annotatedMs: after(statuses.find(({ value }) => value === "enabled")?.atMs),
    capturedMs: Math.round(10 * capturedMs) / 10,
    intervalMs: reconcileMs,
    events: eventsOf(pod, "AmbientRecaptured"),
  };
}

/** Messages of a pod's Events of one reason. */
function eventsOf(pod: Pod, reason: string): string[] {
  return mesh.api.store.list("events").flatMap((object) => {
    const event = object as unknown as {
      readonly involvedObject: { readonly uid: string };
      readonly reason: string;
      readonly message: string;
    };
    return event.involvedObject.uid === pod.uid && event.reason === reason ? [event.message] : [];
  });
}

/** GC of the pods' own network: what it does not name is let go, what it does not say is not. */
export async function collected(): Promise<void> {
  const gone = await runCaptured();
  const staying = await runCaptured();
  const quiet = await Quiet.start(staying);
  // the sandbox died without a DEL
  await gone.endProcesses();
  await mesh.pods.cni.removeNetns(gone.netns);
  await untilQuiet();
  const from = mesh.agent.lines.length;
  const unread = [
    { fields: {} },
    keeping(null),
    keeping("all"),
    keeping({}),
    keeping([null]),
    keeping([[]]),
    keeping([{ containerID: 7, ifname: "eth0" }]),
    keeping([{ containerID: "x" }]),
    keeping([attachmentOf(staying), { ifname: "eth0" }]),
  ];
  for (const each of unread) await callQuietly({ verb: "GC", ...each });
  await untilLookedAt(gone, 1, from);
  await untilLookedAt(staying, 1, from);
  assert.ok(await isHeld(gone), "a list that says nothing let a pod go");
  assert.deepEqual(loudLines(from), []);
  await callQuietly({ verb: "GC", ...keeping([attachmentOf(staying)]) });
  await waitFor("the pod to be let go", async () => !(await isHeld(gone)));
  await waitFor("its annotation to go", () => annotationOf(gone) === undefined);
  await quiet.claim();
  assert.deepEqual(eventsOf(staying, "AmbientRecaptured"), []);
  for (const pod of [gone, staying]) await mesh.kubelet.deletePod(pod);
}

/** Calls that name what nobody knows, in any order: none fails, none says a word, none touches a pod. */
export async function nobodyKnows(): Promise<{ calls: number; lines: string[] }> {
  const pod = await runCaptured();
  const outside = await mesh.kubelet.runPod({ namespace: "plain", name: nextName() });
  await untilQuiet();
  const quiet = await Quiet.start(pod);
  const monitor = await RuleMonitor.start(outside.netns);
  const lines: string[] = [];
  const stranger = { uid: randomUUID(), namespace: "no", name: "body" };
  const someId = (): string => randomBytes(32).toString("hex");
  const { sandbox, netns } = pod;
  const known = { uid: sandbox.uid, namespace: sandbox.namespace, name: sandbox.name };
  const base = { container: sandbox.id, ifName: "eth0", netns, pod: known } as const;
  const calls: Omit<Call, "verb">[] = [
    { ...base, network: "nobodys" },
    { ...base, network: "" },
    { ...base, ifName: "net7" },
    { ...base, container: someId(), netns: "" },
    { ...base, container: someId(), netns: "/run/netns/nobody" },
    { ...base, container: someId(), netns: "/proc/1/ns/net" },
    { ...base, container: someId(), netns: outside.netns },
    { container: someId(), ifName: "eth0", pod: stranger },
    { container: someId(), ifName: "eth0" },
    { container: sandbox.id, ifName: "net7" },
    { container: outside.sandbox.id, ifName: "net7", netns: outside.netns, pod: outside.sandbox },
    { container: "../../../etc/passwd", ifName: "../x", netns: "relative/path" },
    { container: "x".repeat(5_000), ifName: "y".repeat(500), network: "z".repeat(5_000) },
  ];
  let count = 0;
  for (const each of calls) {
    for (const verb of ["DEL", "DEL", "GC"] as const) {
      const from = mesh.agent.lines.length;
      const lists = verb === "GC" ? keeping([]) : {};
      const network = verb === "GC" ? { network: each.network ?? "nobodys" } : {};
      await callQuietly({ verb, ...each, ...network, ...lists });
      count += 1;
      lines.push(...loudLines(from));
    }
  }
  const from = mesh.agent.lines.length;
  await untilLookedAt(pod, 1, from);
  lines.push(...loudLines(from));
  await quiet.claim();
  await monitor.stop();
  assert.deepEqual(monitor.changes, []);
  for (const each of [pod, outside]) await mesh.kubelet.deletePod(each);
  return { calls: count, lines };
}

/** DEL before ADD, and calls about a pod that is gone. */
export async function beforeAndAfter(): Promise<{ lines: string[] }> {
  const named = createObject();
  const netns = await mesh.pods.cni.createNetns();
  await run(["nsenter", `--net=${netns}`, "ip", "link", "set", "lo", "up"]);
  const container = randomBytes(32).toString("hex");
  const about = { container, ifName: "eth0", pod: named } as const;
  const lines: string[] = [];
  const quietly = async (what: Call): Promise<void> => {
    const from = mesh.agent.lines.length;
    await callQuietly(what);
    lines.push(...loudLines(from));
  };
  await quietly({ verb: "DEL", ...about, netns });
  await quietly({ verb: "DEL", ...about });
  assert.equal((await call({ verb: "ADD", ...about, netns })).code, 0);
  await claimCaptured({ netns, spec: named });
  await callQuietly({ verb: "DEL", ...about, netns });
  await waitFor("the pod to be let go", async () => !(await isHeld(named)));
  await waitFor("its rules to go", () => untouched(netns, { id: container, ...named }));
  await untilQuiet();
  await quietly({ verb: "DEL", ...about, netns });
  await mesh.pods.cni.removeNetns(netns);
  await quietly({ verb: "DEL", ...about, netns });
  await quietly({ verb: "DEL", ...about });
  mesh.api.delete("pods", named.name, named.namespace);
  await waitFor("the agent to forget the pod", () => isForgotten(named.uid));
  for (const at of [{ netns }, { netns: "" }, {}]) {
    await quietly({ verb: "DEL", ...about, ...at });
    await quietly({ verb: "GC", ...keeping([{ containerID: container, ifname: "eth0" }]) });
  }
  await quietly({ verb: "CHECK", ...about, netns });
  await untilQuiet();
  return { lines };
}

function isForgotten(uid: string): boolean {
  return mesh.agent.text.includes(`"uid":"${uid}","outcome":"forgotten"`);
}

/** Waits until the agent has had nothing to say for a moment. */
async function untilQuiet(): Promise<void> {
  let last = -1;
  const isSame = (): boolean => {
    const now = loudLines(0).length;
    const same = now === last;
    last = now;
    return same;
  };
  await waitFor("the agent to have nothing to say", isSame, { intervalMs: 200 });
}

/** A pod without any process, and without an address in its status as long as it has none. */
async function withoutProcess(): Promise<Pod> {
  const pod = await mesh.pods.runPodSandbox(createObject());
  await pod.endProcesses();
  await waitFor("the annotation", () => annotationOf(pod) === "enabled");
  return pod;
}

async function endAgent(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  if (signal === "SIGTERM") await mesh.agent.stop();
  else await mesh.agent.kill();
}

/** An agent that was replaced knows its sandboxes from what the one before kept. */
export async function overARestart(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
  const pods = [await withoutProcess(), await runCaptured()] as const;
  const inodes = await Promise.all(pods.map((pod) => pod.netnsInode()));
  const quiet = await Quiet.start(...pods);
  const eventsBefore = mesh.ztunnel.events.length;
  await endAgent(signal);
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady(20_000);
  for (const pod of pods) await untilLookedAt(pod, 1);
  const { workloads } = await mesh.ztunnel.stats();
  for (const [index, { uid }] of pods.entries()) assert.equal(workloads[uid]?.ino, String(inodes[index]));
  await quiet.claim({ isSameZtunnel: false });
  const dropped = mesh.ztunnel.events.slice(eventsBefore).filter(({ event }) => event === "pod-removed");
  assert.deepEqual(dropped, []);
  assert.deepEqual(warnings(), []);
  const [bare] = pods;
  await callQuietly({ verb: "DEL", ...namedBy(bare, "eth0") });
  await waitFor("the pod to be let go", async () => !(await isHeld(bare)));
  await waitFor("its rules to go", () => untouched(bare.netns, bare.sandbox));
  for (const pod of pods) await mesh.kubelet.deletePod(pod);
}

/** What is in the folder, by container id. */
async function keptFiles(): Promise<Map<string, Record<string, unknown>>> {
  const files = new Map<string, Record<string, unknown>>();
  for (const name of await readdir(sandboxFolder)) {
    const text = await readFile(join(sandboxFolder, name), "utf8");
    files.set(name.replace(/\.json$/, ""), JSON.parse(text) as Record<string, unknown>);
  }
  return files;
}

/** Kept files that are worth nothing, beside those of pods that run. */
export async function badFiles(): Promise<{ warned: string[]; left: string[] }> {
  const cutOff = await runCaptured();
  const otherBoot = await runCaptured();
  const owner = await runCaptured();
  const excluded = await Promise.all(
    [0, 1].map(() => mesh.kubelet.runPod({ namespace: "excluded", name: nextName() })),
  );
  // in the mesh, and nowhere yet; the last one has an address
  const late = [createObject(), createObject(), createObject(), createObject(), createObject()] as const;
  mesh.api.edit("pods", late[4], (object) => {
    object.status = { phase: "Running", podIP: "10.99.0.9", podIPs: [{ ip: "10.99.0.9" }] };
  });
  const quiet = await Quiet.start(cutOff, otherBoot, owner);
  const monitors = await Promise.all(excluded.map(({ netns }) => RuleMonitor.start(netns)));
  const eventsBefore = mesh.ztunnel.events.length;
  await mesh.agent.kill();
  const files = await keptFiles();
  const sample = files.get(owner.sandbox.id) ?? {};
  const keep = (id: string, value: object | string): Promise<void> =>
    writeFile(join(sandboxFolder, `${id}.json`), typeof value === "string" ? value : JSON.stringify(value));
  /** Of a pod that is nowhere, from before all others. */
  const keepLate = (
    index: 0 | 1 | 2 | 3 | 4,
    { netns, key }: { netns: string; key: string },
  ): Promise<void> => {
    const containerId = String(index).repeat(64);
    const ips = [`10.99.0.${index}`];
    const place = { ...late[index], containerId, netnsPath: netns, netnsKey: key, ips };
    return keep(containerId, { ...sample, order: index, place });
  };
  await keep(cutOff.sandbox.id, JSON.stringify(files.get(cutOff.sandbox.id)).slice(0, -40));
  await keep(otherBoot.sandbox.id, { ...files.get(otherBoot.sandbox.id), bootId: randomUUID() });
  await keep("damaged", "\0\0\0");
  const key = (netns: string): string => netnsKeyAt(netns) ?? "";
  // another pod's by now by its path, then gone, then another pod's by path and number: of the mesh, or none of ours
  await keepLate(0, { netns: owner.netns, key: "4:4026531840" });
  await keepLate(1, { netns: "/var/run/netns/gone", key: key(owner.netns) });
  await keepLate(2, { netns: owner.netns, key: key(owner.netns) });
  for (const [index, { netns }] of excluded.entries())
    await keepLate(index === 0 ? 3 : 4, { netns, key: key(netns) });
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady(20_000);
  for (const pod of [cutOff, otherBoot, owner]) await untilLookedAt(pod, 2);
  await quiet.claim({ isSameZtunnel: false });
  for (const monitor of monitors) {
    await monitor.stop();
    assert.deepEqual(monitor.changes, [], "rules were written in a namespace of somebody else");
  }
  const told = mesh.ztunnel.events.slice(eventsBefore);
  for (const { uid } of [...late, ...excluded])
    assert.deepEqual(
      told.filter((event) => event.uid === uid),
      [],
      "ztunnel was given a wrong pod",
    );
  assert.ok(!told.some(({ event }) => event === "pod-removed"), "ztunnel let a pod go");
  const warned = warnings();
  const left = [...(await keptFiles()).keys()].filter((name) => /^(0+|1+|damaged)$/.test(name));
  for (const pod of [cutOff, otherBoot, owner, ...excluded]) await mesh.kubelet.deletePod(pod);
  for (const { name, namespace } of late) mesh.api.delete("pods", name, namespace);
  for (const pod of [cutOff, otherBoot, owner])
    await waitFor("the pod to be let go", async () => !(await isHeld(pod)));
  return { warned, left };
}

/**
 * A pod whose containers crash, at a moment at which it has no process, while agent and ztunnel are both replaced.
 * @param how `kept`: what the agent before knew is there; `pinned`: only the namespace's addresses tell whose it is
 * @returns ms from the moment at which both were there
 */
export async function crashLoop(how: "kept" | "pinned"): Promise<number> {
  const pod = await runCaptured();
  await pod.endProcesses();
  const quiet = await Quiet.start(pod);
  const inode = await pod.netnsInode();
  await Promise.all([mesh.agent.kill(), mesh.ztunnel.kill()]);
  if (how === "pinned") await rm(sandboxFolder, { recursive: true });
  await Promise.all([mesh.startAgent(), mesh.startZtunnel({ maxBackoffMs: 50 })]);
  const startMs = performance.now();
  const isServed = async (): Promise<boolean> =>
    (await mesh.ztunnel.stats()).workloads[pod.uid]?.ino === String(inode);
  await waitFor("the pod to be served", isServed);
  const servedMs = performance.now() - startMs;
  await untilLookedAt(pod, 1);
  await quiet.claim({ isSameZtunnel: false });
  await mesh.kubelet.deletePod(pod);
  await waitFor("the pod to be let go", async () => !(await isHeld(pod)));
  return Math.round(servedMs);
}

/** What a running pod is told whose port ztunnel needs. */
export interface PortTaken {
  readonly message: string;
  readonly pid: number;
  readonly probes: readonly string[];
  readonly changes: readonly string[];
  /** From the port's end to the capture. */
  readonly capturedMs: number;
}

export async function portTaken(): Promise<PortTaken> {
  const pod = await mesh.kubelet.runPod({ namespace: "plain", name: nextName() });
  const before = await probeAddress(pod);
  const holder = await pod.startApp();
  await holder.call.serveEcho(15008);
  const monitor = await RuleMonitor.start(pod.netns);
  mesh.kubelet.labelPod(pod, { [modeLabel]: "ambient" });
  await waitFor("an Event", () => eventsOf(pod, "AmbientZtunnelRefused").length > 0, { timeoutMs: 10_000 });
  const [message = ""] = eventsOf(pod, "AmbientZtunnelRefused");
  for (const family of [4, 6] as const) {
    assert.doesNotMatch(await iptablesSave(pod.netns, family, { variant: "nft" }), /^-A /m);
    assert.doesNotMatch((await ipRules(pod.netns, family)).join("\n"), /0x111/);
  }
  const answer = await fetch(`http://${pod.ip4}:8080/`, { headers: { connection: "close" } });
  const during = ((await answer.json()) as { peer: { address: string } }).peer.address;
  assert.notEqual(annotationOf(pod), "enabled");
  // by then it is tried about every 4 s
  const isTriedLater = ({ json }: LogLine): boolean => json?.uid === pod.uid && Number(json.attempt) >= 4;
  await mesh.agent.untilLine("to have tried four times", isTriedLater, { timeoutMs: 15_000 });
  await monitor.stop();
  const { pid } = holder;
  process.kill(pid, "SIGKILL");
  const startMs = performance.now();
  await waitFor("the pod to be captured", () => isCaptured(pod), { timeoutMs: 10_000 });
  const capturedMs = Math.round(performance.now() - startMs);
  await waitFor("the annotation", () => annotationOf(pod) === "enabled");
  await mesh.kubelet.deletePod(pod);
  return { message, pid, probes: [before, during], changes: monitor.changes, capturedMs };
}

/** What is held when all pods are gone. */
export async function remains(): Promise<{ held: string[]; files: string[] }> {
  const held = Object.keys((await mesh.ztunnel.stats()).workloads);
  return { held, files: [...(await keptFiles()).keys()] };
}
