// SPDX-License-Identifier: Apache-2.0
// The fields of a log line as far as anybody reads them: a word of a pod or a peer makes no line long. Pure.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";

/** Message and fields of a line. */
interface Words {
  readonly message: string;
  readonly fields: object;
}

/** The line with every text, list and object of it cut to its bound. Errors stay errors. */
export function boundedLine<T extends Words>(line: T): T {
  return {
    ...line,
    message: cutText(line.message, bounds.logMessage),
    fields: boundedRecord(line.fields, 0),
  };
}

function boundedRecord(record: object, depth: number): object {
  const entries = Object.entries(record);
  const kept = entries.slice(0, bounds.logFields.count).map(([name, value]) => {
    return [cutText(name, bounds.logText), boundedValue(value, depth + 1)] as const;
  });
  const rest = entries.length - kept.length;
  return Object.fromEntries(rest === 0 ? kept : [...kept, ["…", `${rest} more`]]);
}

function boundedValue(value: unknown, depth: number): unknown {
  if (typeof value === "string") return cutText(value, bounds.logText);
  if (typeof value !== "object" || value === null) return value;
  if (depth > bounds.logDepth.count) return "…";
  if (value instanceof Error) return boundedError(value, depth);
  if (Array.isArray(value)) return boundedList(value, depth);
  // what knows best how it is written (a date, a set of settings) stays as it is
  const isPlain = [Object.prototype, null].includes(Object.getPrototypeOf(value) as object | null);
  return isPlain ? boundedRecord(value, depth) : value;
}

function boundedList(list: readonly unknown[], depth: number): readonly unknown[] {
  const kept = list.slice(0, bounds.logItems.count).map((value) => boundedValue(value, depth + 1));
  return kept.length === list.length ? kept : [...kept, `… ${list.length - kept.length} more`];
}

/** A copy of the error's own kind, which is a field of the line; what of it is short is the same. */
function boundedError(error: Error, depth: number): Error {
  const { ...own } = error;
  const copy = Object.create(Object.getPrototypeOf(error) as object) as Error;
  Object.assign(copy, boundedRecord(own, depth));
  const set = (name: string, value: unknown): void => {
    if (value === undefined) return;
    Object.defineProperty(copy, name, { value, enumerable: false, configurable: true, writable: true });
  };
  set("message", cutText(error.message, bounds.logText));
  set("stack", cutText(error.stack ?? "", bounds.logStack));
  set("cause", boundedValue(error.cause, depth + 1));
  if (error instanceof AggregateError) set("errors", boundedList(error.errors, depth));
  return copy;
}
