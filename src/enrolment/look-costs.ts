// SPDX-License-Identifier: Apache-2.0
// Which pods are slow to look at, and how much less often they are: what a pod has in its namespace costs everybody's agent. No I/O.

/** Looks that tell what is usual on this node at present. */
const USUAL_LOOKS = 64;
/** Looks at a pod that say whether it is slow. */
export const LOOKS_TO_JUDGE = 3;
/** Below that nobody is hurt. A pod with our rules alone takes some ms. */
const MIN_SLOW_MS = 50;
/** As many times as long as a quarter of all looks take at most: where the whole node is slow, no pod is. */
const SLOW_FACTOR = 8;
/** The part of the time in which a slow pod may be looked at: one in so many. */
const SHARE = 20;
/** And it is looked at less often than others in any case. */
const MIN_STRETCH = 4;
const MAX_PAUSE_MS = 15 * 60_000;

/**
 * Of a pod whose changes the kernel announces: a look by the clock is a net under that, for what it may have failed to say, and for what
 * stands before our rules in x_tables. As many times as rare as other looks: five minutes with the default interval.
 */
const HEARD_FACTOR = 10;
/** What the looks of a slow pod are a multiple of, where they are brought about by announcements: it may write without end. */
const SLOW_HEARD_MS = 2_000;

/** What looks take on this node. */
export class LookCosts {
  readonly #recent: number[] = [];

  /**
   * @param looks what the pod's looks took, the last one last, which is new
   * @returns what each of the last {@link LOOKS_TO_JUDGE} took at least, of a pod that is slow to look at: one that took long may have
   *   had something to mend, or the node something else to do
   */
  took(looks: readonly number[]): number | undefined {
    const last = looks.slice(-LOOKS_TO_JUDGE);
    const newest = last.at(-1);
    if (newest === undefined) return undefined;
    this.#recent.push(newest);
    if (this.#recent.length > USUAL_LOOKS) this.#recent.shift();
    const sorted = [...this.#recent].sort((a, b) => a - b);
    const usualMs = sorted[Math.floor((sorted.length - 1) / 4)] ?? newest;
    const leastMs = Math.min(...last);
    const isSlow = last.length === LOOKS_TO_JUDGE && leastMs >= Math.max(MIN_SLOW_MS, SLOW_FACTOR * usualMs);
    return isSlow ? leastMs : undefined;
  }
}

/**
 * Until the next look.
 * @param slowLookMs what looks at it take, of a slow pod
 * @param options.stretch how many times as long at least; default 4. A pod that is not where it should be has pauses that grow already: 1
 */
export function lookPauseMs(
  pauseMs: number,
  slowLookMs: number | undefined,
  { stretch = MIN_STRETCH }: { readonly stretch?: number } = {},
): number {
  if (slowLookMs === undefined) return pauseMs;
  const stretchedMs = Math.max(stretch * pauseMs, SHARE * slowLookMs);
  return Math.max(pauseMs, Math.min(stretchedMs, MAX_PAUSE_MS));
}

/**
 * From a look that found a captured pod as it should be to the next by the clock, in ms, jittered by a quarter. Pods of which the kernel
 * tells are due all at once, which is after a quarter of their time at the earliest: the first look of a process that has slept costs several
 * times what the sixtieth does, and who is waited for goes before them all.
 * @param intervalMs of the pods of which nothing is announced
 * @param at.nowMs on the clock of all pods
 * @param at.random from 0 to 1
 */
export function lookIntervalMs(
  intervalMs: number,
  pod: { readonly isHeard?: boolean; readonly slowLookMs?: number | undefined },
  { nowMs, random }: { readonly nowMs: number; readonly random: number },
): number {
  const { isHeard, slowLookMs } = pod;
  if (!isHeard) return lookPauseMs(intervalMs * (0.75 + random / 2), slowLookMs);
  const togetherMs = HEARD_FACTOR * intervalMs;
  const earliestMs = nowMs + lookPauseMs(togetherMs, slowLookMs, { stretch: 1 }) - 0.75 * togetherMs;
  return Math.ceil(earliestMs / togetherMs) * togetherMs - nowMs;
}

/**
 * From an announcement to the look that it brings, in ms. A pod that is slow to look at, or that cannot be seen to be right, has its time by
 * the clock: neither is to be had more often by whoever changes something without end.
 */
export function heardPauseMs(
  inMs: number,
  { slowLookMs, failures }: { readonly slowLookMs?: number | undefined; readonly failures?: number },
): number {
  if (slowLookMs !== undefined) return Math.max(inMs, lookPauseMs(SLOW_HEARD_MS, slowLookMs));
  return (failures ?? 0) > 0 ? Math.max(inMs, MIN_STRETCH * SLOW_HEARD_MS) : inMs;
}
