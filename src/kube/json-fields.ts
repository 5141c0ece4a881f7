// SPDX-License-Identifier: Apache-2.0
// Reading fields out of JSON from a peer, and words out of texts, whatever they turn out to hold.
import { fits } from "../bounds/bounded.ts";

/** Whether the value is an object, and no list. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value as an object; an empty one when it is anything else. */
export function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return isRecord(value) ? value : {};
}

/** The value as a list; an empty one when it is anything else. */
export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** The value as text; "" when it is anything else. */
export function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** The value as text of at most so many bytes; "" when it is longer, or anything else. */
export function wordOf(value: unknown, bound: { readonly bytes: number }): string {
  return typeof value === "string" && fits(value, bound) ? value : "";
}

/** The entries of an object whose values are text. */
export function textsOf(value: unknown): Readonly<Record<string, string>> {
  const record = recordOf(value);
  const result: Record<string, string> = {};
  for (const [key, text] of Object.entries(record)) {
    if (typeof text === "string") result[key] = text;
  }
  return result;
}

/** The owner that controls an object; an empty record where none does. Source: kubernetes apimachinery meta/v1, GetControllerOf */
export function controllerOf(ownerReferences: unknown): Readonly<Record<string, unknown>> {
  const owners = listOf(ownerReferences).map(recordOf);
  return owners.find(({ controller }) => controller === true) ?? {};
}

const words: ReadonlyMap<string, boolean> = new Map([
  ...["1", "t", "T", "TRUE", "true", "True"].map((word) => [word, true] as const),
  ...["0", "f", "F", "FALSE", "false", "False"].map((word) => [word, false] as const),
]);

/** Reads a boolean; undefined for anything else (no trimming, no other spelling). Source: Go `strconv.ParseBool`. */
export function parseGoBool(text: string): boolean | undefined {
  return words.get(text);
}
