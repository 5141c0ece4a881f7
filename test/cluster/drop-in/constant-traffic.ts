// SPDX-License-Identifier: Apache-2.0
// Clients in pods that never stop asking, and pods that come and go meanwhile.
import assert from "node:assert/strict";
import { join } from "node:path";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { KubeJson } from "../support/kube-admin.ts";
import { appPort, container, meshNamespace, netnsOf, patience, podPath } from "../support/workloads.ts";
import { connections, kube, ztunnelStats } from "./scene.ts";

const clientPath = join(import.meta.dirname, "../support/request-client.ts");

/** How it went with the requests of all clients. */
export interface TrafficSums {
  readonly sent: number;
  readonly failed: number;
  readonly longestMs: number;
  readonly failures: readonly string[];
}

/** Requests from pod to pod in a circle, each on a connection of its own, until `stop`. */
class ConstantTraffic {
  readonly #clients: readonly ManagedProcess[];

  private constructor(clients: readonly ManagedProcess[]) {
    this.#clients = clients;
  }

  /** Resolves when every client has had an answer. */
  static async start(pods: readonly KubeJson[], pauseMs = 40): Promise<ConstantTraffic> {
    const clients: ManagedProcess[] = [];
    for (const [index, from] of pods.entries()) {
      const to = pods[(index + 1) % pods.length] as KubeJson;
      const url = `http://${to.status.podIP}:${appPort}/`;
      const enter = ["nsenter", `--net=${await netnsOf(from.status.podIP)}`, "--"];
      const argv = [...enter, process.execPath, clientPath, url, String(pauseMs)];
      clients.push(new ManagedProcess(argv, { name: `client in ${from.metadata.name}` }));
    }
    for (const client of clients) await client.untilLine("to be answered", ({ text }) => text === "ok");
    return new ConstantTraffic(clients);
  }

  /** Ends the clients. */
  async stop(): Promise<TrafficSums> {
    await Promise.all(this.#clients.map((client) => client.stop(10_000)));
    const all = this.#clients.map(({ lines }) => lines.at(-1)?.json?.sums as TrafficSums);
    return {
      sent: all.reduce((sum, { sent }) => sum + sent, 0),
      failed: all.reduce((sum, { failed }) => sum + failed, 0),
      longestMs: Math.max(...all.map(({ longestMs }) => longestMs)),
      failures: this.#clients.flatMap(({ lines }) =>
        lines.filter(({ json }) => json?.failure !== undefined).map(({ text }) => text),
      ),
    };
  }
}

/** Does some work under traffic, and claims afterwards that every request was answered. */
export async function underTraffic(
  way: { readonly pods: readonly KubeJson[]; readonly pauseMs?: number },
  work: () => Promise<void>,
): Promise<TrafficSums> {
  const traffic = await ConstantTraffic.start(way.pods, way.pauseMs);
  let sums: TrafficSums;
  try {
    await work();
  } finally {
    sums = await traffic.stop();
  }
  claimAllAnswered(sums);
  return sums;
}

/** Claims that there was traffic and that every request was answered. */
function claimAllAnswered(sums: TrafficSums): void {
  assert.ok(sums.sent > 100, `only ${sums.sent} requests were sent`);
  assert.equal(sums.failed, 0, sums.failures.slice(0, 10).join("\n"));
}

/** A pod whose init container connects to another pod at once; it never restarts, so a first packet that is lost shows. */
export function earlyPod(name: string, to: KubeJson): object {
  const url = `http://${to.status.podIP}:${appPort}/`;
  return {
    metadata: { name, labels: { app: name } },
    spec: {
      terminationGracePeriodSeconds: 0,
      restartPolicy: "Never",
      initContainers: [container("first", `exec wget -q -O - ${url}`)],
      containers: [container("app", "exec sleep 1000000")],
    },
  };
}

const isSettled = ({ status }: KubeJson): boolean => ["Running", "Failed"].includes(status.phase);
/** One that is made while agent and ztunnel are away waits for both, and for the kubelet to try again; later it is stuck. */
const bornWithinMs = 90_000;

/** Creates such a pod and waits until it runs, which it does only when its first connection was answered. */
export async function createEarly(name: string, to: KubeJson): Promise<KubeJson> {
  await kube.admin.create(`/api/v1/namespaces/${meshNamespace}/pods`, earlyPod(name, to));
  const pod = await kube.admin.until(podPath(name), isSettled, bornWithinMs);
  assert.equal(pod.status.phase, "Running", `"${name}" failed: ${JSON.stringify(pod.status)}`);
  assert.equal(pod.status.initContainerStatuses[0].restartCount, 0, "the first request failed");
  return pod;
}

/** Deletes a pod and waits until its object is gone. */
export async function deletePod(name: string): Promise<void> {
  await kube.admin.delete(podPath(name), 0);
  await waitFor(`"${name}" to be gone`, async () => !(await exists(name)), patience);
}

async function exists(name: string): Promise<boolean> {
  const pods = await kube.admin.list(`/api/v1/namespaces/${meshNamespace}/pods`);
  return pods.some(({ metadata }) => metadata.name === name);
}

/** Pods that come and go, one after the other in each lane, until `stop`. */
export class PodChurn {
  readonly #lanes: readonly Promise<void>[];
  #stopped = false;
  #born = 0;
  #slowestMs = 0;

  /** @param to whom their init containers ask */
  constructor(to: KubeJson, lanes = 2) {
    this.#lanes = Array.from({ length: lanes }, (_, lane) => this.#run(lane, to));
    for (const lane of this.#lanes) lane.catch(() => {});
  }

  /** Pods that ran so far. */
  get born(): number {
    return this.#born;
  }

  /** Waits for the pods under way. @throws what went wrong with one of them */
  async stop(): Promise<{ born: number; slowestMs: number }> {
    this.#stopped = true;
    await Promise.all(this.#lanes);
    return { born: this.#born, slowestMs: this.#slowestMs };
  }

  async #run(lane: number, to: KubeJson): Promise<void> {
    for (let number = 1; !this.#stopped; number++) {
      const name = `churn-${lane}-${number}`;
      const began = performance.now();
      try {
        const pod = await createEarly(name, to);
        this.#slowestMs = Math.max(this.#slowestMs, Math.round(performance.now() - began));
        assert.equal(connections(await ztunnelStats(), pod, 15001), 1, `"${name}" began outside the mesh`);
        this.#born++;
      } finally {
        await deletePod(name);
      }
    }
  }
}
