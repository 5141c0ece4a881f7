// SPDX-License-Identifier: Apache-2.0
// What swaps.test.ts does inside a node: istio-cni and ours change places, while pods come and requests go.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, readdir, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { exemptListName } from "../../src/install/exempt-namespaces.ts";
import { type IstioAddEvent, IstioCni } from "../support/istio-cni/stand-in.ts";
import { AgentProcess } from "../support/node/agent-process.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import type { PluginError } from "../support/node/cni-exec.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { bridgeConflist, type Conflist, type PluginConfig } from "../support/node/conflist.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { type Pod, PodRuntime } from "../support/node/pod.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const runDir = "/var/run/istio-cni";
const conflist = join(netDir, "10-net.conflist");

await run(["mount", "-t", "tmpfs", "none", "/var/lib"]);
for (const dir of [netDir, binDir, runDir, "/var/lib/cni"]) await mkdir(dir, { recursive: true });
const mesh = await MeshNode.start();
const { cniVersion, name, plugins } = bridgeConflist({ leaseDir: join(mesh.node.scratch, "ipam-swaps") });
await writeFile(conflist, JSON.stringify({ cniVersion, name, plugins }, null, 2));

/** The chain as it is when the runtime begins with a pod. */
const network: Conflist = {
  cniVersion,
  name,
  get plugins(): PluginConfig[] {
    return (JSON.parse(readFileSync(conflist, "utf8")) as { plugins: PluginConfig[] }).plugins;
  },
};
const cni = new CniRuntime({ binDirs: ["/usr/lib/cni", binDir] });
const runtime = new PodRuntime({ cni, network, cgroupFolder: mesh.node.cgroupFolder });
const kubelet = new Kubelet({ api: mesh.api, runtime, nodeName: "node-1" });
kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
kubelet.createNamespace("plain");

/** Both agents in istio-cni's DaemonSet, one at a time. */
type Running = { stop(): Promise<void> };

/** Under which names ours runs; under its own it has to be told to replace istio-cni. */
export type Naming = "in istio-cni's DaemonSet" | "under our own names";
const podNames: Readonly<Record<Naming, string>> = {
  "in istio-cni's DaemonSet": "istio-cni-node-x7k2p",
  "under our own names": "ambient-cni-node-x7k2p",
};

async function startOurs(naming: Naming): Promise<Running> {
  putDaemonSet(podNames[naming]);
  const agent = await mesh.startAgent({
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
    POD_NAMESPACE: "istio-system",
    POD_NAME: podNames[naming],
    REPLACE_ISTIO_CNI: "true",
  });
  return {
    stop: async () => {
      // in istio-cni's DaemonSet nothing but the image changes; ours is uninstalled
      if (naming === "under our own names") mesh.api.delete("daemonsets", "ambient-cni-node", "istio-system");
      await agent.stop(30_000);
    },
  };
}

function putDaemonSet(podName: string): void {
  const name = podName.replace(/-[^-]+$/, "");
  const uid = `uid-${name}`;
  const owner = { apiVersion: "apps/v1", kind: "DaemonSet", name, uid, controller: true };
  mesh.api.put("daemonsets", { metadata: { name, namespace: "istio-system", uid } });
  mesh.api.put("pods", {
    metadata: { name: podName, namespace: "istio-system", uid: `uid-${podName}`, ownerReferences: [owner] },
    spec: { nodeName: "node-1" },
  } as Parameters<typeof mesh.api.put>[1]);
}

/** The stand-in has the socket and the installer; what captures behind it is an agent that nobody else can reach. */
async function startIstio({ daemonSetStays }: { readonly daemonSetStays: boolean }): Promise<Running> {
  const behind = "/run/node/behind";
  let agent: AgentProcess | undefined;
  const istio = await IstioCni.start({
    netDir,
    binDir,
    runDir,
    mesh: ["mesh"],
    sync: async () => {
      agent = await AgentProcess.start({
        nodeName: "node-1",
        kubeconfig: "/run/node/kubeconfig",
        runDir: behind,
        // in a pod of its own
        env: { HEALTH_PORT: "8001", MONITORING_PORT: "15024" },
      });
      await agent.waitReady();
    },
    capture: (event) => post(join(behind, "pluginevent.sock"), event),
  });
  await waitFor("its installation", () => istio.installations > 0, { timeoutMs: 15_000 });
  return {
    stop: async () => {
      await istio.stop({ daemonSetStays });
      await agent?.stop();
    },
  };
}

