// SPDX-License-Identifier: Apache-2.0
// What leaving.test.ts does inside a node: an agent with a captured pod, whose objects are deleted in some order.
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const conflist = `${netDir}/10-net.conflist`;
const original =
  '{\n  "cniVersion": "1.0.0",\n  "name": "net",\n  "plugins": [\n    { "type": "bridge" }\n  ]\n}\n';
const namespace = "istio-system";
const daemonSet = "istio-cni-node";
const podName = "istio-cni-node-x7k2p";

await run(["mount", "-t", "tmpfs", "none", "/var/lib"]);
for (const dir of [binDir, netDir, "/var/lib/cni"]) await mkdir(dir, { recursive: true });
const mesh = await MeshNode.start({
  agentEnv: {
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
    POD_NAMESPACE: namespace,
    POD_NAME: podName,
  },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
// how long ztunnel waits after an agent that was away is no matter of this test
await mesh.startZtunnel({ maxBackoffMs: 100 });
let counter = 0;

/** One object that is deleted, or what is done about it. */
export type Step =
  /** Gone at once, its pods follow. */
  | "daemonset"
  /** Marked; it goes after its pods. */
  | "daemonset-in-foreground"
  /** Tokens are refused (401). */
  | "serviceaccount"
  /** The API server starts anew, and refuses all while it is not ready. */
  | "restart"
  /** Requests are refused (403). */
  | "roles"
  /** Not deleted: an admission policy lets nobody change pods, and calls what they ask invalid. */
  | "policy"
  /** SIGTERM reaches the agent. */
  | "stop"
  /** Not deleted: the node is none of the DaemonSet's any more. */
  | "affinity";

/** What is left on the node, and of the pod. */
export interface Left {
  readonly code: number;
  readonly chain: "as it was" | string;
  readonly bin: readonly string[];
  readonly run: readonly string[];
  readonly host: string;
  /** Rules and sockets in it, and what istiod is told. */
  readonly pod: "captured" | "free" | "half";
  readonly annotation: string;
}

function put(): void {
  const owner = {
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    name: daemonSet,
    uid: "uid-ds",
    controller: true,
  };
  mesh.api.put("nodes", { metadata: { name: "node-1", labels: { mesh: "yes" } } });
  mesh.api.put("daemonsets", {
    metadata: { name: daemonSet, namespace, uid: "uid-ds" },
    spec: { template: { spec: { nodeSelector: { mesh: "yes" } } } },
  } as Parameters<typeof mesh.api.put>[1]);
  mesh.api.put("pods", {
    metadata: { name: podName, namespace, uid: "uid-agent", ownerReferences: [owner] },
    spec: { nodeName: "node-1" },
  } as Parameters<typeof mesh.api.put>[1]);
}

async function take(step: Step): Promise<number | undefined> {
  switch (step) {
    case "daemonset":
      mesh.api.delete("daemonsets", daemonSet, namespace);
      return undefined;
    case "daemonset-in-foreground":
      mesh.api.edit("daemonsets", { name: daemonSet, namespace }, (object) => {
        object.metadata.deletionTimestamp = new Date().toISOString();
      });
      return undefined;
    case "affinity":
      mesh.api.put("nodes", { metadata: { name: "node-1", labels: {} } });
      return undefined;
    case "serviceaccount":
    case "roles":
      mesh.api.faults.failures.push({ status: step === "roles" ? 403 : 401 });
      return undefined;
    case "restart":
      mesh.api.faults.unready = 500;
      mesh.api.faults.failures.push({ status: 403 });
      mesh.api.dropWatches();
      return undefined;
    case "policy":
      mesh.api.faults.failures.push({
        status: 422,
        verb: "patch",
        resource: "pods",
        message: "denied by policy",
      });
      return undefined;
    case "stop":
      return await mesh.agent.stop(30_000);
  }
}

async function podState(pod: Pod): Promise<Left["pod"]> {
  const isSo = (claim: Promise<void>): Promise<boolean> =>
    claim.then(
      () => true,
      () => false,
    );
  if (await isSo(claimCaptured(pod))) return "captured";
  return (await isSo(claimUntouched(pod))) ? "free" : "half";
}

/** Installs an agent. @returns a pod that it has captured, and that istiod knows of */
async function startCaptured(env: Readonly<Record<string, string>>): Promise<Pod> {
  await writeFile(conflist, original);
  put();
  await mesh.startAgent(env);
  await mesh.ztunnel.waitForReady();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `web-${++counter}` });
  last = pod;
  await claimCaptured(pod);
  const isAnnotated = (): boolean => annotationOf(pod) === "enabled";
  await waitFor("the annotation", isAnnotated);
  return pod;
}

