// SPDX-License-Identifier: Apache-2.0
// Walks through the attacks: measures around each what it cost the others, and says what came of it.
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { AgentProcess } from "../support/node/agent-process.ts";
import type { Attack, AttackGroup, Found } from "./attack.ts";
import { BystanderWatch } from "./bystanders.ts";
import {
  brokenBounds,
  brokenTimes,
  type Costs,
  generalBounds,
  type StartTimes,
  startLimitMs,
} from "./general-bounds.ts";
import { readAgentLoop } from "./loop-reading.ts";
import { Scene, TENANT, type TimedStart } from "./scene.ts";

/** A row of the table. */
export interface Row {
  readonly group: string;
  readonly attack: Attack;
  readonly verdict: "ok" | "FAILED" | "known";
  /** Undefined where the attack could not be carried out. */
  readonly costs: Costs | undefined;
  /** Medians of our plugin's part of ADD, in ms: quiet, and under attack. */
  readonly ownMs: readonly [number, number];
  readonly measured: string;
  /** Why it is not ok. */
  readonly reasons: readonly string[];
  /** Nothing but times was broken. */
  readonly isTimeAlone: boolean;
  readonly tookMs: number;
}

/** Starts that are timed under attack, and before it. */
const samples = 3;
/** Of the quiet starts of one agent, those whose median counts. */
const remembered = 7;
/** V8 collects all of an agent that rests after 100 s at the latest. Source: v8 src/heap/memory-reducer.cc, kWatchdogDelayMs. */
const collectedMs = 120_000;
/** Against hanging: no attack takes as long. */
const attackLimitMs = 75_000;
const wellMs = 15_000;

/** What one agent's quiet starts took. */
class Quiet {
  #times: TimedStart[] = [];

  async measure(scene: Scene): Promise<void> {
    const rounds = this.#times.length === 0 ? remembered : 1;
    this.#times = [...this.#times, ...(await scene.timedStarts(rounds))].slice(-remembered);
  }

