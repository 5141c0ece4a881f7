// SPDX-License-Identifier: Apache-2.0
// What a reflector is told, and what it counts.
import type { Logger } from "../log/logger.ts";
import type { Backoff } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import type { ApiClient } from "./api-client.ts";
import type { Query } from "./api-requests.ts";
import type { ListBudget } from "./list-budget.ts";
import type { Keyed } from "./object-cache.ts";
import type { Fields } from "./pick-fields.ts";

/** What is watched, how, and with what in the places that tests replace. */
export interface ReflectorOptions<T extends Keyed> {
  readonly client: Pick<ApiClient, "list" | "watch">;
  /** Name for logs, such as "pods of this node". */
  readonly what: string;
  readonly path: string;
  readonly query?: Query;
  readonly metadataOnly?: boolean | undefined;
  /** Turns a raw object into what is kept; undefined drops it. */
  readonly convert: (raw: unknown) => T | undefined;
  /** Fields that `convert` asks for; without them all are read. */
  readonly fields?: Fields;
  /** What a list may cost, default: that of a whole cluster. */
  readonly budget?: ListBudget | undefined;
  /** Tells whether two states differ in nothing that matters; listeners are not told of such steps. */
  readonly same?: (a: T, b: T) => boolean;
  readonly log: Logger;
  readonly clock?: Clock | undefined;
  readonly random?: (() => number) | undefined;
  /** Pauses after failures; default from 250 ms to 30 s. */
  readonly backoff?: Backoff;
  /** Shortest time a watch is asked to last; up to a quarter is added at random. Default 40 s. */
  readonly watchSeconds?: number | undefined;
  /** Silence allowed past the watch's own end. Default 5 s: with the default watch a dead one is found in 55 s. */
  readonly graceMs?: number | undefined;
}

/** Counts since the start. */
export interface ReflectorCounts {
  lists: number;
  watches: number;
  failures: number;
  events: number;
  ignoredEvents: number;
}
