// SPDX-License-Identifier: Apache-2.0
// The namespace handle against the kernel: what it accepts, what it refuses and how it says so.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Netns, NetnsError, openNetnsCount } from "../../src/linux/netns.ts";
import { type HeldNetns, holdNetns } from "./held-netns.ts";

let held: HeldNetns;
let folder: string;

beforeAll(async () => {
  held = await holdNetns();
  folder = mkdtempSync(join(tmpdir(), "ambient-netns-"));
});

afterAll(async () => {
  await held[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

function failure(path: string): NetnsError {
  try {
    Netns.open(path).close();
  } catch (error) {
    if (error instanceof NetnsError) return error;
    throw error;
  }
  throw new Error(`"${path}" was opened`);
}

test("open gives the identity that stat sees", () => {
  using netns = Netns.open(held.path);
  const { dev, ino } = statSync(held.path, { bigint: true });
  expect(netns.id).toEqual({ dev, ino });
  expect(netns.key).toBe(`${dev}:${ino}`);
  expect(readlinkSync(held.path)).toBe(`net:[${ino}]`);
});

test("open gives equal keys for two paths of one namespace and different ones for two namespaces", () => {
  using own = Netns.open("/proc/self/ns/net");
  using again = Netns.open(`/proc/${process.pid}/ns/net`);
  using other = Netns.open(held.path);
  expect(again.key).toBe(own.key);
  expect(again.fd).not.toBe(own.fd);
  expect(other.key).not.toBe(own.key);
});

test("a handle stays good when its namespace has no process and no path any more", async () => {
  const other = await holdNetns();
  using netns = Netns.open(other.path);
  await other[Symbol.asyncDispose]();
  expect(failure(other.path).code).toBe("ENOENT");
  using again = Netns.open(`/proc/self/fd/${netns.fd}`);
  expect(again.key).toBe(netns.key);
});

test("open accepts a bind mount as the runtime makes it, and says what is wrong where the mount is not seen", async () => {
  const file = join(folder, "cni-1");
  writeFileSync(file, "");
  const script = 'mount --bind "$1" "$2" && echo ready && exec cat';
  const mounter = spawn("unshare", ["-m", "sh", "-c", script, "sh", held.path, file]);
  const exited = once(mounter, "exit");
  await Promise.race([once(mounter.stdout, "data"), exited]);
  {
    using mounted = Netns.open(`/proc/${mounter.pid}/root${file}`);
    using direct = Netns.open(held.path);
    expect(mounted.key).toBe(direct.key);
  }
  expect(failure(file).message).toContain("HostToContainer");
  mounter.stdin.end();
  await exited;
});

test.each([
  { what: "a missing file", path: () => "/proc/self/ns/nothing", code: "ENOENT", says: "gone?" },
  { what: "a process that is gone", path: () => "/proc/4194303/ns/net", code: "ENOENT", says: "gone?" },
  { what: "a plain file", path: () => join(folder, "plain"), code: "ENOTNS", says: "not a namespace" },
  { what: "a folder", path: () => folder, code: "ENOTNS", says: "not a namespace" },
  {
    what: "a FIFO without a writer",
    path: () => join(folder, "fifo"),
    code: "ENOTNS",
    says: "not a namespace",
  },
  { what: "/dev/null", path: () => "/dev/null", code: "ENOTNS", says: "not a namespace" },
  { what: "a mount namespace", path: () => "/proc/self/ns/mnt", code: "ENOTNS", says: "another kind" },
  { what: "a user namespace", path: () => "/proc/self/ns/user", code: "ENOTNS", says: "another kind" },
  { what: "a PID namespace", path: () => "/proc/self/ns/pid", code: "ENOTNS", says: "another kind" },
  { what: "a path below a file", path: () => "/dev/null/net", code: "ENOTDIR", says: "ENOTDIR" },
])("open names the path and the reason when it is $what", ({ path, code, says }) => {
  writeFileSync(join(folder, "plain"), "");
  rmSync(join(folder, "fifo"), { force: true });
  execFileSync("mkfifo", [join(folder, "fifo")]);
  const before = readdirSync("/proc/self/fd").length;
  const error = failure(path());
  expect(error.message).toContain(`Cannot open network namespace "${path()}": `);
  expect(error.message).toContain(says);
  expect(error.code).toBe(code);
  expect(readdirSync("/proc/self/fd").length).toBe(before);
  expect(openNetnsCount()).toBe(0);
});

test("the count of open handles follows open and close, and close may be repeated", () => {
  expect(openNetnsCount()).toBe(0);
  const one = Netns.open(held.path);
  const two = Netns.open(held.path);
  expect(openNetnsCount()).toBe(2);
  expect(one.closed).toBe(false);
  one.close();
  one.close();
  expect(one.closed).toBe(true);
  expect(openNetnsCount()).toBe(1);
  two[Symbol.dispose]();
  expect(openNetnsCount()).toBe(0);
});

test("a closed handle gives no descriptor, which may be another namespace's by then", () => {
  const netns = Netns.open(held.path);
  netns.close();
  expect(() => netns.fd).toThrow(
    expect.objectContaining({ name: "NetnsError", code: "CLOSED", path: netns.key }) as Error,
  );
});

test("close after a close does not touch a descriptor that has taken the number", () => {
  const first = Netns.open(held.path);
  const { fd } = first;
  first.close();
  using second = Netns.open(held.path);
  expect(second.fd).toBe(fd);
  first.close();
  expect(readlinkSync(`/proc/self/fd/${second.fd}`)).toMatch(/^net:/);
});
