// SPDX-License-Identifier: Apache-2.0
// What agent.test.ts does inside a node: the real agent and launcher, real namespaces, a stand-in ztunnel, a stub API server.
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { request } from "node:http";
import {
  claimCaptured,
  claimUntouched,
  untilCaptured,
  untilUntouched,
} from "../support/node/capture-state.ts";
import type { SandboxIdentity } from "../support/node/cni-runtime.ts";
import { ipRules, iptablesSave, netnsUsers } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { RuleMonitor } from "../support/node/rule-monitor.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const modeLabel = "istio.io/dataplane-mode";
const statusAnnotation = "ambient.istio.io/redirection";
const pluginSocket = "/var/run/istio-cni/pluginevent.sock";

const mesh = await MeshNode.start({
  plugin: { agentWaitSeconds: 5 },
  agentEnv: {
    RECONCILE_INTERVAL_SECONDS: "1",
    ZTUNNEL_WAIT_SECONDS: "2",
    EXCLUDE_NAMESPACES: "excluded",
    LOG_LEVEL: "debug",
  },
});
mesh.kubelet.createNamespace("mesh", { [modeLabel]: "ambient" });
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace("excluded", { [modeLabel]: "ambient" });
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();
let counter = 0;

function nextName(): string {
  counter += 1;
  return `pod-${counter}`;
}

function runPod(namespace: string, labels: Record<string, string> = {}): Promise<Pod> {
  return mesh.kubelet.runPod({ namespace, name: nextName(), labels });
}

async function held(): Promise<string[]> {
  return Object.keys((await mesh.ztunnel.stats()).workloads);
}

/** What ADD answers for a sandbox that was never set up properly; the message is what people see. */
async function failedAdd(sandbox: Partial<SandboxIdentity>, netns: string): Promise<string> {
  const full = {
    id: randomBytes(32).toString("hex"),
    uid: randomUUID(),
    namespace: "mesh",
    name: "web",
    ...sandbox,
  };
  // the whole chain would fail in the bridge plugin; ours is what is asked here
  const network = { ...mesh.pods.network, plugins: mesh.pods.network.plugins.slice(1) };
  try {
    await mesh.pods.cni.add(network, full, { netns });
  } catch (error) {
    return (error as Error).message;
  }
  return "no error";
}

/** Rule changes up to now, after the monitor has certainly read them. */
async function changesSeen(monitor: RuleMonitor): Promise<readonly string[]> {
  await monitor.stop();
  return monitor.changes;
}

/** Waits until the agent has nothing more to do by itself. */
async function idle(): Promise<void> {
  let last = -1;
  const rests = (): boolean => {
    const now = mesh.agent.cpuMs();
    const isSame = now === last;
    last = now;
    return isSame;
  };
  await waitFor("the agent to be idle", rests, { intervalMs: 300, timeoutMs: 10_000 });
}

/** Creates the object of a pod without running it. */
function createObject(namespace: string): { uid: string; namespace: string; name: string } {
  const named = { uid: randomUUID(), namespace, name: nextName() };
  mesh.api.put("pods", {
    metadata: named,
    spec: { nodeName: "node-1", serviceAccountName: "default", containers: [{ name: "app", image: "app" }] },
    status: { phase: "Pending" },
  });
  return named;
}

/** The agent still does its work. */
async function claimServing(): Promise<void> {
  const pod = await runPod("mesh");
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
}

export async function badNamespaces(): Promise<Record<string, string>> {
  const answers: Record<string, string> = {};
  const before = await iptablesSave("/proc/self/ns/net", 4);
  await writeFile("/run/node/plain-file", "");
  for (const [name, path] of Object.entries({
    "the host's": "/proc/1/ns/net",
    "a plain file": "/run/node/plain-file",
    "a namespace of another kind": "/proc/self/ns/mnt",
    missing: "/run/netns/nobody",
  })) {
    answers[name] = await failedAdd(createObject("mesh"), path);
  }
  assert.equal(await iptablesSave("/proc/self/ns/net", 4), before, "the host's rules changed");
  await claimServing();
  return answers;
}

