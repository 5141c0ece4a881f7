// SPDX-License-Identifier: Apache-2.0
// Files that are there whole or not at all.
import { execFile } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { removeHalves, replaceFile, writeNewFile } from "../../src/linux/atomic-file.ts";
import { ownName } from "../../src/linux/own-name.ts";

let folder: string;
let path: string;
const umask = process.umask();

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-file-"));
  path = join(folder, "kept");
});
afterEach(() => {
  process.umask(umask);
  rmSync(folder, { recursive: true, force: true });
});

const mode = (): number => statSync(path).mode & 0o7777;

test("a file is made and replaced with the mode that was asked for, and nothing is left beside it", async () => {
  process.umask(0o077);
  await replaceFile(path, { content: "first", mode: 0o644 });
  expect([readFileSync(path, "utf8"), mode()]).toEqual(["first", 0o644]);
  const { ino } = statSync(path);
  await replaceFile(path, { content: Buffer.from("second"), mode: 0o600 });
  expect([readFileSync(path, "utf8"), mode(), statSync(path).ino === ino]).toEqual(["second", 0o600, false]);
  expect(readdirSync(folder)).toEqual(["kept"]);
});

test("what a killed process has left does not stand in the way", async () => {
  writeFileSync(`${ownName(path)}.tmp`, "half");
  await replaceFile(path, { content: "whole", mode: 0o600 });
  expect(readFileSync(path, "utf8")).toBe("whole");
  expect(readdirSync(folder)).toEqual(["kept"]);
});

test("halves of a file that killed processes have left are removed, and nothing else", async () => {
  const halves = [`${ownName(path)}.tmp`, `${path}.17.tmp`, `${path}.17-4026531836.tmp`];
  const others = [path, `${path}.tmp`, `${path}.bak.tmp`, `${path}.17`, join(folder, "other.17-3.tmp")];
  for (const each of [...halves, ...others]) writeFileSync(each, "");
  await removeHalves(path);
  expect(readdirSync(folder).sort()).toEqual(others.map((each) => basename(each)).sort());
  await removeHalves(join(folder, "away", "kept"));
});

/** A process with the number 1 of its own numbers, as an agent is in its container: how often it could not put its file in place. */
async function writeAsFirst(letter: string): Promise<number> {
  const script = `
    const { replaceFile } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/linux/atomic-file.ts"))});
    let failures = 0;
    for (let i = 0; i < 100; i++)
      await replaceFile(${JSON.stringify(path)}, { content: "${letter}".repeat(100_000), mode: 0o600 }).catch(() => failures++);
    console.log(process.pid, failures);`;
  const node = [process.execPath, "--input-type=module", "--eval", script] as const;
  const { stdout } = await promisify(execFile)("unshare", ["--pid", "--fork", "--mount-proc", ...node]);
  const [pid, failures] = stdout.trim().split(" ").map(Number);
  expect(pid).toBe(1);
  return failures ?? Number.NaN;
}

test("two processes of one number, each in a container of its own, do not write into each other's file", async () => {
  const writing = Promise.all(["a", "b"].map(writeAsFirst));
  let isOver = false;
  const ended = writing.finally(() => {
    isOver = true;
  });
  const lengths = new Set<number>();
  while (!isOver) {
    if (existsSync(path)) lengths.add(readFileSync(path).length);
    await nextTurn();
  }
  expect(await ended).toEqual([0, 0]);
  expect([...lengths]).toEqual([100_000]);
  expect(readdirSync(folder)).toEqual(["kept"]);
});

test("a failure leaves what was there, and nothing beside it", async () => {
  writeFileSync(path, "old");
  const prepare = (): Promise<void> => Promise.reject(new Error("not mine to give"));
  await expect(replaceFile(path, { content: "new", mode: 0o600, prepare })).rejects.toThrow("not mine");
  expect([readFileSync(path, "utf8"), readdirSync(folder)]).toEqual(["old", ["kept"]]);
  rmSync(path);
  mkdirSync(join(path, "full"), { recursive: true });
  await expect(replaceFile(path, { content: "new", mode: 0o600 })).rejects.toThrow(/EISDIR|ENOTEMPTY|EEXIST/);
  expect(readdirSync(folder)).toEqual(["kept"]);
  await expect(replaceFile(join(folder, "no/such"), { content: "", mode: 0o600 })).rejects.toThrow("ENOENT");
});

test("a new file takes nobody's place, and only its owner can open it before it is prepared", async () => {
  const seen: number[] = [];
  const prepare = async (): Promise<void> => void seen.push(mode());
  await writeNewFile(path, { content: "x", mode: 0o755, prepare });
  expect([seen, mode()]).toEqual([[0o600], 0o755]);
  await expect(writeNewFile(path, { content: "y", mode: 0o600 })).rejects.toThrow("EEXIST");
  expect(readFileSync(path, "utf8")).toBe("x");
});