function post(socketPath: string, event: IstioAddEvent): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, path: "/cmdadd", method: "POST" }, (response) => {
      let text = "";
      response.on("data", (part) => {
        text += String(part);
      });
      response.on("end", () => (response.statusCode === 200 ? resolve() : reject(new Error(text))));
    });
    sent.on("error", reject);
    sent.end(JSON.stringify(event));
  });
}

/** Pods that come and go without a break, each looked at when its ADD has succeeded. */
class Churn {
  born = 0;
  /** What refused a pod: the first words of each plugin's answer. */
  readonly refusals: string[] = [];
  readonly wrong: string[] = [];
  #isOver = false;
  readonly #loops: Promise<void>[];

  constructor() {
    this.#loops = ["mesh", "plain"].map((namespace) => this.#loop(namespace));
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#loops);
  }

  async #loop(namespace: string): Promise<void> {
    for (let count = 0; !this.#isOver; count++) {
      const pod = await this.#start(namespace, `${namespace}-${process.hrtime.bigint()}-${count}`);
      const claim = namespace === "mesh" ? claimCaptured(pod) : claimUntouched(pod);
      await claim.catch((error: Error) => this.wrong.push(`${pod.spec.name}: ${error.message}`));
      this.born++;
      await kubelet.deletePod(pod);
    }
  }

  /** As the kubelet: the same pod again, with another sandbox. */
  async #start(namespace: string, podName: string): Promise<Pod> {
    const uid = crypto.randomUUID();
    for (;;) {
      try {
        return await kubelet.runPod({ namespace, name: podName, uid });
      } catch (error) {
        this.refusals.push((error as PluginError).message.replace(/^.*?failed \(add\): /, "").slice(0, 400));
        await delay(300);
      }
    }
  }
}

/** What is left on the node. */
export interface Left {
  readonly chain: readonly string[];
  readonly bin: readonly (readonly [name: string, isOurs: boolean])[];
  readonly kubeconfig: boolean;
  /** The list of namespaces that start without our agent: kept for it, where nobody uninstalled it. */
  readonly list: boolean;
}

async function look(): Promise<Left> {
  const entries = (JSON.parse(await readFileSync(conflist, "utf8")) as { plugins: PluginConfig[] }).plugins;
  const files = (await readdir(binDir)).sort();
  const names = files.filter((each) => each !== exemptListName);
  const sizes = await Promise.all(names.map((each) => stat(join(binDir, each))));
  return {
    chain: entries.map(({ type, agent_wait_seconds }) =>
      agent_wait_seconds === undefined ? type : `${type} (ours)`,
    ),
    bin: names.map((each, index) => [each, (sizes[index]?.size ?? 0) < 1_000_000]),
    kubeconfig: readdirSync(runDir).includes("istio-cni-kubeconfig"),
    list: files.includes(exemptListName),
  };
}

async function untilLeft(wanted: Left, what: string): Promise<void> {
  let seen: Left | undefined;
  const isSo = async (): Promise<boolean> => {
    seen = await look();
    return JSON.stringify(seen) === JSON.stringify(wanted);
  };
  await waitFor(what, isSo, { timeoutMs: 30_000, intervalMs: 50 }).catch((error: Error) => {
    throw new Error(`${error.message}; it is ${JSON.stringify(seen)}`);
  });
}

export interface Swaps {
  readonly born: number;
  readonly refusals: readonly string[];
  readonly wrong: readonly string[];
  readonly requests: number;
  readonly lost: number;
  readonly errors: readonly string[];
}

