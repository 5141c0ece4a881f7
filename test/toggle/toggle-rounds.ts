// SPDX-License-Identifier: Apache-2.0
// Traffic on every way while its pods leave the mesh and enter it again, round after round.
import { waitFor } from "../support/node/wait-for.ts";
import { addTallies, type LabelChange, monotonicMs, type Tally } from "./tally.ts";
import {
  type ToggledPods,
  type TrafficLoad,
  type TrafficWay,
  trafficPort,
  untilSettled,
} from "./toggle-scene.ts";
import type { ToggleWorld } from "./toggle-world.ts";

/** How long it goes on, and with what. */
export interface RoundOptions {
  readonly world: ToggleWorld;
  readonly load: TrafficLoad;
  /** Each is leaving and entering. */
  readonly rounds: number;
  /** Rounds go on until each way has had so many; default 0. */
  readonly requests?: number;
  readonly say?: (line: string) => void;
}

/** What became of the traffic. */
export interface ToggleReport {
  readonly ways: Readonly<Record<string, Tally>>;
  readonly total: Tally;
  readonly rounds: Readonly<Record<string, number>>;
  /** Connections that a server still believed in when every client had closed its own, by way. */
  readonly forgotten: Readonly<Record<string, number>>;
  /** Medians of the time until a pod was in, and out, for everybody. */
  readonly enterMs: number;
  readonly leaveMs: number;
}

/** What a way must have done since a change before the next one comes: slow requests take their time. */
const stepsBetweenChanges = 3;
const slowStepsBetweenChanges = 1;

/** Runs the traffic and the rounds of everything that is toggled, each at its own pace. */
export async function runRounds(
  toggles: readonly ToggledPods[],
  options: RoundOptions,
): Promise<ToggleReport> {
  const ways = toggles.flatMap((toggle) => toggle.ways);
  for (const { name, client, server } of ways) {
    const { ips: hosts } = server.pod;
    await client.app.call.startWay({ way: name, hosts, port: trafficPort, ...options.load });
  }
  const runs = await Promise.all(toggles.map((toggle) => new ToggleRun(toggle, options).run()));
  const tallies = await Promise.all(
    ways.map(async ({ name, client }) => [name, await client.app.call.stopWay(name)] as const),
  );
  const forgotten = await Promise.all(ways.map(async (way) => [way.name, await forgottenBy(way)] as const));
  return {
    ways: Object.fromEntries(tallies),
    total: addTallies(tallies.map(([, tally]) => tally)),
    rounds: Object.fromEntries(runs.map(({ name, rounds }) => [name, rounds])),
    forgotten: Object.fromEntries(forgotten),
    enterMs: median(runs.flatMap(({ enterMs }) => enterMs)),
    leaveMs: median(runs.flatMap(({ leaveMs }) => leaveMs)),
  };
}

/** The rounds of one pod or namespace. */
class ToggleRun {
  readonly enterMs: number[] = [];
  readonly leaveMs: number[] = [];
  rounds = 0;
  readonly #toggle: ToggledPods;
  readonly #options: RoundOptions;

  constructor(toggle: ToggledPods, options: RoundOptions) {
    this.#toggle = toggle;
    this.#options = options;
  }

  get name(): string {
    return this.#toggle.name;
  }

  async run(): Promise<this> {
    const { rounds, requests = 0, say } = this.#options;
    await this.#untilBusy();
    while (this.rounds < rounds || (await this.#fewestRequests()) < requests) {
      this.rounds += 1;
      this.leaveMs.push(await this.#change("leaving"));
      this.enterMs.push(await this.#change("entering"));
      if (this.rounds % 10 === 0) say?.(`${this.name}: round ${this.rounds}, ${await this.#state()}`);
    }
    return this;
  }

  async #change(phase: LabelChange["phase"]): Promise<number> {
    const { world } = this.#options;
    const { pods, place, ways } = this.#toggle;
    const isInMesh = phase === "entering";
    const change = { round: this.rounds, phase, atMs: monotonicMs() };
    for (const { name, client } of ways) await client.app.call.mark(name, change);
    world.change(pods, place, isInMesh);
    await Promise.all(pods.map((pod) => untilSettled(world, pod, isInMesh)));
    const ms = monotonicMs() - change.atMs;
    for (const { name, client } of ways) await client.app.call.renew(name);
    await this.#untilBusy();
    return ms;
  }

  /** Waits until every lane has got on: only traffic under way can be hurt by the next change. */
  async #untilBusy(): Promise<void> {
    await Promise.all(this.#toggle.ways.map((way) => this.#untilWayIsBusy(way)));
  }

  async #untilWayIsBusy({ name, client }: TrafficWay): Promise<void> {
    const before = await client.app.call.progress(name);
    const hasGotOn = async (): Promise<boolean> =>
      Object.entries(await client.app.call.progress(name)).every(([lane, steps]) => {
        const wanted = lane.startsWith("slow") ? slowStepsBetweenChanges : stepsBetweenChanges;
        return steps >= (before[lane] ?? 0) + wanted;
      });
    const timeoutMs = 10_000 + 3 * this.#options.load.hungAfterMs;
    await waitFor(`traffic on every lane of "${name}"`, hasGotOn, { timeoutMs, intervalMs: 50 });
  }

  async #fewestRequests(): Promise<number> {
    return Math.min(...(await this.#tallies()).map((tally) => tally.requests));
  }

  async #state(): Promise<string> {
    const { requests, failed, hung } = addTallies(await this.#tallies());
    return `${requests} requests, ${failed} failed, ${hung} hung`;
  }

  #tallies(): Promise<Tally[]> {
    return Promise.all(this.#toggle.ways.map(({ name, client }) => client.app.call.tallyOf(name)));
  }
}

/** Waits for the server to hear of the end of every connection; what it does not hear of by then it never will. */
async function forgottenBy({ name, server }: TrafficWay): Promise<number> {
  let open = 0;
  const none = async (): Promise<boolean> => {
    open = await server.app.call.openConnections();
    return open === 0;
  };
  await waitFor(`the server of "${name}" to have no connection`, none, { timeoutMs: 3000 }).catch(() => {});
  return open;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return Math.round(sorted[Math.floor(sorted.length / 2)] ?? 0);
}
