// SPDX-License-Identifier: Apache-2.0
// A bare node on which the agent is installed as users do it: its image, its manifests, kubectl. Used inside a test node.
import assert from "node:assert/strict";
import { access, type FileHandle, open, readdir, readFile } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import { Chart, type Values } from "../../../scripts/helm.ts";
import { requireNode } from "../../support/node/inside.ts";
import { inNetns } from "../../support/node/kernel.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { StandInStats } from "../../support/ztunnel/ztunnel-process.ts";
import { CleartextTrap } from "../support/cleartext-trap.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { KubeNode } from "../support/kube-node.ts";
import { agentImage, buildNodeImages } from "../support/node-images.ts";
import { nodeAddress } from "../support/node-places.ts";
import { appPort, lastLines, meshNamespace, netnsOf } from "../support/workloads.ts";
import { ztunnelDaemonSet, ztunnelHealthPort } from "../support/ztunnel-daemonset.ts";

const node = requireNode();
const root = join(import.meta.dirname, "../../..");
const system = "istio-system";
/** The node's addresses, from which it probes pods; the bridge's are the first of its ranges. */
const ownAddresses = [nodeAddress, "10.210.0.1", "fd10:210::1", "169.254.7.127"];

/** The plain manifests, as a user gets them. */
export const plainManifest = join(root, "deploy/manifests/ambient-cni-before-1.30.yaml");

export let kube: KubeNode;
export let trap: CleartextTrap;
/** The chain's file as the node's owner wrote it. */
export let ownersChain: Buffer;

/** Starts the node, and brings it both images; returns what each part took. */
export async function startScene(binDir: string): Promise<Record<string, number>> {
  const began = performance.now();
  const since = () => Math.round(performance.now() - began);
  const building = buildNodeImages(join(node.scratch, "images"));
  building.catch(() => {});
  kube = await KubeNode.start(node, binDir, { network: "bare" });
  const nodeMs = since();
  await serveClusterAddress();
  const { agent, ztunnel } = await building;
  const builtMs = since();
  await kube.importImage(agent);
  await kube.importImage(ztunnel);
  for (const name of [system, meshNamespace]) {
    await kube.admin.create("/api/v1/namespaces", { metadata: { name } });
  }
  trap = await CleartextTrap.start(ownAddresses);
  ownersChain = await readFile(chainPath());
  return { "node ready": nodeMs, "images built": builtMs, "images imported": since() };
}

/** What kube-proxy does for the one service that there is. */
export async function serveClusterAddress(): Promise<void> {
  const service = ["-d", "10.96.0.1/32", "-p", "tcp", "--dport", "443"];
  const rule = [...service, "-j", "DNAT", "--to-destination", `${nodeAddress}:6443`];
  await run(["iptables", "-t", "nat", "-A", "PREROUTING", ...rule]);
}

/** The last lines of every part, for a failure that needs them. */
export async function sceneLogs(): Promise<string> {
  const pods = await kube?.kubectl(["get", "pods", "-A", "-o", "wide"], { mayFail: true });
  const daemons = kube === undefined ? [] : [kube.daemon("kubelet"), kube.daemon("containerd")];
  const parts = [lastLines(daemons), pods?.stdout ?? "", await podLogs(system, 25)];
  return parts.join("\n");
}

/** The last lines that containers of a namespace printed, also of pods that are gone as long as the kubelet keeps them. */
export async function podLogs(namespace: string, count: number): Promise<string> {
  const found: string[] = [];
  for (const pod of await readdir("/var/log/pods").catch(() => [])) {
    if (!pod.startsWith(`${namespace}_`)) continue;
    for (const container of await readdir(join("/var/log/pods", pod))) {
      for (const file of await readdir(join("/var/log/pods", pod, container))) {
        const text = await readFile(join("/var/log/pods", pod, container, file), "utf8").catch(() => "");
        const lines = text.trim().split("\n").slice(-count);
        found.push(`--- ${pod}/${container}/${file}`, ...lines.map((line) => line.slice(0, 500)));
      }
    }
  }
  return found.join("\n");
}

/** Applies manifests as the documentation says. */
export async function apply(text: string): Promise<void> {
  await kube.kubectl(["apply", "--server-side", "-f", "-"], { stdin: text });
}

/** Ways to set the chart's values that its documentation names, as far as this Kubernetes knows the kinds. */
const documentedValues: readonly Values[] = [
  {},
  { istioCniNames: true },
  { networkPolicy: { enabled: true }, resourceQuotas: { enabled: true } },
  { agentAwayPolicy: "namespace", replaceIstioCni: true, cni: { logging: { level: "debug" } } },
  ...["openshift", "gke", "k3s", "microk8s", "minikube", "talos"].map((platform) => ({
    global: { platform },
  })),
];

