// SPDX-License-Identifier: Apache-2.0
// Lock files that are there while they are needed, and work that goes on where none can be made.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LockFiles, NOBODYS_LOCK } from "../../src/linux/lock-files.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";

let base: string;
let made = 0;
beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), "ambient-locks-"));
});
afterAll(() => rmSync(base, { recursive: true }));

const newFolder = () => join(base, `${++made}`, "locks");
const modeOf = (path: string) => statSync(path).mode & 0o777;

test("only root can open the file, and it is gone afterwards, also when the work fails", async () => {
  const folder = newFolder();
  const locks = new LockFiles(folder);
  await locks.hold("4:26-4", async (path) => {
    expect(path).toBe(join(folder, "4:26-4.lock"));
    expect([modeOf(folder), modeOf(path)]).toEqual([0o700, 0o600]);
  });
  const failing = locks.hold("a", async () => {
    throw new Error("no");
  });
  await expect(failing).rejects.toThrow("no");
  expect(readdirSync(folder)).toEqual([]);
});

test("work on the same key waits its turn, other keys do not wait", async () => {
  const locks = new LockFiles(newFolder());
  const first = Promise.withResolvers<void>();
  const log: string[] = [];
  const work = (key: string, name: string, until = Promise.resolve()) =>
    locks.hold(key, async (path) => {
      log.push(name);
      await until;
      expect(existsSync(path)).toBe(true);
    });
  const a1 = work("a", "a1", first.promise);
  const a2 = work("a", "a2");
  await expect.poll(() => log).toEqual(["a1"]);
  await work("b", "b");
  expect(log).toEqual(["a1", "b"]);
  first.resolve();
  await Promise.all([a1, a2]);
  expect(log.at(-1)).toBe("a2");
});

test("two agents exclude each other by the file", async () => {
  const folder = newFolder();
  await new LockFiles(folder).hold("a", async (path) => {
    const holder = spawn("flock", [path, "sh", "-c", "echo locked; exec cat"]);
    try {
      await once(holder.stdout, "data");
      const tryIt = (file: string) =>
        execFileSync("flock", ["--nonblock", "--conflict-exit-code", "9", file, "true"]);
      await new LockFiles(folder).hold("a", async (other) => {
        expect(other).toBe(path);
        expect(() => tryIt(other)).toThrow(expect.objectContaining({ status: 9 }));
      });
      await new LockFiles(folder).hold("b", async (other) => expect(tryIt(other).length).toBe(0));
    } finally {
      holder.stdin.end();
      await once(holder, "close");
    }
  });
});

test("what a killed agent left is taken over, or taken away when it is old", async () => {
  const folder = newFolder();
  mkdirSync(folder, { recursive: true });
  for (const name of ["old.lock", "young.lock", "mine.lock", "other"]) writeFileSync(join(folder, name), "");
  const longAgo = new Date(Date.now() - 3_600_000);
  for (const name of ["old.lock", "mine.lock", "other"]) utimesSync(join(folder, name), longAgo, longAgo);
  const locks = new LockFiles(folder);
  await locks.hold("mine", async (path) => expect(path).toBe(join(folder, "mine.lock")));
  expect(readdirSync(folder)).toEqual(["other", "young.lock"]);
});

test.each([
  ["the folder's place is taken by a file", (folder: string) => writeFileSync(folder, "")],
  [
    "a link stands in the file's place",
    (folder: string) => {
      mkdirSync(folder);
      symlinkSync("/dev/null", join(folder, "a.lock"));
    },
  ],
])("where %s the work is done all the same", async (_, spoil) => {
  const folder = newFolder();
  mkdirSync(join(folder, ".."));
  spoil(folder);
  let seen = "";
  await new LockFiles(folder).hold("a", async (path) => {
    seen = path;
  });
  expect(seen).toBe(NOBODYS_LOCK);
});

test("where the disk is full the work is done all the same", () => {
  const folder = newFolder();
  mkdirSync(folder, { recursive: true });
  const script = `
    import { LockFiles } from ${JSON.stringify(join(import.meta.dirname, "../../src/linux/lock-files.ts"))};
    await new LockFiles(${JSON.stringify(folder)}).hold("a", async (path) => console.log(path));
  `;
  const mount = `mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs ${folder}`;
  const run = `${mount} && exec ${process.execPath} --input-type=module -e '${script}'`;
  // a mount namespace of its own, which ends with it
  expect(execFileSync("unshare", ["--mount", "sh", "-c", run]).toString()).toBe(`${NOBODYS_LOCK}\n`);
});

test("nobody's lock can be locked by each process, however many hold theirs", async () => {
  const runner = new ToolRunner();
  const holder = spawn("flock", [NOBODYS_LOCK, "sh", "-c", "echo locked; exec cat"]);
  try {
    await once(holder.stdout, "data");
    const outcome = runner.run({ argv: ["flock", "--nonblock", NOBODYS_LOCK, "echo", "mine"] });
    expect((await outcome).stdout).toBe("mine\n");
  } finally {
    holder.stdin.end();
    await once(holder, "close");
  }
});