export async function unknownPods(): Promise<{ unknown: string; replaced: string }> {
  const netns = await mesh.pods.cni.createNetns();
  const known = createObject("mesh");
  const unknown = await failedAdd({ name: "never-created" }, netns);
  const replaced = await failedAdd({ ...known, uid: randomUUID() }, netns);
  await mesh.pods.cni.removeNetns(netns);
  await claimServing();
  return { unknown, replaced };
}

export async function outsidePod(): Promise<void> {
  const netns = await mesh.pods.cni.createNetns();
  const named = createObject("plain");
  const monitor = await RuleMonitor.start(netns);
  const network = mesh.pods.network;
  const sandbox = { id: randomBytes(32).toString("hex"), ...named };
  const result = await mesh.pods.cni.add(network, sandbox, { netns });
  assert.equal(result.ips?.length, 2);
  assert.deepEqual(await changesSeen(monitor), [], "a rule was written in a pod outside the mesh");
  const inode = Number((await run(["stat", "-Lc", "%i", netns])).stdout);
  assert.ok(!(await netnsUsers(inode)).includes(mesh.agent.pid), "the agent opened the namespace");
  assert.ok(!(await held()).includes(named.uid));
  await mesh.pods.cni.tearDown(network, sandbox, netns);
  await mesh.pods.cni.removeNetns(netns);
}

/** ztunnel refuses once; the runtime's DEL follows; the second try is captured. */
export async function refusedOnce(): Promise<string> {
  await mesh.ztunnel.setFaults("nack=failure to start proxy : address in use,1");
  const name = nextName();
  const uid = randomUUID();
  const failed = await mesh.kubelet.runPod({ namespace: "mesh", name, uid }).then(
    () => "no error",
    (error: unknown) => (error as Error).message,
  );
  await waitFor("ztunnel to have been told to forget the pod", async () => !(await held()).includes(uid));
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name, uid });
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
  return failed;
}

/** A failed ADD without a DEL after it leaves nothing in the namespace, at ztunnel or in the agent. */
export async function nothingHalfDone(): Promise<void> {
  await mesh.ztunnel.setFaults("nack=failure to start proxy : no,1");
  const netns = await mesh.pods.cni.createNetns();
  await run(["nsenter", `--net=${netns}`, "ip", "link", "set", "lo", "up"]);
  const named = createObject("mesh");
  const message = await failedAdd(named, netns);
  assert.match(message, /failure to start proxy : no/);
  const inode = Number((await run(["stat", "-Lc", "%i", netns])).stdout);
  await waitFor(
    "the agent to let go of the namespace",
    async () => !(await netnsUsers(inode)).includes(mesh.agent.pid),
  );
  for (const family of [4, 6] as const) {
    assert.doesNotMatch(await iptablesSave(netns, family), /ISTIO/);
    assert.deepEqual(
      (await ipRules(netns, family)).filter((rule) => rule.includes("fwmark")),
      [],
    );
  }
  assert.ok(!(await held()).includes(named.uid));
  await mesh.pods.cni.removeNetns(netns);
}

export async function withoutZtunnel(): Promise<{ message: string; lateMs: number }> {
  await mesh.ztunnel.kill();
  const message = await mesh.kubelet.runPod({ namespace: "mesh", name: nextName() }).then(
    () => "no error",
    (error: unknown) => (error as Error).message,
  );
  // pods outside the mesh do not care
  const outside = await runPod("plain");
  await claimUntouched(outside);
  await mesh.kubelet.deletePod(outside);
  const start = performance.now();
  const adding = runPod("mesh");
  await mesh.startZtunnel();
  const pod = await adding;
  const lateMs = performance.now() - start;
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
  return { message, lateMs };
}

/** Nobody waits for a pod that is deleted: the kubelet takes it down when its ADD has an answer. */
export async function deletedMeanwhile(): Promise<{ message: string; afterMs: number }> {
  await mesh.ztunnel.kill();
  const netns = await mesh.pods.cni.createNetns();
  const named = createObject("mesh");
  const adding = failedAdd(named, netns);
  await waitFor("the ADD to wait", () =>
    mesh.agent.text.includes(`"uid":"${named.uid}","outcome":"no-ztunnel"`),
  );
  const start = performance.now();
  mesh.api.edit("pods", { name: named.name, namespace: named.namespace }, (object) => {
    object.metadata.deletionTimestamp = new Date().toISOString();
  });
  const message = await adding;
  const afterMs = performance.now() - start;
  mesh.api.delete("pods", named.name, named.namespace);
  await mesh.pods.cni.removeNetns(netns);
  await mesh.startZtunnel();
  await claimServing();
  return { message, afterMs };
}