/** Has the API server look at everything that the chart can make; nothing is kept. @returns number of objects */
export async function tryChart(helm: string): Promise<number> {
  const chart = new Chart(helm, join(root, "deploy/chart"));
  const { gitVersion } = (await kube.admin.get("/version")) as unknown as { gitVersion: string };
  let count = 0;
  for (const values of documentedValues) {
    const place = { releaseName: "mesh", namespace: system, kubeVersion: gitVersion.slice(1) };
    const items = chart.render({ ...place, values }).map(({ object }) => object);
    const list = JSON.stringify({ apiVersion: "v1", kind: "List", items });
    await kube.kubectl(["apply", "--server-side", "--dry-run=server", "-f", "-"], { stdin: list });
    count += items.length;
  }
  return count;
}

/** The plain manifests with another image in them. */
export async function manifestWith(image = agentImage): Promise<string> {
  return (await readFile(plainManifest, "utf8")).replaceAll("localhost/ambient-cni:0.1.0", image);
}

const daemonSetPath = (name: string): string => `/apis/apps/v1/namespaces/${system}/daemonsets/${name}`;

/**
 * Waits until every pod of a DaemonSet is there in its newest form and ready. Now and then a pod's end takes this kubelet 46 to 72 s in
 * place of 3 to 14, ours and ztunnel's alike, with every agent of the last days: the limit is there against hanging.
 */
export async function untilRolledOut(name: string, timeoutMs = 150_000): Promise<void> {
  await kube.admin.until(
    daemonSetPath(name),
    ({ metadata, status }) =>
      status.observedGeneration === metadata.generation &&
      status.updatedNumberScheduled === 1 &&
      status.numberReady === 1 &&
      status.numberUnavailable === undefined,
    timeoutMs,
  );
}

/** Running pods of the system namespace with a label, those on their way out included. */
export function systemPods(selector: string): Promise<KubeJson[]> {
  const query = `labelSelector=${encodeURIComponent(selector)}`;
  return kube.admin.list(`/api/v1/namespaces/${system}/pods?${query}`);
}

/**
 * Waits until no pod of the system namespace has the label. A pod whose processes have ended long ago goes when its sandbox
 * was collected, which the kubelet does once a minute where its first try fails.
 * Source: Kubernetes 1.20 pkg/kubelet/kubelet_pods.go, PodResourcesAreReclaimed; pkg/kubelet/kubelet.go, ContainerGCPeriod.
 */
export async function untilGone(selector: string): Promise<void> {
  const isGone = async (): Promise<boolean> => (await systemPods(selector)).length === 0;
  await waitFor(`no pod with ${selector}`, isGone, { timeoutMs: 80_000 });
}

/** Deletes a DaemonSet as kubectl does, and waits for its pods to go. */
export async function deleteDaemonSet(name: string, selector: string): Promise<void> {
  await kube.kubectl(["-n", system, "delete", "daemonset", name]);
  await untilGone(selector);
}

/** What a container has printed so far and will print, also after the kubelet has removed its log. */
export class ContainerLog {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** The log of the newest container of a pod. */
  static async open(pod: KubeJson, container: string): Promise<ContainerLog> {
    const { namespace, name, uid } = pod.metadata;
    const folder = join("/var/log/pods", `${namespace}_${name}_${uid}`, container);
    const newest = Math.max(...(await readdir(folder)).map((file) => Number.parseInt(file, 10)));
    return new ContainerLog(await open(join(folder, `${newest}.log`)));
  }

