// SPDX-License-Identifier: Apache-2.0
// Pods come and go for a long time, peers break off and come back; what the agent holds early and late is compared.
import { readdirSync, readlinkSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { loopProbeEnv, readAgentLoop } from "../attack/loop-reading.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { descriptorKind, type Footprint, growth, renderCounts } from "./footprint.ts";

export interface SoakOptions {
  readonly minutes: number;
  /** When the early look is. */
  readonly firstLookMinutes: number;
  /** Pods that come and go at the same time. */
  readonly lanes: number;
}

const mode = "istio.io/dataplane-mode";
const brokenWatchMs = 20_000;
const reconnectMs = 30_000;
/** Until everything that belongs to deleted pods is over: drains, pooled connections, delayed looks. */
const quietMs = 35_000;

/** Reasons with how often each was given. */
type Tally = Map<string, number>;

/** Runs it. @returns whether nothing has grown and nothing was wrong */
export async function soak(options: SoakOptions, say: (line: string) => void): Promise<boolean> {
  const mesh = await MeshNode.start({ agentEnv: { ...loopProbeEnv } });
  mesh.kubelet.createNamespace("inside", { [mode]: "ambient" });
  mesh.kubelet.createNamespace("outside");
  await mesh.startAgent();
  // a runtime takes lo down before our plugin hears of the end: a pod that ends can be handed over at that moment
  await mesh.startZtunnel({ maxBackoffMs: 200, allow: ["lo-down"] });
  await mesh.ztunnel.waitForReady();
  const steady = await mesh.kubelet.runPod({ namespace: "inside", name: "steady" });
  const work = new SoakWork(mesh, options.lanes);
  const startMs = performance.now();
  const minutes = (): string => ((performance.now() - startMs) / 60_000).toFixed(1);
  await work.runFor(options.firstLookMinutes * 60_000);
  const early = await look(mesh);
  say(`minute ${minutes()}: ${describe(early)}; ${work.summary}`);
  while (performance.now() - startMs < options.minutes * 60_000) {
    const leftMs = options.minutes * 60_000 - (performance.now() - startMs);
    await work.runFor(Math.min(leftMs, 60_000));
    say(
      `minute ${minutes()}: ${Math.round(mesh.agent.rssBytes() / 2 ** 20)} MB, ${mesh.agent.openFds()} descriptors; ${work.summary}`,
    );
  }
  const late = await look(mesh);
  say(`minute ${minutes()}: ${describe(late)}`);
  await claimCaptured(steady).catch((error: Error) => work.wrong.push(error.message));
  const wrong = [...growth(early, late), ...work.wrong];
  say(
    `${work.summary}; agent: ${mesh.agent.running ? "lives" : "HAS ENDED"}, ${mesh.agent.lines.length} lines of log`,
  );
  for (const [reason, count] of work.refusals) say(`refused ${count} times: ${reason}`);
  for (const line of wrong) say(`WRONG: ${line}`);
  const isWell = wrong.length === 0 && mesh.agent.running && work.started > 0;
  say(isWell ? "nothing has grown" : "not as it was");
  return isWell;
}

/** What comes and goes. */
class SoakWork {
  started = 0;
  readonly refusals: Tally = new Map();
  readonly wrong: string[] = [];
  readonly #mesh: MeshNode;
  readonly #lanes: number;
  #count = 0;
  #broken = 0;

  constructor(mesh: MeshNode, lanes: number) {
    this.#mesh = mesh;
    this.#lanes = lanes;
  }

  get summary(): string {
    const refused = [...this.refusals.values()].reduce((sum, count) => sum + count, 0);
    return `${this.started} pods, ${refused} refused, ${this.#broken} breaks`;
  }

  /** Works for so long; when it is over no pod of its own is there. */
  async runFor(ms: number): Promise<void> {
    const endMs = performance.now() + ms;
    const isOn = (): boolean => performance.now() < endMs;
    const lanes = Array.from({ length: this.#lanes }, (_, lane) => this.#lane(lane, isOn));
    const breaks = [
      this.#every(brokenWatchMs, isOn, () => this.#mesh.api.dropWatches()),
      this.#every(reconnectMs, isOn, () => this.#mesh.ztunnel.command({ do: "reconnect" })),
    ];
    await Promise.all([...lanes, ...breaks]);
  }

  async #every(pauseMs: number, isOn: () => boolean, action: () => unknown): Promise<void> {
    for (let nextMs = performance.now() + pauseMs; isOn(); await delay(200)) {
      if (performance.now() < nextMs) continue;
      nextMs += pauseMs;
      this.#broken++;
      await action();
    }
  }

  async #lane(lane: number, isOn: () => boolean): Promise<void> {
    while (isOn()) {
      const number = ++this.#count;
      const namespace = (number + lane) % 3 === 0 ? "outside" : "inside";
      const name = `pod-${lane}-${number}`;
      const pod = await this.#start(namespace, name);
      if (pod === undefined) continue;
      if (number % 5 === 0) await this.#claim(pod);
      if (number % 7 === 0) await this.#toggle(pod);
      await delay(number % 11 === 0 ? 500 : 20);
      await this.#mesh.kubelet.deletePod(pod);
    }
  }

  async #start(namespace: string, name: string): Promise<Pod | undefined> {
    try {
      const pod = await this.#mesh.kubelet.runPod({ namespace, name });
      this.started++;
      return pod;
    } catch (error) {
      // without what is another one for each pod
      const reason = (error as Error).message.replace(/"[^"]*"/g, '"…"').slice(0, 400);
      this.refusals.set(reason, (this.refusals.get(reason) ?? 0) + 1);
      this.#mesh.api.delete("pods", name, namespace);
      return undefined;
    }
  }

  async #claim(pod: Pod): Promise<void> {
    const claim = pod.spec.namespace === "inside" ? claimCaptured(pod) : claimUntouched(pod);
    await claim.catch((error: Error) => this.wrong.push(error.message));
  }

  async #toggle(pod: Pod): Promise<void> {
    const value = pod.spec.namespace === "inside" ? "none" : "ambient";
    this.#mesh.kubelet.labelPod(pod, { [mode]: value });
    await delay(300);
    this.#mesh.kubelet.labelPod(pod, { [mode]: null });
  }
}

/** With nothing going on. */
async function look({ agent }: MeshNode): Promise<Footprint> {
  await delay(quietMs);
  await waitFor("the agent to be ready", async () => (await fetch("http://127.0.0.1:8000/readyz")).ok, {
    timeoutMs: 15_000,
  });
  const { rssMb, resources } = await readAgentLoop();
  const descriptors: Record<string, number> = {};
  for (const fd of readdirSync(`/proc/${agent.pid}/fd`)) {
    try {
      const kind = descriptorKind(readlinkSync(`/proc/${agent.pid}/fd/${fd}`));
      descriptors[kind] = (descriptors[kind] ?? 0) + 1;
    } catch {
      // closed in between
    }
  }
  return { descriptors, handles: resources, rssMb };
}

function describe({ descriptors, handles, rssMb }: Footprint): string {
  return `${Math.round(rssMb)} MB; descriptors: ${renderCounts(descriptors)}; handles: ${renderCounts(handles)}`;
}