/** A label on a running pod while no ztunnel is there must not cut the pod off. */
export async function labelWithoutZtunnel(): Promise<void> {
  await mesh.ztunnel.kill();
  const pod = await runPod("plain");
  mesh.kubelet.labelPod(pod, { [modeLabel]: "ambient" });
  const seen = `"uid":"${pod.uid}","outcome":"no-ztunnel"`;
  await waitFor("the agent to have seen the label", () => mesh.agent.text.includes(seen));
  await claimUntouched(pod);
  await mesh.startZtunnel();
  await waitFor("ztunnel to have the pod", async () => (await held()).includes(pod.uid), {
    timeoutMs: 10_000,
  });
  // a running pod is known to ztunnel before a rule leads there
  await waitFor("the pod to be captured", () => isCaptured(pod));
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
}

/** The second ADD of the same sandbox finds everything done; two at once end well too. */
export async function addTwice(): Promise<void> {
  const pod = await runPod("mesh");
  const monitor = await RuleMonitor.start(pod.netns);
  const again = { ...mesh.pods.network, plugins: mesh.pods.network.plugins.slice(1) };
  await Promise.all([
    mesh.pods.cni.add(again, pod.sandbox, { netns: pod.netns }),
    mesh.pods.cni.add(again, pod.sandbox, { netns: pod.netns }),
  ]);
  assert.deepEqual(await changesSeen(monitor), [], "rules were written again");
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
  await waitFor("nobody to have the pod", async () => !(await held()).includes(pod.uid));
}

/** A new sandbox of the same pod takes over; a late DEL of the old one changes nothing. */
export async function rebuiltSandbox(): Promise<void> {
  const pod = await runPod("mesh");
  const oldInode = await pod.netnsInode();
  const rebuilt = await mesh.pods.runPodSandbox({ ...pod.spec, uid: pod.uid });
  await claimCaptured(rebuilt);
  const inode = String(await rebuilt.netnsInode());
  assert.equal((await mesh.ztunnel.stats()).workloads[pod.uid]?.ino, inode);
  await waitFor(
    "the agent to let go of the old sandbox",
    async () => !(await netnsUsers(oldInode)).includes(mesh.agent.pid),
  );
  await pod.stop();
  await pod.stop();
  await claimCaptured(rebuilt);
  assert.equal((await mesh.ztunnel.stats()).workloads[pod.uid]?.ino, inode);
  await mesh.kubelet.deletePod(rebuilt);
}

/** DEL in every form a runtime sends it, for pods that were and were not ours. */
export async function manyDels(): Promise<void> {
  const pod = await runPod("mesh");
  const network = { ...mesh.pods.network, plugins: mesh.pods.network.plugins.slice(1) };
  const stranger = { id: randomBytes(32).toString("hex"), uid: randomUUID(), namespace: "no", name: "body" };
  await mesh.pods.cni.del(network, stranger, { netns: "" });
  await mesh.pods.cni.del(network, stranger, { netns: "/run/netns/nobody" });
  await mesh.pods.cni.del(network, { ...stranger, uid: pod.uid }, { netns: "" });
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
  await waitFor("ztunnel to have dropped the pod", async () => !(await held()).includes(pod.uid));
}

/** Whoever deletes our rules, the ip rule or the route in a pod finds them back. */
export async function drift(): Promise<number> {
  const pod = await runPod("mesh");
  const breaks: readonly (readonly string[])[] = [
    ["iptables", "-t", "nat", "-F"],
    ["ip6tables", "-t", "mangle", "-D", "PREROUTING", "-j", "ISTIO_PRERT"],
    ["ip", "rule", "del", "pref", "32764"],
    ["ip", "-6", "route", "flush", "table", "100"],
    ["iptables", "-t", "nat", "-I", "ISTIO_OUTPUT", "-j", "ACCEPT"],
  ];
  const start = performance.now();
  for (const command of breaks) {
    await pod.exec(command);
    await waitFor(`${command.join(" ")} to be repaired`, () => isCaptured(pod), { timeoutMs: 10_000 });
  }
  await mesh.kubelet.deletePod(pod);
  return (performance.now() - start) / breaks.length;
}