  /** Everything so far, a line each, with the time at which it was printed. */
  async lines(): Promise<{ atMs: number; text: string }[]> {
    const { size } = await this.#file.stat();
    const { buffer } = await this.#file.read({ buffer: Buffer.alloc(size), position: 0 });
    return buffer
      .toString()
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => {
        const [time = "", , , ...text] = line.split(" ");
        return { atMs: Date.parse(time), text: text.join(" ") };
      });
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** Starts a ztunnel and waits until it is ready. */
export async function startZtunnel(name = "ztunnel"): Promise<void> {
  await apply(JSON.stringify(ztunnelDaemonSet(name)));
  await untilRolledOut(name);
}

/** What each ztunnel that runs counts, by the name of its pod. */
export async function ztunnelStats(): Promise<Map<string, StandInStats>> {
  const all = new Map<string, StandInStats>();
  for (const { metadata, status } of await systemPods("app=ztunnel")) {
    if (status.phase !== "Running") continue;
    const text = await httpText(`http://${status.podIP}:${ztunnelHealthPort}/stats`).catch(() => undefined);
    if (text !== undefined) all.set(metadata.name, JSON.parse(text) as StandInStats);
  }
  return all;
}

/** UIDs of the pods that a ztunnel serves. */
export async function heldPods(): Promise<string[]> {
  const stats = [...(await ztunnelStats()).values()];
  return stats.flatMap(({ workloads }) => Object.keys(workloads)).sort();
}

/** Waits until ztunnel serves exactly these pods; returns how long that took. */
export async function untilHeld(pods: readonly KubeJson[]): Promise<number> {
  const began = performance.now();
  const wanted = pods.map(({ metadata }) => metadata.uid).sort();
  const isHeld = async () => {
    assert.deepEqual(await heldPods(), wanted);
    return true;
  };
  await waitFor("ztunnel to serve the pods", isHeld, { timeoutMs: 20_000, intervalMs: 10 });
  return Math.round(performance.now() - began);
}

/** Sends a request from one pod to another; returns the connections that ztunnel counted at both ends. */
export async function request(from: KubeJson, to: KubeJson): Promise<{ outbound: number; inbound: number }> {
  const before = await ztunnelStats();
  const url = `http://${to.status.podIP}:${appPort}/`;
  const netns = await netnsOf(from.status.podIP);
  const { stdout } = await inNetns(netns, ["busybox", "wget", "-q", "-O", "-", url]);
  assert.equal(stdout, "hello\n");
  const after = await ztunnelStats();
  const more = (pod: KubeJson, port: number) =>
    connections(after, pod, port) - connections(before, pod, port);
  return { outbound: more(from, 15001), inbound: more(to, 15008) };
}

/** Connections of a pod that came to a port of the ztunnels. */
export function connections(stats: ReadonlyMap<string, StandInStats>, pod: KubeJson, port: number): number {
  let sum = 0;
  for (const { workloads } of stats.values()) {
    sum += workloads[pod.metadata.uid]?.ports[port]?.connections ?? 0;
  }
  return sum;
}

const chainPath = (): string => join(kube.netDir, "10-podnet.conflist");
/** Names that our entry and launcher may have: in istio-cni's DaemonSet they have its. */
export type PluginName = "ambient-cni" | "istio-cni";
const launcherPath = (name: PluginName): string => join(kube.pluginDir, name);

/** Claims that the node calls our plugin once, at the end of its owner's chain, and that it can. */
export async function claimInstalled(name: PluginName = "ambient-cni"): Promise<void> {
  const chain = JSON.parse(await readFile(chainPath(), "utf8"));
  const types = chain.plugins.map(({ type }: { type: string }) => type);
  assert.deepEqual(types, ["bridge", "portmap", name]);
  const launcher = await readFile(launcherPath(name));
  assert.ok(launcher.equals(await readFile(join(root, "plugin/build/ambient-cni"))), "another launcher");
  assert.match(await hostRules(), /-A POSTROUTING -j ISTIO_POSTRT/);
}

/** Claims that the node is as its owner made it. */
export async function claimLeft(): Promise<void> {
  const chain = await readFile(chainPath());
  assert.equal(chain.toString(), ownersChain.toString(), "the chain is not as it was");
  assert.deepEqual(await readdir(kube.netDir), ["10-podnet.conflist"]);
  for (const name of ["ambient-cni", "istio-cni"] as const)
    await assert.rejects(
      access(launcherPath(name)),
      { code: "ENOENT" },
      `the launcher ${name} is still there`,
    );
  assert.doesNotMatch(await hostRules(), /ISTIO/);
  assert.deepEqual((await run(["ipset", "list", "-name"])).stdout.trim(), "");
  assert.deepEqual(await readdir("/var/run/istio-cni").catch(() => []), []);
}

async function hostRules(): Promise<string> {
  const tools = ["iptables-save", "ip6tables-save"];
  return (await Promise.all(tools.map((tool) => run([tool])))).map(({ stdout }) => stdout).join("\n");
}

/** Claims that no connection between pods began in clear since a mark of the trap. */
export function claimNothingInClear(mark: number): void {
  const toPods = trap.caught(mark).filter(({ to }) => !ownAddresses.includes(to));
  const caught = toPods.map(({ line }) => line);
  assert.deepEqual(caught, [], "a mesh pod spoke in clear");
}

function httpText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = get(url, { agent: false, timeout: 2_000 }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => resolve(text));
    });
    sent.on("timeout", () => sent.destroy(new Error(`no answer from ${url}`)));
    sent.on("error", reject);
  });
}
