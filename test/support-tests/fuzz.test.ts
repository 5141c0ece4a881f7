// SPDX-License-Identifier: Apache-2.0
// The fuzzer itself: it finds what is planted, says with which input, and finds nothing where nothing is.
import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { threadId } from "node:worker_threads";
import { afterAll, describe, expect, test } from "vitest";
import { type FuzzResult, fuzzTarget } from "../fuzz/fuzz-run.ts";
import { removeScratchFolder } from "../fuzz/scratch-folder.ts";
import { targets } from "../fuzz/targets.ts";
import { patience } from "../support/node/patience.ts";

const module = new URL("planted-faults.ts", import.meta.url).href;
// the last test runs targets here
afterAll(() => removeScratchFolder(threadId));

const covers = /planted-faults/;

/** A longer time than it takes: it ends with what it finds. */
function fuzz(
  name: string,
  options: { seconds?: number; inputMs?: number; hangMs?: number } = {},
): Promise<FuzzResult> {
  return fuzzTarget({ module, name, covers, seed: 7, seconds: 60, ...options });
}

describe("a fault is found", { timeout: 90_000 * patience() }, () => {
  // three bytes by chance: one input of 16 million
  test("behind conditions that one must meet before the next is seen", async () => {
    const result = await fuzz("deep");
    expect(result).toMatchObject({ kind: "broken", why: expect.stringContaining("the fault") });
    expect(result.kind === "broken" && Buffer.from(result.input.subarray(0, 3)).toString()).toBe("ZDS");
  });

  test("when an input never ends", async () => {
    const result = await fuzz("endless", { hangMs: 1_000 });
    expect(result).toMatchObject({ kind: "broken", why: "an input does not end within 1000 ms" });
    expect(result.kind === "broken" && result.input.length).toBeGreaterThan(20);
  });

  test("when an input takes longer than it may, each time", async () => {
    const result = await fuzz("slow", { inputMs: 50 });
    expect(result).toMatchObject({
      kind: "broken",
      why: expect.stringMatching(/takes \d+ ms, more than 50/),
    });
    expect(result.kind === "broken" && result.input.length).toBeGreaterThan(20);
  });

  test("when an input ends the thread", async () => {
    const result = await fuzz("lethal");
    expect(result).toMatchObject({ kind: "broken", why: "the thread ended" });
    expect(result.kind === "broken" && result.input.length).toBeGreaterThan(20);
  });
});

test("none is found where there is none, and what was reached is kept", async () => {
  const result = await fuzz("sound", { seconds: 2 });
  expect(result).toMatchObject({ kind: "kept" });
  expect(result.kind === "kept" && result.inputs).toBeGreaterThan(1);
});

test("nothing of it is left in the folder for temporary files", async () => {
  const left = () => readdirSync(tmpdir()).filter((name) => name.startsWith(`ambient-fuzz-${process.pid}-`));
  const files = new URL("../fuzz/targets.ts", import.meta.url).href;
  expect(await fuzzTarget({ module: files, name: "kubeconfig", seed: 7, seconds: 1 })).toMatchObject({
    kind: "kept",
  });
  expect(left()).toEqual([]);
});

test("every target keeps its promises on what it begins with, and names itself alone", () => {
  expect(new Set(targets.map(({ name }) => name)).size).toBe(targets.length);
  for (const { seeds, run } of targets)
    for (const seed of seeds()) run(Uint8Array.from(Buffer.from(seed as string)));
});
