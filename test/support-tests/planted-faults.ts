// SPDX-License-Identifier: Apache-2.0
// Parsers with faults that only somebody finds who follows the code: what fuzz.test.ts sets the fuzzer on.
import type { FuzzTarget } from "../fuzz/fuzz-target.ts";

const target = (name: string, run: FuzzTarget["run"]): FuzzTarget => ({
  name,
  whose: "nobody's",
  seeds: () => ["hello, world"],
  words: [],
  run,
});

/** Whether a condition after the other holds: each is code of its own to be reached. */
function begins(input: Uint8Array, text: string): boolean {
  if (input[0] !== text.charCodeAt(0)) return false;
  if (input[1] !== text.charCodeAt(1)) return false;
  if (input[2] !== text.charCodeAt(2)) return false;
  return true;
}

export const targets: readonly FuzzTarget[] = [
  target("sound", (input) => void begins(input, "ZDS")),
  target("deep", (input) => {
    if (begins(input, "ZDS")) throw new Error("the fault");
  }),
  target("endless", (input) => {
    while (input.length > 20);
  }),
  target("slow", (input) => {
    const endMs = performance.now() + (input.length > 20 ? 200 : 0);
    while (performance.now() < endMs);
  }),
  target("lethal", (input) => {
    if (input.length > 20) process.exit(3);
  }),
];
