// SPDX-License-Identifier: Apache-2.0
// Compares a node with what it should be: the kernel, ztunnel's list, the API's annotations, the agent's descriptors and its log.
import { readdir, stat } from "node:fs/promises";
import { forEachLimited } from "../bench/samples.ts";
import type { LogLine } from "../support/node/managed-process.ts";
import { run as command } from "../support/node/run.ts";
import type { ChurnRun } from "./churn-run.ts";
import type { PodModel } from "./node-model.ts";
import { faultsOfLook, lookAtPod } from "./pod-look.ts";

/** Something that is not as it should be; `uid` when it is about one pod. */
export interface Fault {
  readonly uid?: string;
  readonly text: string;
}

const statusAnnotation = "ambient.istio.io/redirection";
const maxAgentBytes = 180 * 1024 * 1024;
/** Descriptors of the agent besides one for each captured pod. */
const maxOtherFds = 60;

/** Everything that is wrong now; the dear questions are asked only when the cheap ones have no complaint. */
export async function faultsOfNode(run: ChurnRun): Promise<Fault[]> {
  const hopeless = faultsOfPeers(run);
  if (hopeless.length > 0) return hopeless;
  const cheap = [...(await faultsOfZtunnel(run)), ...faultsOfAnnotations(run)];
  if (cheap.length > 0) return cheap;
  const dearer = [...(await faultsOfDescriptors(run)), ...(await faultsOfProbeSets(run))];
  if (dearer.length > 0) return dearer;
  return faultsOfKernel(run);
}

/** Faults that no waiting can mend. */
export function faultsOfPeers({ peers }: ChurnRun): Fault[] {
  const logged = peers.agents.flatMap((agent) => agent.lines.filter(isUnexpected).map((line) => line.text));
  return [...peers.faults, ...logged.map((text) => `the agent logged: ${text}`)].map((text) => ({ text }));
}

/** A fault of the agent itself, whatever happens around it. */
function isUnexpected({ text, json }: LogLine): boolean {
  if (json === undefined) return text !== "";
  const { type } = (json.err ?? {}) as { type?: string };
  const bug = ["TypeError", "ReferenceError", "RangeError", "SyntaxError", "AssertionError"].includes(
    type ?? "",
  );
  return json.level === "error" || json.level === "fatal" || bug;
}

function wantedPods({ model }: ChurnRun): PodModel[] {
  return [...model.pods.values()].filter((pod) => model.wanted(pod));
}

/** dev:ino of a pod's namespace, as the kernel has it. */
async function netnsOf(run: ChurnRun, pod: PodModel): Promise<string | undefined> {
  const path = run.pod(pod.slot)?.sandbox?.netns;
  if (path === undefined) return undefined;
  const { dev, ino } = await stat(path, { bigint: true });
  return `${dev}:${ino}`;
}

async function faultsOfZtunnel(run: ChurnRun): Promise<Fault[]> {
  const { workloads, ready, pending } = await run.peers.ztunnel.stats();
  const faults: Fault[] = [];
  if (!ready) faults.push({ text: `ztunnel is not ready (pending: ${pending.join(", ") || "none"})` });
  const wanted = wantedPods(run);
  for (const pod of wanted) {
    const held = workloads[pod.uid];
    const netns = await netnsOf(run, pod);
    if (netns === undefined) faults.push({ uid: pod.uid, text: `${pod.name} has no sandbox` });
    else if (held === undefined) faults.push({ uid: pod.uid, text: `ztunnel does not have ${pod.name}` });
    else if (`${held.dev}:${held.ino}` !== netns)
      faults.push({
        uid: pod.uid,
        text: `ztunnel has ${held.dev}:${held.ino} for ${pod.name}, not ${netns}`,
      });
    else if (held.info.name !== pod.name || held.info.namespace !== pod.namespace)
      faults.push({ uid: pod.uid, text: `ztunnel has ${JSON.stringify(held.info)} for ${pod.name}` });
  }
  const uids = new Set(wanted.map((pod) => pod.uid));
  for (const uid of Object.keys(workloads)) {
    if (!uids.has(uid))
      faults.push({ uid, text: `ztunnel has ${uid} (${workloads[uid]?.info.name}), which is not wanted` });
  }
  return faults;
}

