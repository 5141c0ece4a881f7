// SPDX-License-Identifier: Apache-2.0
// The node of the campaign: pods that do nothing and must stay as they are, and what an attack needs to begin.
import { type ChildProcess, spawn } from "node:child_process";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { PodDetailReport } from "../../src/status/state-report.ts";
import { ask } from "../status/state-client.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import type { AgentProcess } from "../support/node/agent-process.ts";
import type { CniCall } from "../support/node/cni-runtime.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { type Pod, PodRuntime, type PodSpec } from "../support/node/pod.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import type { AttackGroup } from "./attack.ts";
import { HelperProcess } from "./helper-process.ts";
import { IdleTwin, loopProbeEnv } from "./loop-reading.ts";

export const STATE_SOCKET = "/var/run/istio-cni/state.sock";
export const RUN_DIR = "/var/run/istio-cni";
/** The node as its pods see it. */
export const NODE_ADDRESS = "10.210.0.1";
/** Namespace of those who do nothing, in the mesh; another one in which attackers are, in the mesh; and one outside of it. */
export const TENANT = "tenant";
export const EVIL = "evil";
export const PLAIN = "plain";
const ambient = { "istio.io/dataplane-mode": "ambient" };
const ztunnelOptions = { maxBackoffMs: 100, retryMs: 200 } as const;
const kubeconfig = "/run/node/proxied-kubeconfig";
/** Beside everything that a token must be: not read by others. */
const secretMode = 0o600;

/** Time of a whole start of a pod, of our plugin's part in it, and of a start without us; in ms. */
export interface TimedStart {
  readonly ms: number;
  readonly ownMs: number;
  readonly plainMs: number;
}

/** A node under attack; to be used inside a test node. */
export class Scene {
  readonly mesh: MeshNode;
  readonly proxy: HelperProcess<typeof import("./api-proxy.ts")>;
  readonly twin: IdleTwin;
  /** Captured pods that nobody touches. */
  readonly bystanders: readonly Pod[];
  /** A pod outside the mesh that nobody touches. */
  readonly outsider: Pod;
  /** The agent's. */
  readonly kubeconfig = kubeconfig;
  readonly proxyUrl: string;
  /** Of iptables: where the agent that runs writes rules. */
  variant: "nft" | "legacy" = "nft";
  readonly #calls: CniCall[];
  #count = 0;

  private constructor(parts: {
    mesh: MeshNode;
    proxy: HelperProcess<typeof import("./api-proxy.ts")>;
    twin: IdleTwin;
    bystanders: readonly Pod[];
    outsider: Pod;
    proxyUrl: string;
    calls: CniCall[];
  }) {
    this.mesh = parts.mesh;
    this.proxy = parts.proxy;
    this.twin = parts.twin;
    this.bystanders = parts.bystanders;
    this.outsider = parts.outsider;
    this.proxyUrl = parts.proxyUrl;
    this.#calls = parts.calls;
  }

  /** Makes the node with its first agent, ztunnel and pods. */
  static async start(): Promise<Scene> {
    const calls: CniCall[] = [];
    const mesh = await MeshNode.start({
      agentEnv: { KUBECONFIG: kubeconfig, RECONCILE_INTERVAL_SECONDS: "2", ...loopProbeEnv },
      onCniCall: (call) => void calls.push(call),
    });
    const proxy = await HelperProcess.start<typeof import("./api-proxy.ts")>(
      join(import.meta.dirname, "api-proxy.ts"),
    );
    const proxyUrl = await proxy.call.start({ upstream: mesh.api.url });
    writeKubeconfig(kubeconfig, proxyUrl);
    const twin = await IdleTwin.start();
    mesh.kubelet.createNamespace(TENANT, ambient);
    mesh.kubelet.createNamespace(EVIL, ambient);
    mesh.kubelet.createNamespace(PLAIN);
    await mesh.startAgent();
    await mesh.startZtunnel(ztunnelOptions);
    await mesh.ztunnel.waitForReady();
    const bystanders = [
      await mesh.kubelet.runPod({ namespace: TENANT, name: "steady-1" }),
      await mesh.kubelet.runPod({ namespace: TENANT, name: "steady-2" }),
    ];
    const outsider = await mesh.kubelet.runPod({ namespace: PLAIN, name: "steady-outside" });
    return new Scene({ mesh, proxy, twin, bystanders, outsider, proxyUrl, calls });
  }