/** Installs an agent with a pod, deletes in this order, and looks at what is left. */
export async function leave(steps: readonly Step[], env: Readonly<Record<string, string>>): Promise<Left> {
  const asked = mesh.api.requestsOf("get", "daemonsets").length;
  const pod = await startCaptured(env);
  // what the agent asks for first of all when it is well
  await waitFor(
    "the agent to know its DaemonSet",
    () => mesh.api.requestsOf("get", "daemonsets").length > asked,
  );
  let code = -1;
  for (const step of steps) code = (await take(step)) ?? code;
  mesh.api.faults.failures.length = 0;
  mesh.api.faults.unready = undefined;
  const text = await readFile(conflist, "utf8");
  const rules = await iptablesSave("/proc/self/ns/net", 4);
  const left: Left = {
    code,
    chain: text === original ? "as it was" : text,
    bin: await readdir(binDir),
    run: await readdir("/var/run/istio-cni"),
    host: /ISTIO/.test(rules) ? rules : (await run(["ipset", "list", "-name"])).stdout,
    pod: await podState(pod),
    annotation: annotationOf(pod) ?? "none",
  };
  return left;
}

let last: Pod | undefined;
const annotationOf = (pod: Pod): string | undefined =>
  mesh.kubelet.annotation(pod, "ambient.istio.io/redirection");

/** Another agent comes. @returns whether a rule of the pod was written, and how the pod is then */
export async function takeOver(): Promise<{ writes: number; pod: Left["pod"]; annotation: string }> {
  const pod = last as Pod;
  put();
  const before = await ruleGeneration(pod.netns);
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady();
  await waitFor("the pod to be served", async () => (await podState(pod)) === "captured");
  const now = await ruleGeneration(pod.netns);
  const state = { writes: now - before, pod: await podState(pod), annotation: annotationOf(pod) ?? "none" };
  await mesh.agent.stop(10_000);
  await end();
  return state;
}

/** The label goes while nobody can take the annotation away, and again when that can be done. @returns the pod after each */
export async function unlabel(): Promise<readonly Pick<Left, "pod" | "annotation">[]> {
  const pod = await startCaptured({ LEAVE_PAUSE_MS: "0", LOG_LEVEL: "debug" });
  const look = async () => ({ pod: await podState(pod), annotation: annotationOf(pod) ?? "none" });
  await take("policy");
  mesh.kubelet.labelNamespace("mesh", { "istio.io/dataplane-mode": null });
  // an agent that does not wait for istiod lets go of it instead
  const isKept = (): boolean => mesh.agent.text.includes(`"uid":"${pod.uid}","outcome":"kept"`);
  await waitFor(
    "the agent to keep the pod, or not",
    async () => isKept() || (await podState(pod)) !== "captured",
  );
  const refused = await look();
  mesh.api.faults.failures.length = 0;
  await waitFor("the pod to leave", async () => (await look()).pod === "free");
  const freed = await look();
  mesh.kubelet.labelNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
  await mesh.agent.stop(10_000);
  await end();
  return [refused, freed];
}

/** The pod and everything that is left of the node goes. */
export async function end(): Promise<void> {
  if (last !== undefined) await mesh.kubelet.deletePod(last);
  last = undefined;
}