function faultsOfAnnotations({ mesh, model }: ChurnRun): Fault[] {
  return [...model.pods.values()].flatMap((pod) => {
    const { metadata } = mesh.api.store.get("pods", pod.name, pod.namespace);
    const value = metadata.annotations?.[statusAnnotation];
    const wanted = model.wanted(pod) ? "enabled" : undefined;
    if (value === wanted) return [];
    return [
      {
        uid: pod.uid,
        text: `${pod.name} is annotated ${value ?? "with nothing"}, not ${wanted ?? "with nothing"}`,
      },
    ];
  });
}

async function faultsOfDescriptors(run: ChurnRun): Promise<Fault[]> {
  const { agent } = run.mesh;
  // the node's own: the agent may hold that one too
  const host = await stat("/proc/self/ns/net", { bigint: true });
  const fds = await readdir(`/proc/${agent.pid}/fd`);
  const stats = await Promise.all(
    fds.map((fd) => stat(`/proc/${agent.pid}/fd/${fd}`, { bigint: true }).catch(() => undefined)),
  );
  const held = stats
    .flatMap((each) => (each?.dev === host.dev && each.ino !== host.ino ? [`${each.dev}:${each.ino}`] : []))
    .sort();
  const wanted = (await Promise.all(wantedPods(run).map((pod) => netnsOf(run, pod)))).map(String).sort();
  const faults: Fault[] = [];
  for (const key of symmetricDifference(held, wanted)) {
    const uid = run.sandboxes.get(key.split(":")[1] ?? "") ?? "nobody";
    const times = held.filter((each) => each === key).length;
    faults.push({
      uid,
      text: `the agent holds ${times} descriptors of namespace ${key}, last one of ${uid}`,
    });
  }
  // and two sockets in each, by which the kernel tells of changes there
  const others = fds.length - 3 * held.length;
  if (others > maxOtherFds)
    faults.push({ text: `the agent holds ${others} descriptors that are no namespaces` });
  if (agent.rssBytes() > maxAgentBytes)
    faults.push({ text: `the agent takes ${Math.round(agent.rssBytes() / 2 ** 20)} MB` });
  return faults;
}

/** The host's sets of addresses that kubelet probes may reach past ztunnel. Source: istio/istio cni/pkg/ipset. */
async function faultsOfProbeSets(run: ChurnRun): Promise<Fault[]> {
  const { stdout } = await command(["ipset", "save"]);
  const members = [...stdout.matchAll(/^add istio-inpod-probes-v[46] (\S+)(?: comment "(.*)")?$/gm)];
  const owners = members.map(([, ip = "", uid = ""]) => `${ip} of ${uid}`);
  const wanted = wantedPods(run).flatMap(({ slot, uid }) =>
    (run.pod(slot)?.sandbox?.ips ?? []).map((ip) => `${ip} of ${uid}`),
  );
  return symmetricDifference(owners, wanted).map((owner) => ({
    uid: owner.split(" of ")[1] ?? "",
    text: `the host's sets of probed addresses ${owners.includes(owner) ? "have" : "lack"} ${owner}`,
  }));
}

/** Elements that are not as often in one list as in the other. */
function symmetricDifference(some: readonly string[], others: readonly string[]): string[] {
  const count = (list: readonly string[], element: string): number =>
    list.filter((each) => each === element).length;
  return [...new Set([...some, ...others])].filter((key) => count(some, key) !== count(others, key));
}

async function faultsOfKernel(run: ChurnRun): Promise<Fault[]> {
  const faults: Fault[] = [];
  await forEachLimited(run.model.pods.values(), 3, async (pod) => {
    const sandbox = run.pod(pod.slot)?.sandbox;
    if (sandbox === undefined) {
      if (pod.hasSandbox) faults.push({ uid: pod.uid, text: `${pod.name} has no sandbox` });
      return;
    }
    for (const text of faultsOfLook(await lookAtPod(sandbox), pod, run.model.wanted(pod)))
      faults.push({ uid: pod.uid, text: `${pod.name}: ${text}` });
  });
  return faults;
}
