// SPDX-License-Identifier: Apache-2.0
// How many descriptors the process has left, and how many of them are kept for what pods wait for.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { type Clock, systemClock } from "../loop/clock.ts";

export interface DescriptorsOptions {
  /** How many the process may have open. */
  readonly limit: number;
  /** Of these, those that only an ADD and its like may take. */
  readonly reserve: number;
  /** How many are open. */
  readonly count: () => number;
  readonly clock?: Clock;
}

/** To read the folder costs about a millisecond for some thousand descriptors. */
const lookMs = 100;
/** More than all ADDs of a node's start have open together: of each some pipes, sockets and a namespace. */
const mostReserved = 512;

/** Counts descriptors; not at every question. */
export class Descriptors {
  readonly #options: DescriptorsOptions;
  readonly #clock: Clock;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #open = 0;

  constructor(options: DescriptorsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Whether one more may be taken by what is not an ADD; who is told yes is counted as if it took one. */
  take(): boolean {
    const { limit, reserve, count } = this.#options;
    const nowMs = this.#clock.nowMs();
    if (nowMs - this.#lookedMs >= lookMs) {
      this.#lookedMs = nowMs;
      this.#open = count();
    }
    if (this.#open >= limit - reserve) return false;
    this.#open++;
    return true;
  }
}

/**
 * Those of this process. Its limit is the hard one from the start: Node raises the soft limit to it, before any of our code runs.
 * Source: nodejs/node src/node.cc, PlatformInit.
 * @param folder of the process in /proc; where there is none nobody can count, and every question is answered yes
 */
export function ownDescriptors(folder = "/proc/self"): Descriptors {
  const limits = `${folder}/limits`;
  // the ports have to be up to say what else is missing where /proc is
  if (!existsSync(limits))
    return new Descriptors({ limit: Number.POSITIVE_INFINITY, reserve: 0, count: () => 0 });
  const limit = openFilesLimit(readFileSync(limits, "utf8"));
  const reserve = Math.min(mostReserved, Math.floor(limit / 4));
  return new Descriptors({ limit, reserve, count: () => readdirSync(`${folder}/fd`).length });
}

/** The soft limit of open files; Infinity where there is none. Pure. Source: proc_pid_limits(5). */
export function openFilesLimit(text: string): number {
  const soft = /^Max open files +(\d+|unlimited) /m.exec(text)?.[1];
  if (soft === undefined) throw new Error(`Cannot find the limit of open files: ${JSON.stringify(text)}`);
  return soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
}
