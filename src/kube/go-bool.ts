// SPDX-License-Identifier: Apache-2.0
// Booleans as Go reads them, because annotation values were written for a Go program.

const words: ReadonlyMap<string, boolean> = new Map([
  ...["1", "t", "T", "TRUE", "true", "True"].map((word) => [word, true] as const),
  ...["0", "f", "F", "FALSE", "false", "False"].map((word) => [word, false] as const),
]);

/** Reads a boolean; undefined for anything else (no trimming, no other spelling). Source: Go `strconv.ParseBool`. */
export function parseGoBool(text: string): boolean | undefined {
  return words.get(text);
}
