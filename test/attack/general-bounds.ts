// SPDX-License-Identifier: Apache-2.0
// What every attack has to leave alone, and the verdict on what was measured; pure.

/** The time of a whole start of a pod, medians in ms: one of the mesh, and one whose chain has no plugin of ours. */
export interface StartTimes {
  readonly meshMs: number;
  readonly plainMs: number;
}

/** What an attack cost those who did nothing. */
export interface Costs {
  readonly quiet: StartTimes;
  readonly attacked: StartTimes;
  /** Longest stop of the agent's event loop, and of an idle process beside it in the same time, in ms. */
  readonly stopMs: number;
  readonly floorMs: number;
  /** Most of a processor's time that the agent took between two turns of its loop, in ms. */
  readonly workMs: number;
  /** Most resident memory during the attack above the most before it. */
  readonly rssRiseMb: number;
  /** What of it is left at the end. */
  readonly rssKeptMb: number;
  /** Lines of the agent's log that are not about the pods which the campaign itself starts. */
  readonly logLines: number;
  /** What became of the agent itself; empty when it is well. */
  readonly agentFaults: readonly string[];
  /** What became of pods that did nothing. */
  readonly strays: readonly string[];
}

/** Bounds of the general verdict. */
export const generalBounds = {
  addFactor: 2,
  stopMs: 100,
  rssRiseMb: 30,
  logLines: 100,
} as const;

/** The most that a start may take: twice the quiet one, and as much more as the machine itself has become slower. */
export function startLimitMs({ quiet, attacked }: Pick<Costs, "quiet" | "attacked">): number {
  const machine = Math.max(1, attacked.plainMs / quiet.plainMs);
  return generalBounds.addFactor * quiet.meshMs * machine;
}

/**
 * What of the general bounds was broken; empty when nothing was.
 * @param allowedPeakMb memory that the attack may take for its time, see {@link Attack}; at the end the general bound holds again
 */
export function brokenBounds(costs: Costs, allowedPeakMb: number = generalBounds.rssRiseMb): string[] {
  const { rssRiseMb, rssKeptMb, logLines, agentFaults, strays } = costs;
  return [
    ...agentFaults,
    ...strays,
    ...brokenTimes(costs),
    ...(rssRiseMb < allowedPeakMb
      ? []
      : [`memory rose by ${round(rssRiseMb)} MB (less than ${allowedPeakMb})`]),
    ...(rssKeptMb < generalBounds.rssRiseMb
      ? []
      : [`${round(rssKeptMb)} MB of memory were kept (less than ${generalBounds.rssRiseMb})`]),
    ...(logLines < generalBounds.logLines
      ? []
      : [`${logLines} lines of log (less than ${generalBounds.logLines})`]),
  ];
}

/** Those of its bounds that are times: another program of the machine can break them in one run, an attack breaks them in each. */
export function brokenTimes(costs: Costs): string[] {
  const { attacked, stopMs, workMs, floorMs } = costs;
  const limitMs = startLimitMs(costs);
  // a stop is told from waiting for a processor with some leniency; its own work is told exactly
  const stoppedMs = Math.max(stopMs, workMs);
  const stopLimitMs = Math.max(generalBounds.stopMs, floorMs);
  return [
    // a start that was not timed is no start
    ...(attacked.meshMs <= limitMs
      ? []
      : [`ADD took ${round(attacked.meshMs)} ms (at most ${round(limitMs)})`]),
    ...(stoppedMs <= stopLimitMs
      ? []
      : [`the loop stopped for ${round(stoppedMs)} ms (at most ${round(stopLimitMs)})`]),
  ];
}

function round(value: number): number {
  return Math.round(value);
}