/** Changes from istio-cni to ours and back, six times in all, and looks at what each left of the other. */
export async function swap(naming: Naming): Promise<Swaps> {
  const inPlace = naming === "in istio-cni's DaemonSet";
  const istioAlone: Left = {
    chain: ["bridge", "istio-cni"],
    bin: [["istio-cni", false]],
    kubeconfig: true,
    list: inPlace,
  };
  const type = inPlace ? "istio-cni" : "ambient-cni";
  const oursAlone: Left = {
    chain: ["bridge", `${type} (ours)`],
    bin: [[type, true]],
    kubeconfig: false,
    list: true,
  };
  await mesh.startZtunnel();
  let running = await startIstio({ daemonSetStays: inPlace });
  await mesh.ztunnel.waitForReady(10_000);
  const [server, client] = [
    await kubelet.runPod({ namespace: "mesh", name: "server" }),
    await kubelet.runPod({ namespace: "mesh", name: "client" }),
  ];
  const [serverApp, clientApp] = [await server.startApp(), await client.startApp()];
  await serverApp.call.serveHttp(8080);
  await clientApp.call.startTraffic({ host: String(server.ip4), port: 8080, pauseMs: 20 });
  const churn = new Churn();
  try {
    for (let round = 0; round < 3; round++) {
      running = await change(running, { to: () => startOurs(naming), alone: oursAlone, churn, inPlace });
      const to = () => startIstio({ daemonSetStays: inPlace });
      running = await change(running, { to, alone: istioAlone, churn, inPlace });
    }
  } finally {
    await churn.stop();
  }
  const { sent, failed, errors } = await clientApp.call.stopTraffic();
  await claimCaptured(server);
  await running.stop();
  const { born, refusals, wrong } = churn;
  return { born, refusals, wrong, requests: sent, lost: failed, errors };
}

/** Ours is installed beside an istio-cni that nobody told it to replace, then istio-cni goes. */
export async function standAside(): Promise<{ readonly reason: string; readonly readyMs: number }> {
  const sockets = [join(runDir, "pluginevent.sock"), "/var/run/ztunnel/ztunnel.sock"];
  const inodes = () => Promise.all(sockets.map(async (path) => (await stat(path)).ino));
  await mesh.startZtunnel();
  const istio = await startIstio({ daemonSetStays: false });
  await mesh.ztunnel.waitForReady(10_000);
  const before = await inodes();
  const podName = podNames["under our own names"];
  putDaemonSet(podName);
  const ours = await AgentProcess.start({
    nodeName: "node-1",
    kubeconfig: "/run/node/kubeconfig",
    env: {
      INSTALL_CNI_PLUGIN: "true",
      MOUNTED_CNI_NET_DIR: netDir,
      MOUNTED_CNI_BIN_DIR: binDir,
      POD_NAMESPACE: "istio-system",
      POD_NAME: podName,
    },
  });
  await waitFor("it to stand aside", () => ours.text.includes("standing aside"));
  const line = ours.text.split("\n").find((each) => each.includes("standing aside")) ?? "{}";
  const pod = await kubelet.runPod({ namespace: "mesh", name: "beside" });
  await claimCaptured(pod);
  assert.deepEqual(await inodes(), before, "sockets of the running istio-cni were taken");
  assert.deepEqual((await look()).bin, [["istio-cni", false]]);
  await istio.stop();
  const startMs = performance.now();
  await ours.waitReady();
  const readyMs = performance.now() - startMs;
  const next = await kubelet.runPod({ namespace: "mesh", name: "alone" });
  for (const each of [pod, next]) await claimCaptured(each);
  mesh.api.delete("daemonsets", "ambient-cni-node", "istio-system");
  await ours.stop(30_000);
  return { reason: (JSON.parse(line) as { reason: string }).reason, readyMs };
}

async function change(
  from: Running,
  { to, alone, churn, inPlace }: { to: () => Promise<Running>; alone: Left; churn: Churn; inPlace: boolean },
): Promise<Running> {
  const before = churn.born;
  // beside each other where both have names of their own; one pod after the other in one DaemonSet
  if (inPlace) await from.stop();
  const next = await to();
  if (!inPlace) await from.stop();
  await untilLeft(alone, "one agent's to be left");
  await waitFor("pods to come", () => churn.born > before + 4, { timeoutMs: 30_000 });
  return next;
}