  get agent(): AgentProcess {
    return this.mesh.agent;
  }

  /** A ztunnel without faults: the one that runs, or another one where it has ended. */
  async wellZtunnel(): Promise<void> {
    try {
      await this.mesh.ztunnel.setFaults();
    } catch {
      await this.mesh.startZtunnel(ztunnelOptions);
    }
  }

  /** Another agent in place of the one that runs, ready and warm. */
  async restart({ env = {}, wrapper = [] }: Pick<AttackGroup, "env" | "wrapper"> = {}): Promise<void> {
    if (this.agent.running) await this.agent.stop();
    this.variant = env.FORCE_IPTABLES_BINARY === "legacy" ? "legacy" : "nft";
    await this.mesh.startAgent(env, { wrapper });
    await this.mesh.ztunnel.waitForStats(({ ready, connected }) => ready && connected, 15_000);
    // its first pods make it compile what it had not used before
    await this.timedStarts(8);
  }

  /** Writes a file in one step, for root alone. */
  async writeSecret(path: string, text: string): Promise<void> {
    await writeFile(`${path}.new`, text, { mode: secretMode });
    await rename(`${path}.new`, path);
  }

  /** The kubeconfig that the scene begins with. */
  async faithfulKubeconfig(): Promise<void> {
    writeKubeconfig(this.kubeconfig, this.proxyUrl);
  }

  /** Whoever opens the file from now on waits for a writer. */
  async replaceByFifo(path: string): Promise<void> {
    await run(["mkfifo", `${path}.fifo`]);
    await rename(`${path}.fifo`, path);
  }

  /** A name that no pod had before. */
  fresh(stem: string): string {
    return `${stem}-${++this.#count}`;
  }

  /** Starts a pod of the attacker's namespace. */
  async evilPod(spec: Partial<PodSpec> = {}): Promise<Pod> {
    return await this.mesh.kubelet.runPod({ namespace: EVIL, name: this.fresh("evil"), ...spec });
  }

  /** Deletes pods; those that are gone already are none of its business. */
  async remove(...pods: readonly Pod[]): Promise<void> {
    for (const pod of pods) if (this.mesh.pods.pods.has(pod)) await this.mesh.kubelet.deletePod(pod);
  }