  get medians(): Medians {
    return mediansOf(this.#times);
  }
}

interface Medians {
  readonly times: StartTimes;
  readonly ownMs: number;
}

function mediansOf(times: readonly TimedStart[]): Medians {
  return {
    times: {
      meshMs: median(times.map(({ ms }) => ms)),
      plainMs: median(times.map(({ plainMs }) => plainMs)),
    },
    ownMs: median(times.map(({ ownMs }) => ownMs)),
  };
}

/** Carries out groups of attacks on one node. @returns a row for each attack, in their order */
export async function runCampaign(groups: readonly AttackGroup[], say: (row: Row) => void): Promise<Row[]> {
  const scene = await Scene.start();
  const rows: Row[] = [];
  for (const group of groups) {
    let quiet: Quiet | undefined;
    const carry = async (attack: Attack): Promise<Row> => {
      const row = await carryOut(scene, {
        group,
        attack,
        quiet: async () => {
          quiet ??= await begin(scene, group);
          return quiet;
        },
      });
      say(row);
      // what one attack did to the agent is not the next one's fault
      if (row.verdict !== "ok") quiet = undefined;
      return row;
    };
    for (const attack of group.attacks) {
      const row = await carry(attack);
      // times are judged by the better of two runs: a machine has moments of its own, what an attack causes it causes again
      rows.push(row.verdict === "FAILED" && row.isTimeAlone ? await carry(attack) : row);
    }
    await group.finish?.(scene);
  }
  return rows;
}

async function begin(scene: Scene, group: AttackGroup): Promise<Quiet> {
  await scene.proxy.call.behave("faithful");
  await scene.wellZtunnel();
  await group.prepare?.(scene);
  await scene.restart(group);
  return new Quiet();
}

async function carryOut(
  scene: Scene,
  { group, attack, quiet }: { group: AttackGroup; attack: Attack; quiet: () => Promise<Quiet> },
): Promise<Row> {
  const startMs = performance.now();
  const made = (
    row: Pick<Row, "verdict" | "costs" | "ownMs" | "measured" | "reasons" | "isTimeAlone">,
  ): Row => ({
    group: group.name,
    attack,
    tookMs: performance.now() - startMs,
    ...row,
  });
  try {
    const { costs, found, ownMs } = await measure(scene, attack, await quiet());
    const reasons = [
      ...(found.ok ? [] : [`more than its bound: ${found.measured}`]),
      ...brokenBounds(costs, attack.allowedPeakMb),
    ];
    const judged = judge(attack, reasons);
    const isTimeAlone = reasons.length === brokenTimes(costs).length;
    return made({ ...judged, costs, ownMs, measured: found.measured, isTimeAlone });
  } catch (error) {
    const why = `it could not be carried out: ${(error as Error).message}`;
    const nothing = { costs: undefined, ownMs: [0, 0], measured: "", isTimeAlone: false } as const;
    return made({ ...nothing, verdict: "FAILED", reasons: [why] });
  }
}

function judge({ known }: Attack, reasons: readonly string[]): Pick<Row, "verdict" | "reasons"> {
  if (known === undefined) return { verdict: reasons.length === 0 ? "ok" : "FAILED", reasons };
  if (reasons.length > 0) return { verdict: "known", reasons: [known, ...reasons] };
  return { verdict: "FAILED", reasons: ["it is marked as known and was withstood: take the mark away"] };
}

async function measure(
  scene: Scene,
  attack: Attack,
  quiet: Quiet,
): Promise<{ costs: Costs; found: Found; ownMs: readonly [number, number] }> {
  await quiet.measure(scene);
  const { agent } = scene;
  const watch = await BystanderWatch.begin(scene);
  const linesBefore = agent.lines.length;
  const before = peakMb(agent);
  resetPeak(agent);
  await readAgentLoop();
  await scene.twin.read();
  let wasAtHeight = false;
  let attacked: readonly TimedStart[] = [];
  const atHeight = async (): Promise<void> => {
    wasAtHeight = true;
    if (attack.stopsAdds !== true) attacked = await scene.timedStarts(samples);
  };
  const found = await withLimit(attack.run(scene, atHeight));
  if (!wasAtHeight) throw new Error("it was never at its height");
  if (attack.stopsAdds === true) attacked = await scene.timedStarts(samples);
  const agentFaults = await faultsOf(scene, attack);
  const loop = agent.running
    ? await readAgentLoop()
    : { stopMs: Number.POSITIVE_INFINITY, stallMs: Number.POSITIVE_INFINITY };
  const floor = await scene.twin.read();
  const attackedTimes = mediansOf(attacked).times;
  let quietTimes = quiet.medians.times;
  if (!(attackedTimes.meshMs <= startLimitMs({ quiet: quietTimes, attacked: attackedTimes }))) {
    // others on the machine may have begun in between: what a pod takes now that it is over counts as well
    const after = mediansOf(await scene.timedStarts(remembered)).times;
    if (after.meshMs > quietTimes.meshMs) quietTimes = after;
  }
  const costs: Costs = {
    quiet: quietTimes,
    attacked: attackedTimes,
    stopMs: loop.stopMs,
    floorMs: floor.stopMs,
    workMs: loop.stallMs,
    rssRiseMb: agent.running ? peakMb(agent) - before : Number.NaN,
    rssKeptMb: await keptMb(scene, before),
    logLines: agent.lines.slice(linesBefore).filter(({ text }) => !text.includes(`"${TENANT}"`)).length,
    agentFaults,
    strays: await watch.strays(),
  };
  return { costs, found, ownMs: [quiet.medians.ownMs, mediansOf(attacked).ownMs] };
}

async function faultsOf(scene: Scene, { staysUnready = false }: Attack): Promise<string[]> {
  const { agent } = scene;
  if (!agent.running) return ["the agent has ended"];
  if (staysUnready) return (await scene.askMs(8000, "/healthz")) < 1_000 ? [] : ["health does not answer"];
  return await agent.waitReady({ timeoutMs: wellMs }).then(
    () => [],
    (error: Error) => [`the agent is not well: ${error.message.split("\n")[0]}`],
  );
}

async function withLimit<T>(work: Promise<T>): Promise<T> {
  const over = new AbortController();
  const late = delay(attackLimitMs, undefined, { signal: over.signal }).then(
    (): never => {
      throw new Error(`no end after ${attackLimitMs} ms`);
    },
    (): Promise<never> => new Promise(() => {}),
  );
  return await Promise.race([work, late]).finally(() => over.abort());
}

/** Most resident memory since it was reset, in MB. Source: proc_pid_status(5), VmHWM. */
function peakMb({ pid }: AgentProcess): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

/** Resident memory above what it was at most before, in MB; where it is more than is allowed, once V8 had its time to collect. */
async function keptMb({ agent }: Scene, before: number): Promise<number> {
  const kept = (): number => (agent.running ? agent.rssBytes() / 2 ** 20 - before : Number.NaN);
  const deadline = performance.now() + collectedMs;
  while (kept() >= generalBounds.rssRiseMb && performance.now() < deadline) await delay(1_000);
  return kept();
}

/** Source: proc_pid_clear_refs(5), 5. */
function resetPeak({ pid }: AgentProcess): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
