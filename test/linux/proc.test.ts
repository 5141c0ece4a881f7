// SPDX-License-Identifier: Apache-2.0
// The walk over a /proc: real processes, and one made of files for those that end while they are read.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { Process, processesIn } from "../../src/linux/proc.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "proc-"));
});
afterEach(() => rmSync(root, { recursive: true }));

async function pidsIn(procRoot: string, options?: { mayLack: boolean }): Promise<number[]> {
  const pids: number[] = [];
  for await (const { pid } of processesIn(procRoot, options)) pids.push(pid);
  return pids.sort((a, b) => a - b);
}

test("this process is met once, with what the kernel says of it", async () => {
  const met: Process[] = [];
  for await (const each of processesIn("/proc")) if (each.pid === process.pid) met.push(each);
  const [own, ...rest] = met;
  expect(rest).toEqual([]);
  expect(own?.netnsKey()).toBe(netnsKeyAt("/proc/self/ns/net"));
  expect(own?.uid()).toBe(process.getuid?.());
  expect(own?.comm()).toBe(own?.read("comm")?.trim());
  expect(own?.startTime()).toBeGreaterThan(new Process("/proc", 1).startTime() ?? Number.NaN);
});

test("only folders of processes are walked, and the event loop turns meanwhile", async () => {
  for (let pid = 1; pid <= 60; pid++) mkdirSync(join(root, String(pid)));
  for (const name of ["self", "net", "12a"]) mkdirSync(join(root, name));
  let turns = 0;
  const count = (): void => {
    turns++;
    immediate = setImmediate(count);
  };
  let immediate = setImmediate(count);
  const pids = await pidsIn(root);
  clearImmediate(immediate);
  expect(pids).toEqual(Array.from({ length: 60 }, (_, index) => index + 1));
  expect(turns).toBeGreaterThanOrEqual(2);
});

test("a process that ended is asked in vain, and that is no fault", async () => {
  const gone = new Process(root, 7);
  expect([gone.netnsKey(), gone.comm(), gone.owner(new Map()), gone.startTime(), gone.uid()]).toEqual(
    Array(5).fill(undefined),
  );
});

test.each([
  ["7 (app) S 1", 500],
  ["7 (a) S 9 (b) S 1", 500],
  ["7 (app) S", undefined],
])("the start of %j is %s", (head, ticks) => {
  mkdirSync(join(root, "7"));
  const fields = ticks === undefined ? "" : ` ${"0 ".repeat(17)}${ticks} 0`;
  writeFileSync(join(root, "7/stat"), `${head}${fields}\n`);
  expect(new Process(root, 7).startTime()).toBe(ticks);
});

test("a /proc that is not there is a fault, unless it may lack", async () => {
  await expect(pidsIn(join(root, "nothing"))).rejects.toThrow("ENOENT");
  expect(await pidsIn(join(root, "nothing"), { mayLack: true })).toEqual([]);
});
