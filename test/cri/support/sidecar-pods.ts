// SPDX-License-Identifier: Apache-2.0
// Injected pods of a real containerd: the kubelet's part from the sandbox over the init container to the proxy, told to the API server as
// the runtime tells it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { boxImage } from "../../cluster/support/box-image.ts";
import { type Injection, injectedPod } from "../../support/node/injected-pod.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { ContainerStatus } from "./cri-client.ts";
import { appUrl, type CriNode, type CriPod, type PodSpec, type RunOptions } from "./cri-node.ts";

/** User of the proxy and of the init container. Source: istio/istio injection-template.yaml, with pilot.cni.enabled. */
const proxyUid = 1337;
const statusPort = 15021;
const checkName = "istio-validation";
/** Where containers see the program. */
const inside = "/bin/sidecar";
/** A container that ends by itself takes 5 s. */
const patience = { timeoutMs: 20_000, intervalMs: 20 };

/** One end of the init container, as the API has it. */
interface Terminated {
  readonly exitCode: number;
  readonly reason: string;
  readonly message?: string;
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly containerID: string;
}

/** A pod whose containers run. */
export interface SidecarPod extends CriPod {
  /** Exit codes of its init container, in order. */
  readonly exitCodes: readonly number[];
  readonly app: string;
}

/** Runs such pods on a node. */
export class SidecarPods {
  readonly #node: CriNode;
  readonly #program: string;

  private constructor(node: CriNode, program: string) {
    this.#node = node;
    this.#program = program;
  }

  /** Builds the program of init container and proxy. */
  static async on(node: CriNode): Promise<SidecarPods> {
    const program = join(node.node.scratch, "sidecar");
    const flags = ["-static", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"];
    await run(["gcc", ...flags, "-o", program, join(import.meta.dirname, "sidecar.c")]);
    return new SidecarPods(node, program);
  }

  /** Creates the object of a pod as the injector leaves it. @param ownerUid of the controller that makes another one in its place */
  create(
    namespace: string,
    { ownerUid, ...injection }: Injection & { readonly ownerUid?: string } = {},
  ): PodSpec {
    return this.#node.createPod(namespace, {
      ...injectedPod(injection),
      ...(ownerUid === undefined ? {} : { ownerUid }),
    });
  }

  /** Runs a pod up to its application; its init container must succeed at once. @throws CriError; Error with the exit code */
  async run(spec: PodSpec, options: RunOptions = {}): Promise<SidecarPod> {
    const pod = await this.#node.runPod(spec, { ...options, phase: "Pending" });
    return await this.start(pod, { maxAttempts: 1 });
  }

  /**
   * What follows the sandbox. The init container is started again whenever it fails, without a pause: the kubelet's is not what is looked at.
   * @throws Error with its exit codes when it has failed so often
   */
  async start(pod: CriPod, { maxAttempts }: { readonly maxAttempts: number }): Promise<SidecarPod> {
    const exitCodes: number[] = [];
    let last: Terminated | undefined;
    while (last?.exitCode !== 0) {
      if (exitCodes.length === maxAttempts)
        throw new Error(`${checkName} of ${pod.spec.name} ended with ${exitCodes.join(", ")}`);
      last = await this.#check(pod, exitCodes.length, last);
      exitCodes.push(last.exitCode);
    }
    await this.#startProxy(pod);
    const app = await this.#node.startApp(pod);
    await waitFor(`the proxy of ${pod.spec.name}`, () => this.#isReady(pod), patience);
    this.#node.api.edit("pods", pod.spec, (object) => {
      object.status = { ...object.status, phase: "Running" };
    });
    return { ...pod, exitCodes, app };
  }

  /** What the proxy was led to, as `WAY ADDRESS:PORT`, in order. */
  async ledToProxy(pod: CriPod): Promise<string[]> {
    const log = await readFile(this.#node.logOf(pod, "istio-proxy"), "utf8");
    return [...log.matchAll(/^\S+ stdout F (.*)$/gm)].map(([, line = ""]) => line);
  }

  /** Runs the init container to its end, and has the API server told of it. @param last its end before */
  async #check(pod: CriPod, attempt: number, last: Terminated | undefined): Promise<Terminated> {
    const { cri } = this.#node;
    const id = await cri.startContainer(pod.id, pod.config, {
      name: checkName,
      image: boxImage,
      command: [inside, "check"],
      attempt,
      uid: proxyUid,
      files: { [inside]: this.#program },
    });
    const before = last === undefined ? {} : { lastState: { terminated: last } };
    const { startedAt } = await cri.containerStatus(id);
    this.#tell(pod, attempt, { state: { running: { startedAt: timeOf(startedAt) } }, ...before });
    const ended = async (): Promise<ContainerStatus | undefined> => {
      const status = await cri.containerStatus(id);
      return status.state === "CONTAINER_EXITED" ? status : undefined;
    };
    const end = terminated(id, await waitFor(`the end of ${checkName}`, ended, patience));
    if (end.exitCode === 0) this.#tell(pod, attempt, { state: { terminated: end }, ...before });
    else
      this.#tell(pod, attempt, {
        state: { waiting: { reason: "CrashLoopBackOff" } },
        lastState: { terminated: end },
      });
    return end;
  }

  #tell({ spec }: CriPod, restartCount: number, states: object): void {
    this.#node.api.edit("pods", spec, (object) => {
      const init = { name: checkName, restartCount, image: boxImage, ...states };
      object.status = { ...object.status, initContainerStatuses: [init] };
    });
  }

  async #startProxy(pod: CriPod): Promise<void> {
    await this.#node.cri.startContainer(pod.id, pod.config, {
      name: "istio-proxy",
      image: boxImage,
      command: [inside, "proxy"],
      uid: proxyUid,
      files: { [inside]: this.#program },
    });
  }

  /** The proxy by its readiness probe, and the application behind it. */
  async #isReady(pod: CriPod): Promise<boolean> {
    const probe = await fetch(`http://${pod.ips[0]}:${statusPort}/healthz/ready`);
    const page = await fetch(appUrl(pod));
    return probe.ok && page.ok;
  }
}

function terminated(id: string, status: ContainerStatus): Terminated {
  const { exitCode, reason, message, startedAt, finishedAt } = status;
  return {
    exitCode,
    reason,
    ...(message === "" ? {} : { message }),
    startedAt: timeOf(startedAt),
    finishedAt: timeOf(finishedAt),
    containerID: `containerd://${id}`,
  };
}

/** Source: Kubernetes apimachinery metav1.Time, whole seconds. */
function timeOf(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, "Z");
}
