// SPDX-License-Identifier: Apache-2.0
// The addon over many cycles: what the process holds must not grow, and the sanitizers must have nothing to say.
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";
import { patience } from "../support/node/patience.ts";

const execFileAsync = promisify(execFile);
const CYCLES = join(import.meta.dirname, "cycles.ts");
const PRELOAD = join(import.meta.dirname, "sanitized-addon.ts");
const SUPPRESSIONS = join(import.meta.dirname, "lsan-suppressions.txt");
const NATIVE = join(import.meta.dirname, "../../native");
/** 100 bytes lost in each cycle; a round in which nothing compiles and no pool grows moves by about 100 KB. */
const RSS_TOLERANCE_KB = 1_000;
const FLAGS = ["--expose-gc", "--max-semi-space-size=1"];

let held: HeldNetns;

beforeAll(async () => {
  held = await holdNetns();
});

afterAll(() => held[Symbol.asyncDispose]());

interface Sample {
  readonly fds: number;
  readonly threads: number;
  readonly rssKb: number;
}

interface Report {
  readonly fdsAtStart: number;
  readonly samples: readonly Sample[];
}

test("rounds of 10,000 cycles of each function leave descriptors, threads and memory where they were", async () => {
  const argv = [...FLAGS, CYCLES, "10000", held.path];
  const { stdout } = await execFileAsync(process.execPath, argv, { timeout: 300_000 * patience() });
  const { fdsAtStart, samples } = JSON.parse(stdout) as Report;
  const [first] = samples as [Sample];
  for (const { fds, threads } of samples) {
    expect({ fds, threads }).toEqual({ fds: fdsAtStart, threads: first.threads });
  }
  // A leak grows in every round.
  const growth = samples.slice(1).map(({ rssKb }, round) => rssKb - (samples[round] as Sample).rssKb);
  expect(Math.min(...growth), `growth by round: ${growth} KB`).toBeLessThan(RSS_TOLERANCE_KB);
}, 300_000);

test("the sanitizers find nothing in the addon", async () => {
  await execFileAsync("make", ["-s", "-C", NATIVE, "asan"], { timeout: 300_000 * patience() });
  const libasan = (await execFileAsync("gcc", ["-print-file-name=libasan.so"])).stdout.trim();
  const env = {
    PATH: process.env.PATH,
    LD_PRELOAD: libasan,
    ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
    LSAN_OPTIONS: `suppressions=${SUPPRESSIONS}:print_suppressions=0`,
    UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
  };
  const argv = [...FLAGS, "--import", PRELOAD, CYCLES, "1000", held.path];
  const { stdout, stderr } = await execFileAsync(process.execPath, argv, {
    env,
    timeout: 300_000 * patience(),
  });
  const { fdsAtStart, samples } = JSON.parse(stdout) as Report;
  expect(samples.at(-1)?.fds).toBe(fdsAtStart);
  expect(stderr).toBe("");
}, 300_000);