  /**
   * How long pods take to start: each round one of the tenant's and, at the same time, one without our plugin, which is what the machine
   * takes. They are deleted in the end.
   */
  async timedStarts(rounds: number): Promise<TimedStart[]> {
    const { kubelet, plainPods } = this.mesh;
    const times: TimedStart[] = [];
    const pods: Pod[] = [];
    const plain: Pod[] = [];
    try {
      for (let round = 0; round < rounds; round++) {
        this.#calls.length = 0;
        const startMs = performance.now();
        const since = (): number => performance.now() - startMs;
        const ours = kubelet.runPod({ namespace: TENANT, name: this.fresh("timed") }).then((pod) => {
          pods.push(pod);
          return { pod, ms: since() };
        });
        const other = plainPods.runPodSandbox({ namespace: PLAIN, name: this.fresh("floor") }).then((pod) => {
          plain.push(pod);
          return since();
        });
        const [{ pod, ms }, plainMs] = await Promise.all([ours, other]);
        const own = this.#calls.find(
          ({ verb, type, env }) =>
            verb === "ADD" && type === "ambient-cni" && env.CNI_CONTAINERID === pod.sandbox.id,
        );
        if (own === undefined) throw new Error("our plugin was not called");
        times.push({ ms, ownMs: own.ms, plainMs });
      }
    } finally {
      await Promise.all([...pods.map((pod) => kubelet.deletePod(pod)), ...plain.map((pod) => pod.delete())]);
    }
    return times;
  }

  /** A kubelet whose pods' chain has the portmap plugin between bridge and ours, and how its pods are deleted. */
  withPortmap(): { kubelet: Kubelet; remove: (pod: Pod) => Promise<void> } {
    const { mesh } = this;
    const { network, cni } = mesh.pods;
    const portmap = { type: "portmap", capabilities: { portMappings: true }, snat: true };
    const [bridge, ...rest] = network.plugins;
    const plugins = [...(bridge === undefined ? [] : [bridge]), portmap, ...rest];
    const runtime = new PodRuntime({
      cni,
      network: { ...network, plugins },
      cgroupFolder: mesh.node.cgroupFolder,
    });
    const kubelet = new Kubelet({ api: mesh.api, runtime, nodeName: "node-1" });
    return { kubelet, remove: (pod) => kubelet.deletePod(pod) };
  }

  /** What the agent says of a pod. */
  async report({ spec }: Pick<Pod, "spec">): Promise<PodDetailReport> {
    const answer = await ask({ socketPath: STATE_SOCKET }, `/api/v1/pods/${spec.namespace}/${spec.name}`);
    return answer.json() as unknown as PodDetailReport;
  }

  /** The text of an answer of the state API. */
  async stateText(path: string): Promise<string> {
    return (await ask({ socketPath: STATE_SOCKET }, path)).text;
  }

  /** How many pods of such names the agent still knows when none should be left; waits up to 5 s for none. */
  async podsLeft(isMeant: (name: string) => boolean): Promise<number> {
    let left = 0;
    const isNone = async (): Promise<boolean> => {
      const { pods } = JSON.parse(await this.stateText("/api/v1/pods")) as {
        pods: readonly { name: string }[];
      };
      left = pods.filter(({ name }) => isMeant(name)).length;
      return left === 0;
    };
    await waitFor("no such pod", isNone, { intervalMs: 100 }).catch(() => {});
    return left;
  }

  /** Waits until the agent's copy of the pods comes from a watch again. */
  async settled(): Promise<void> {
    const name = this.fresh("settled");
    const object = { metadata: { name, namespace: PLAIN, uid: `uid-${name}` }, spec: { nodeName: "node-1" } };
    this.mesh.api.put("pods", object as Parameters<typeof this.mesh.api.put>[1]);
    const isSeen = async (): Promise<boolean> => (await this.stateText("/api/v1/pods")).includes(name);
    await waitFor("the agent to see a new pod", isSeen, { timeoutMs: 40_000, intervalMs: 50 });
    this.mesh.api.delete("pods", name, PLAIN);
  }

  /** Waits until the agent says that a pod is in a state. */
  async untilState(pod: Pick<Pod, "spec">, state: string, timeoutMs = 15_000): Promise<void> {
    await waitFor(`"${pod.spec.name}" to be ${state}`, async () => (await this.report(pod)).state === state, {
      timeoutMs,
      intervalMs: 20,
    });
  }

  /** How long one of the agent's questions takes to answer; Infinity where there is no answer within 5 s. In ms. */
  async askMs(port: number, path: string, host = "127.0.0.1"): Promise<number> {
    const startMs = performance.now();
    try {
      const answer = await fetch(`http://${host}:${port}${path}`, { signal: AbortSignal.timeout(5_000) });
      await answer.text();
      return answer.status === 200 ? performance.now() - startMs : Number.POSITIVE_INFINITY;
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  }

  /** Starts a program in a pod's network namespace, in a process group of its own. */
  inPod(pod: Pod, argv: readonly string[]): ChildProcess {
    return spawn("nsenter", [`--net=${pod.netns}`, "--", ...argv], {
      env: cleanEnv(),
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
  }
}

/** Ends a program with its children. */
export async function endGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once("exit", resolve));
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    child.kill("SIGKILL");
  }
  await gone;
}

/** Runs something at once and then so many times more with a pause in between. */
export async function repeat(
  count: number,
  pauseMs: number,
  action: (index: number) => unknown,
): Promise<void> {
  for (let index = 0; index < count; index++) {
    await action(index);
    await delay(pauseMs);
  }
}
