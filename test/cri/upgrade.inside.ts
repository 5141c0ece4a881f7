// SPDX-License-Identifier: Apache-2.0
// What upgrade.test.ts does inside a node: agents take over from each other while pods are being run without a pause.
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";
import { type Attempt, runUntilItRuns } from "./support/impatient-kubelet.ts";

/** How an agent ends: on SIGTERM while its successor starts, or by SIGKILL just before. */
export type Ending = "stop" | "kill";

/** One agent after another. */
export interface Handover {
  readonly ending: Ending;
  /** RunPodSandbox under way when the old agent was told to end. */
  readonly underWay: number;
  /** From then until the new one was ready. */
  readonly readyMs: number;
  /** How long the old one took to end. */
  readonly endMs: number;
}

/** What the handovers did to the pods. */
export interface UpgradeReport {
  readonly handovers: Handover[];
  readonly attempts: Attempt[];
  /** Times at which ztunnel did not hold a pod that had been there all along. */
  readonly gaps: string[];
  /** Rule changes in those pods. */
  readonly ruleChanges: number;
}

/** RunPodSandbox under way at any time. */
const concurrency = 8;
/** RunPodSandbox that must succeed between one handover and the next. */
const podsBetween = 12;
/** Pods that run at the same time, so that the node is not filled. */
const maxPods = 24;

let node: CriNode;

export async function start(): Promise<void> {
  node = await CriNode.start();
  // a pod that is being deleted while the next snapshot is sent: its loopback plugin ends beside our DEL, not after it
  await node.startMesh({ allow: ["lo-down"] });
  // a message that it does not survive is worth more than all that follows from it
  void node.ztunnel.exited.then(({ code }) => {
    const last = node.ztunnel.events.slice(-12).map((event) => JSON.stringify(event));
    if (code !== 0 && code !== null)
      process.stderr.write(`ztunnel has ended (code ${code}):\n${last.join("\n")}\n`);
  });
}

/** Pods come and go until all handovers are over. */
export async function upgrade(endings: readonly Ending[]): Promise<UpgradeReport> {
  const standing: CriPod[] = [];
  for (let count = 0; count < 4; count += 1) standing.push(await node.runPod(node.createPod(meshNamespace)));
  const before = await generations(standing);
  const churn = new Churn();
  const watch = new StandingWatch(standing);
  const handovers: Handover[] = [];
  for (const [index, ending] of endings.entries()) {
    await churn.untilMore(podsBetween);
    // pods of agents that overlap have ports of their own
    handovers.push(await handOver(ending, { port: 8100 + index, churn }));
  }
  await churn.untilMore(podsBetween);
  await churn.stop();
  const gaps = await watch.stop();
  const after = await generations(standing);
  for (const pod of standing) await claimCaptured({ netns: pod.netns, spec: pod.spec });
  for (const pod of standing) await node.deletePod(pod);
  await waitForNothing(node);
  const ruleChanges = after.reduce((sum, each, index) => sum + each - (before[index] ?? 0), 0);
  return { handovers, attempts: churn.attempts, gaps, ruleChanges };
}

function generations(pods: readonly CriPod[]): Promise<number[]> {
  return Promise.all(pods.map(({ netns }) => ruleGeneration(netns)));
}

async function handOver(ending: Ending, { port, churn }: { port: number; churn: Churn }): Promise<Handover> {
  const old = node.agent;
  const ports = { HEALTH_PORT: String(port), MONITORING_PORT: String(port + 100) };
  const underWay = await churn.allUnderWay();
  const began = performance.now();
  const ended = (ending === "stop" ? old.stop(10_000) : old.kill()).then(() => performance.now() - began);
  if (ending === "kill") await ended;
  await node.startAgent(ports);
  await node.agent.waitReady();
  const readyMs = performance.now() - began;
  const endMs = await ended;
  if (ending === "stop") assert.equal(await old.exited, 0, "the old agent was not able to stop in order");
  return { ending, underWay, readyMs, endMs };
}

/** Pods that are run and deleted without a pause; every third one is not in the mesh. */
class Churn {
  readonly attempts: Attempt[] = [];
  underWay = 0;
  #asked = 0;
  #ran = 0;
  #alive = 0;
  #room = maxPods;
  #isStopped = false;
  #failure: Error | undefined;
  readonly #followUps = new Set<Promise<void>>();
  readonly #runners: Promise<void>[];

  constructor() {
    this.#runners = Array.from({ length: concurrency }, () =>
      this.#run().catch((error: Error) => {
        this.#failure ??= error;
      }),
    );
  }

  /** Waits until so many more pods have been run. @throws what went wrong with any pod */
  async untilMore(count: number): Promise<void> {
    const goal = this.#ran + count;
    await waitFor(`${count} more pods`, () => this.#failure !== undefined || this.#ran >= goal, {
      timeoutMs: 30_000,
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  /**
   * Waits until as many pods are being run as there may be, whatever else they are at, and says how many.
   *
   * On a busy machine pods end more slowly than they start, and the node is then full: there is room for one round more.
   * @throws what went wrong with any pod
   */
  async allUnderWay(): Promise<number> {
    this.#room = maxPods + concurrency;
    await waitFor(
      "as many pods to be under way as there may be",
      () => this.#failure !== undefined || this.underWay === concurrency,
    );
    this.#room = maxPods;
    if (this.#failure !== undefined) throw this.#failure;
    return this.underWay;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#runners);
    await Promise.all(this.#followUps);
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #run(): Promise<void> {
    while (!this.#isStopped && this.#failure === undefined) {
      if (this.#alive >= this.#room) {
        await delay(5);
        continue;
      }
      this.#alive += 1;
      this.#asked += 1;
      const spec = node.createPod(this.#asked % 3 === 0 ? plainNamespace : meshNamespace);
      this.underWay += 1;
      // the first try may meet an agent that is ending
      const running = runUntilItRuns(node, spec, { attempts: this.attempts, maxAttempts: 2 });
      const pod = await running.finally(() => {
        this.underWay -= 1;
      });
      this.#ran += 1;
      // the next one is not to wait for what becomes of this one
      const followUp: Promise<void> = this.#end(pod)
        .catch((error: Error) => {
          this.#failure ??= error;
        })
        .finally(() => this.#followUps.delete(followUp));
      this.#followUps.add(followUp);
    }
  }

  async #end(pod: CriPod): Promise<void> {
    const isInMesh = pod.spec.namespace === meshNamespace;
    const isHeld = pod.spec.uid in (await node.ztunnel.stats()).workloads;
    assert.equal(isHeld, isInMesh, `${pod.spec.name} is ${isHeld ? "" : "not "}captured when it starts`);
    const named = { netns: pod.netns, spec: pod.spec };
    if (isInMesh) await claimCaptured(named);
    else await claimUntouched(named);
    await node.deletePod(pod);
    this.#alive -= 1;
  }
}

/** Looks again and again whether ztunnel holds the pods that stay. */
class StandingWatch {
  readonly #gaps: string[] = [];
  readonly #work: Promise<void>;
  #isStopped = false;

  constructor(pods: readonly CriPod[]) {
    this.#work = this.#watch(pods);
  }

  async #watch(pods: readonly CriPod[]): Promise<void> {
    while (!this.#isStopped) {
      const { workloads } = await node.ztunnel.stats();
      for (const { spec } of pods) {
        if (!(spec.uid in workloads)) this.#gaps.push(`${spec.name} at ${performance.now().toFixed(0)}`);
      }
      await delay(20);
    }
  }

  async stop(): Promise<string[]> {
    this.#isStopped = true;
    await this.#work;
    return this.#gaps;
  }
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