async function isCaptured(pod: Pod): Promise<boolean> {
  try {
    await claimCaptured(pod);
  } catch {
    return false;
  }
  return !(await iptablesSave(pod.netns, 4)).includes("-A ISTIO_OUTPUT -j ACCEPT");
}

/** What `kubectl describe pod` would show of a running pod that ztunnel refuses, of a repair, and of a missing ztunnel. */
export async function events(): Promise<Record<string, string>> {
  const seen: Record<string, string> = {};
  const untilEvent = async (pod: Pod, reason: string): Promise<void> => {
    await waitFor(
      `the event ${reason}`,
      () => {
        const found = mesh.api.store.list("events").find((object) => {
          const { involvedObject, reason: given } = object as unknown as {
            involvedObject: { uid: string };
            reason: string;
          };
          return involvedObject.uid === pod.uid && given === reason;
        }) as unknown as { message: string } | undefined;
        if (found !== undefined) seen[reason] = found.message;
        return found !== undefined;
      },
      { timeoutMs: 15_000 },
    );
  };
  const pod = await runPod("plain");
  await mesh.ztunnel.setFaults("nack=failure to start proxy : port taken,1");
  mesh.kubelet.labelPod(pod, { [modeLabel]: "ambient" });
  await untilEvent(pod, "AmbientZtunnelRefused");
  await waitFor("the second attempt", () => isCaptured(pod), { timeoutMs: 10_000 });
  await waitFor("the status", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  await pod.exec(["ip", "rule", "del", "pref", "32764"]);
  await untilEvent(pod, "AmbientRepaired");
  await mesh.ztunnel.kill();
  const waiting = await runPod("plain");
  mesh.kubelet.labelPod(waiting, { [modeLabel]: "ambient" });
  await untilEvent(waiting, "AmbientWaitingForZtunnel");
  await mesh.startZtunnel();
  await waitFor("the waiting pod to be captured", () => isCaptured(waiting), { timeoutMs: 10_000 });
  for (const each of [pod, waiting]) await mesh.kubelet.deletePod(each);
  return seen;
}

/** Annotations of a running pod change its rules. */
export async function overrides(): Promise<void> {
  const pod = await runPod("mesh");
  const annotate = (value: string | undefined): void => {
    mesh.api.edit("pods", pod.spec, (object) => {
      const { "ambient.istio.io/dns-capture": _, ...rest } = object.metadata.annotations ?? {};
      object.metadata.annotations =
        value === undefined ? rest : { ...rest, "ambient.istio.io/dns-capture": value };
    });
  };
  annotate("false");
  await waitFor("DNS capture to end", async () => !(await iptablesSave(pod.netns, 4)).includes("15053"));
  annotate(undefined);
  await waitFor("DNS capture to be back", () => isCaptured(pod));
  await mesh.kubelet.deletePod(pod);
}

/** What is true of pods whose labels, or existence, changed while no agent was there. */
export async function changesWhileAway(): Promise<void> {
  const leaving = await runPod("mesh");
  const joining = await runPod("plain");
  const deleted = await runPod("mesh");
  const staying = await runPod("mesh");
  await waitFor("the annotation", () => mesh.kubelet.annotation(leaving, statusAnnotation) === "enabled");
  await mesh.agent.kill();
  mesh.kubelet.labelPod(leaving, { [modeLabel]: "none" });
  mesh.kubelet.labelPod(joining, { [modeLabel]: "ambient" });
  await mesh.kubelet.deletePod(deleted);
  const monitor = await RuleMonitor.start(staying.netns);
  await mesh.startAgent();
  await waitFor("ztunnel to have exactly the pods that should be in the mesh", async () => {
    const uids = await held();
    return uids.includes(joining.uid) && uids.includes(staying.uid) && uids.length === 2;
  });
  await untilCaptured(joining);
  // the annotation goes first, the rules last
  await untilUntouched(leaving);
  assert.equal(mesh.kubelet.annotation(leaving, statusAnnotation), undefined);
  assert.deepEqual(await changesSeen(monitor), [], "rules of a pod that was right were written");
  for (const pod of [leaving, joining, staying]) await mesh.kubelet.deletePod(pod);
}

/** An agent that dies in the middle of an ADD: the launcher's retries find the next one. */
export async function killedInAdd(): Promise<void> {
  await mesh.ztunnel.setFaults("ack-delay=300");
  const uid = randomUUID();
  const adding = mesh.kubelet.runPod({ namespace: "mesh", name: nextName(), uid });
  await mesh.ztunnel.waitFor((event) => event.kind === "add" && event.uid === uid);
  await mesh.agent.kill();
  await mesh.ztunnel.setFaults();
  await mesh.startAgent();
  const pod = await adding;
  await claimCaptured(pod);
  await mesh.kubelet.deletePod(pod);
}

/** A watch that is known to be broken decides nothing, not even about pods it has seen. */
export async function withoutApi(): Promise<string> {
  const named = createObject("mesh");
  await mesh.api.refuse();
  const message = await failedAdd(named, "/run/netns/nobody");
  await mesh.api.listenAgain();
  const pod = await mesh.pods.runPodSandbox(named);
  await claimCaptured(pod);
  await pod.delete();
  mesh.api.delete("pods", named.name, named.namespace);
  return message;
}

/** An excluded namespace needs nobody's word. */
export async function excludedWithoutApi(): Promise<void> {
  const named = createObject("excluded");
  await mesh.api.refuse();
  const pod = await mesh.pods.runPodSandbox(named);
  await mesh.api.listenAgain();
  await claimUntouched(pod);
  await pod.delete();
}

/** Neither does a namespace that is known to be outside the mesh; one that nobody knows is held. */
export async function outsideWithoutApi(): Promise<string> {
  const [plain, unknown] = [createObject("plain"), createObject("unheard-of")];
  await mesh.api.refuse();
  const pod = await mesh.pods.runPodSandbox(plain);
  const message = await failedAdd(unknown, "/run/netns/nobody");
  await mesh.api.listenAgain();
  await claimUntouched(pod);
  await pod.delete();
  for (const { name, namespace } of [plain, unknown]) mesh.api.delete("pods", name, namespace);
  return message;
}

/** A runtime that takes the network away while a process of the pod still lives: the sandbox is not captured again. */
export async function delBeforeTheProcessesEnd(): Promise<void> {
  const pod = await runPod("mesh");
  const inode = await pod.netnsInode();
  await mesh.pods.cni.del(mesh.pods.network, pod.sandbox, { netns: pod.netns });
  await waitFor("ztunnel to have dropped the pod", async () => !(await held()).includes(pod.uid));
  const looks = (): number => mesh.agent.text.split(`"uid":"${pod.uid}","outcome":"no-sandbox"`).length - 1;
  const before = looks();
  await waitFor("two more looks at the pod", () => looks() >= before + 2, { timeoutMs: 10_000 });
  await claimUntouched(pod);
  // a look under way has it open for a moment
  await waitFor(
    "the agent to let go of the ended sandbox",
    async () => !(await netnsUsers(inode)).includes(mesh.agent.pid),
    { timeoutMs: 500, intervalMs: 10 },
  );
  await mesh.kubelet.deletePod(pod);
}

/**
 * A backup takes the place of the API server's store, in which the namespace has no label yet, and nobody starts a pod: the pod leaves, and
 * comes back with the label. @returns lists of pods that this took
 */
export async function restoredStore(): Promise<number> {
  mesh.kubelet.createNamespace("restored");
  const pod = await runPod("restored");
  const backup = mesh.api.store.backup();
  mesh.kubelet.labelNamespace("restored", { [modeLabel]: "ambient" });
  await untilCaptured(pod);
  await waitFor("the annotation", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  const lists = () => mesh.api.requestsOf("list", "pods").length;
  const before = lists();
  mesh.api.store.restore(backup);
  mesh.api.dropWatches();
  await untilUntouched(pod);
  assert.ok(!(await held()).includes(pod.uid), "ztunnel still has the pod");
  // the first version that the store gives again, to something else
  mesh.kubelet.labelNamespace("restored", { [modeLabel]: "ambient" });
  await untilCaptured(pod);
  await waitFor("the annotation", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  await mesh.kubelet.deletePod(pod);
  return lists() - before;
}

/** A pod that is made, and deleted by force, while the watch is broken: no event ever says that it is gone. */
export async function neverAnnounced(): Promise<void> {
  const failures = [
    { status: 500, resource: "pods", verb: "list" } as const,
    { status: 410, resource: "pods", verb: "watch" } as const,
  ];
  mesh.api.faults.failures.push(...failures);
  mesh.api.dropWatches();
  const named = createObject("mesh");
  const pod = await mesh.pods.runPodSandbox(named);
  assert.ok((await held()).includes(named.uid), "ztunnel was not given the pod");
  mesh.api.delete("pods", named.name, named.namespace);
  mesh.api.faults.failures.length = 0;
  await waitFor("ztunnel to have dropped the pod", async () => !(await held()).includes(named.uid), {
    timeoutMs: 20_000,
  });
  await pod.delete();
}

/** A pod whose object is deleted by force while its processes go on: they never get to speak in clear, or to be spoken to. */
export async function deletedByForce(): Promise<void> {
  const pod = await runPod("mesh");
  const inode = await pod.netnsInode();
  const monitor = await RuleMonitor.start(pod.netns);
  mesh.api.delete("pods", pod.spec.name, pod.spec.namespace);
  await waitFor("ztunnel to have dropped the pod", async () => !(await held()).includes(pod.uid));
  await waitFor(
    "the agent to let go of its namespace",
    async () => !(await netnsUsers(inode)).includes(mesh.agent.pid),
  );
  assert.deepEqual(await changesSeen(monitor), [], "rules of a pod that still runs were written");
  assert.match(await iptablesSave(pod.netns, 4), /--to-ports 15006/);
  await pod.delete();
}

/** CHECK tells the truth about rules, ztunnel and the namespace. */
export async function check(): Promise<Record<string, string>> {
  const pod = await runPod("mesh");
  const { cni, network } = mesh.pods;
  const ours = { ...network, plugins: network.plugins.slice(1) };
  const ask = (netns: string): Promise<string> =>
    cni.check(ours, pod.sandbox, { netns }).then(
      () => "fine",
      (error: unknown) => (error as Error).message,
    );
  const answers: Record<string, string> = { captured: await ask(pod.netns) };
  await mesh.agent.stop();
  await pod.exec(["ip", "rule", "del", "pref", "32764"]);
  // long enough that only CHECK can have asked for the look
  await mesh.startAgent({ RECONCILE_INTERVAL_SECONDS: "3600", KERNEL_NOTICES: "false" });
  await waitFor("the repair at the start", () => isCaptured(pod), { timeoutMs: 20_000 });
  await mesh.ztunnel.waitForReady(20_000);
  await idle();
  await pod.exec(["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
  answers.drifted = await ask(pod.netns);
  await waitFor("the repair that CHECK asked for", () => isCaptured(pod));
  await mesh.ztunnel.kill();
  answers.withoutZtunnel = await ask(pod.netns);
  await mesh.startZtunnel({ maxBackoffMs: 100 });
  await mesh.agent.kill();
  answers.withoutAgent = await ask(pod.netns);
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady(20_000);
  await mesh.kubelet.deletePod(pod);
  answers.gone = await ask(pod.netns);
  return answers;
}

/** A restart writes no annotation, and a captured pod without one keeps its ztunnel. */
export async function quietRestart(): Promise<{ patches: number; removed: boolean }> {
  const annotated = await runPod("mesh");
  await waitFor("the status", () => mesh.kubelet.annotation(annotated, statusAnnotation) === "enabled");
  mesh.api.faults.failures.push({ status: 403, verb: "patch" });
  const bare = await runPod("mesh");
  await waitFor("the refused write", () => mesh.api.requestsOf("patch", "pods").length > 0);
  const patches = (): number =>
    mesh.api.requestsOf("patch", "pods").filter(({ path }) => path.includes(`/${annotated.spec.name}/`))
      .length;
  const before = patches();
  const from = mesh.ztunnel.events.length;
  await mesh.agent.kill();
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady(20_000);
  await waitFor("both pods to be looked at", () =>
    [annotated, bare].every((pod) => mesh.agent.text.includes(`"uid":"${pod.uid}","outcome":"enrolled"`)),
  );
  const removed = mesh.ztunnel.events.slice(from).some(({ event }) => event === "pod-removed");
  mesh.api.faults.failures.length = 0;
  const written = patches() - before;
  for (const pod of [annotated, bare]) await mesh.kubelet.deletePod(pod);
  return { patches: written, removed };
}

/** istio-cni's own plugin may still be in the chain while the agent is ours. */
export async function istioEvent(): Promise<number> {
  const pod = await mesh.plainPods.runPodSandbox({ ...createObject("mesh") });
  const body = JSON.stringify({
    Netns: pod.netns,
    PodName: pod.spec.name,
    PodNamespace: "mesh",
    IPs: pod.ips.map((ip) => ({ Interface: null, Address: { IP: ip, Mask: "//8AAA==" } })),
  });
  const status = await new Promise<number>((resolve, reject) => {
    const call = request({ socketPath: pluginSocket, path: "/cmdadd", method: "POST" }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    call.on("error", reject);
    call.end(Buffer.from(body));
  });
  await claimCaptured(pod);
  mesh.api.delete("pods", pod.spec.name, "mesh");
  await waitFor("the deleted pod to be forgotten", async () => !(await held()).includes(pod.uid));
  await pod.delete();
  return status;
}

/** Only root may talk to the agent's sockets. */
export async function strangers(): Promise<string> {
  await mkdir("/run/node", { recursive: true });
  const outcome = await run(
    [
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      process.execPath,
      "-e",
      `require("net").connect(${JSON.stringify(pluginSocket)}).on("error", (e) => console.log(e.code)).on("connect", () => console.log("connected"))`,
    ],
    { mayFail: true },
  );
  return outcome.stdout.trim();
}

/** A probe from the host reaches a captured pod although ztunnel refuses everything, and only while it is captured. */
export async function probes(): Promise<{ captured: string; before: string; entries: string }> {
  const pod = await runPod("plain");
  const app = await pod.startApp();
  await app.call.serveHttp(8080);
  const probe = async (): Promise<string> => {
    // each time a connection of its own, as the kubelet makes them
    const answer = await fetch(`http://${pod.ip4}:8080/`, { headers: { connection: "close" } });
    return ((await answer.json()) as { peer: { address: string } }).peer.address;
  };
  const before = await probe();
  await mesh.ztunnel.command({ do: "refuse-inbound", on: true });
  mesh.kubelet.labelPod(pod, { [modeLabel]: "ambient" });
  await waitFor("the status", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  const captured = await probe();
  const list = async (): Promise<string> => (await run(["ipset", "list", "istio-inpod-probes-v4"])).stdout;
  const entries = (await list()).split("\n").find((line) => line.startsWith(pod.ip4)) ?? "none";
  await mesh.ztunnel.command({ do: "refuse-inbound", on: false });
  await mesh.kubelet.deletePod(pod);
  await waitFor("the probes to pass no more", async () => !(await list()).includes(pod.uid));
  return { before, captured, entries: entries.replace(pod.uid, "UID").replace(pod.ip4, "IP") };
}

/** After everything the agent holds no pod's namespace. */
/** What is still held; the check of the probes' way keeps its pod's namespace for some seconds, whatever becomes of the pod. */
export async function remains(): Promise<{ netnsInodes: string[]; held: number }> {
  const isFree = async (): Promise<boolean> => (await heldNow()).netnsInodes.length === 0;
  await waitFor("the agent to close all namespaces", isFree, { timeoutMs: 15_000, intervalMs: 100 }).catch(
    () => {},
  );
  return heldNow();
}

async function heldNow(): Promise<{ netnsInodes: string[]; held: number }> {
  const inodeOf = async (path: string): Promise<string> =>
    (await run(["stat", "-Lc", "%i", path], { mayFail: true })).stdout.trim();
  const folder = `/proc/${mesh.agent.pid}/fd`;
  const host = await inodeOf("/proc/self/ns/net");
  const inodes: string[] = [];
  for (const fd of await readdir(folder)) {
    const { stdout } = await run(["stat", "-fLc", "%T", `${folder}/${fd}`], { mayFail: true });
    if (stdout.trim() === "nsfs") inodes.push(await inodeOf(`${folder}/${fd}`));
  }
  return { netnsInodes: inodes.filter((inode) => inode !== host), held: (await held()).length };
}
