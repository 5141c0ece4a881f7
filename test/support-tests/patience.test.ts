// SPDX-License-Identifier: Apache-2.0
// Limits of tests on slow machines: a limit of a test's own that is not stretched there ends the test before what it waits for.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "..");

/** A test's own limit, or that of one expectation, in ms. */
function unstretched(text: string): string[] {
  return text.match(/\btimeout: [\d_]+\b(?! \* patience\(\)).*/g) ?? [];
}

test("every limit that a test has of its own is stretched by the patience", () => {
  // this one shows what is looked for
  const files = globSync("**/*.test.ts", { cwd: root }).filter(
    (file) => !import.meta.filename.endsWith(file),
  );
  expect(files.length).toBeGreaterThan(100);
  const found = files.flatMap((file) =>
    unstretched(readFileSync(join(root, file), "utf8")).map((line) => `${file}: ${line}`),
  );
  expect(found).toEqual([]);
});

test.each([
  ['test("it ends", { timeout: 90_000 }, async () => {', 1],
  ['test("it ends", { timeout: 90_000 * patience() }, async () => {', 0],
  ["await expect.poll(found, { timeout: 2000 }).toBe(1);", 1],
])("%s has %i", (line, count) => {
  expect(unstretched(line)).toHaveLength(count);
});
