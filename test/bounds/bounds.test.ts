// SPDX-License-Identifier: Apache-2.0
// The table of bounds is no prose: each row is asked in the file that it names.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Bound, bounds } from "../../src/bounds/bounds.ts";

const rows = Object.entries(bounds) as [string, Bound][];

test.each(rows)("%s is asked where its row says", (name, { at, bytes, count }) => {
  const text = readFileSync(join(import.meta.dirname, "../../src", at), "utf8");
  expect(text).toMatch(new RegExp(`\\bbounds\\.${name}\\b`));
  expect(bytes ?? count).toBeGreaterThan(0);
});
