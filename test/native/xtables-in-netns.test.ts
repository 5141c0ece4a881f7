// SPDX-License-Identifier: Apache-2.0
// iptables-legacy's tables as the kernel gives them, against what iptables-legacy-save prints.
import { closeSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { NativeError } from "../../src/linux/native.ts";
import { Netns } from "../../src/linux/netns.ts";
import { existingXtablesInNetns, xtablesInNetns } from "../../src/linux/xtables-netns.ts";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";

const INFO_BYTES = 84;

let held: HeldNetns;
let netnsFd: number;
let fdsBefore: number;

beforeAll(async () => {
  held = await holdNetns();
  netnsFd = openSync(held.path, "r");
});
afterAll(async () => {
  closeSync(netnsFd);
  await held[Symbol.asyncDispose]();
});
beforeEach(() => {
  fdsBefore = readdirSync("/proc/self/fd").length;
});
afterEach(() => expect(readdirSync("/proc/self/fd").length).toBe(fdsBefore));

/** Name, number and bytes of the entries as struct ipt_getinfo says them. */
function describeTable(table: Uint8Array): { name: string; entries: number; bytes: number } {
  const view = Buffer.from(table.buffer, table.byteOffset, table.length);
  const name = view.toString("latin1", 0, view.indexOf(0));
  return { name, entries: view.readUInt32LE(76), bytes: view.readUInt32LE(80) };
}

/** Restores rules; the lock file is the namespace, so that nobody else is waited for. */
async function restore(tool: string, text: string): Promise<void> {
  await held.feed(text, "env", `XTABLES_LOCKFILE=${held.path}`, tool);
}

test.each([
  { family: 4, tool: "iptables-legacy-restore", address: "192.0.2." },
  { family: 6, tool: "ip6tables-legacy-restore", address: "2001:db8::" },
] as const)("IPv$family: the table comes whole, each time the same", async ({ family, tool, address }) => {
  const rules = (count: number) =>
    Array.from(
      { length: count },
      (_, i) => `-A CHAIN -d ${address}${i + 1} -m comment --comment "${i}" -j RETURN`,
    );
  await restore(tool, `*nat\n:CHAIN -\n${rules(100).join("\n")}\nCOMMIT\n`);
  const [table, again] = await Promise.all([1, 2].map(() => xtablesInNetns(netnsFd, family, "nat")));
  const { name, entries, bytes } = describeTable(table as Uint8Array);
  expect(name).toBe("nat");
  // four policies, the chain's name, the rules, the chain's end, the end of the table
  expect(entries).toBe(4 + 1 + 100 + 1 + 1);
  expect(table?.length).toBe(INFO_BYTES + bytes);
  expect(Buffer.compare(table as Uint8Array, again as Uint8Array)).toBe(0);
  const text = Buffer.from(table as Uint8Array).toString("latin1");
  for (const each of ["CHAIN\0", "comment\0", "99\0"]) expect(text).toContain(each);
});

test("of a table that is larger than wanted its numbers come alone", async () => {
  const whole = await xtablesInNetns(netnsFd, 4, "nat");
  const { bytes } = describeTable(whole);
  const upTo = (maxBytes: number) => xtablesInNetns(netnsFd, 4, "nat", { maxBytes });
  expect(Buffer.compare(await upTo(bytes), whole)).toBe(0);
  for (const maxBytes of [0, bytes - 1]) {
    expect(Buffer.compare(await upTo(maxBytes), whole.subarray(0, INFO_BYTES))).toBe(0);
  }
});

test("a table that is written all the time comes whole or not at all", async () => {
  const text = (count: number) => `*nat\n:A -\n${"-A A -j RETURN\n".repeat(count)}COMMIT\n`;
  let isWriting = true;
  const writing = (async () => {
    for (let i = 0; i < 30; i++) await restore("iptables-legacy-restore", text(i % 2 ? 200 : 1));
    isWriting = false;
  })();
  const seen = new Set<number>();
  while (isWriting) {
    const table = await xtablesInNetns(netnsFd, 4, "nat").catch((error: NativeError) => error);
    if (table instanceof Error) expect(table.code).toBe("EAGAIN");
    else {
      const { entries, bytes } = describeTable(table);
      expect(table.length).toBe(INFO_BYTES + bytes);
      seen.add(entries);
    }
  }
  await writing;
  expect(
    [...seen].every((entries) => [107, 8, 207].includes(entries)),
    `${[...seen]}`,
  ).toBe(true);
  expect(seen.size).toBeGreaterThan(1);
});

test.each([
  { what: "no such table", family: 4, table: "nowhere", code: "ENOENT", syscall: "getsockopt" },
  { what: "an empty name", family: 6, table: "", code: "ENOENT", syscall: "getsockopt" },
  {
    what: "a name that is too long",
    family: 4,
    table: "x".repeat(32),
    code: "ENAMETOOLONG",
    syscall: "getsockopt",
  },
] as const)("$what is refused with $code", async ({ family, table, code, syscall }) => {
  const failure = xtablesInNetns(netnsFd, family, table);
  await expect(failure).rejects.toMatchObject({ code, syscall });
  await expect(failure).rejects.toThrow(`Cannot read the iptables-legacy table "${table}" of IPv${family}: `);
});

test("a descriptor that is no network namespace is refused", async () => {
  const fd = openSync("/proc/self/ns/mnt", "r");
  await expect(xtablesInNetns(fd, 4, "nat")).rejects.toMatchObject({ code: "EINVAL", syscall: "setns" });
  closeSync(fd);
  await expect(xtablesInNetns(-1, 4, "nat")).rejects.toMatchObject({ code: "EBADF", syscall: "fcntl" });
  await expect(xtablesInNetns(netnsFd, 4, "na\0t")).rejects.toBeInstanceOf(TypeError);
});

test("the descriptor may be closed while the call is under way", async () => {
  const fd = openSync(held.path, "r");
  const reading = xtablesInNetns(fd, 4, "nat");
  closeSync(fd);
  expect(describeTable(await reading).name).toBe("nat");
});

test("without NET_ADMIN the kernel refuses", async () => {
  const script = `
    const { xtablesInNetns } = await import(${JSON.stringify(`${import.meta.dirname}/../../src/linux/xtables-netns.ts`)});
    const { openSync } = await import("node:fs");
    await xtablesInNetns(openSync(${JSON.stringify(held.path)}, "r"), 4, "nat").catch((error) => console.log(error.code, error.syscall));
  `;
  const argv = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", process.execPath] as const;
  const said = await held.run("setpriv", ...argv, "--input-type=module", "-e", script);
  expect(said).toBe("EPERM getsockopt\n");
});

test("every thread of this process is in its own namespace after many calls", async () => {
  for (let i = 0; i < 100; i++) await xtablesInNetns(netnsFd, i % 2 ? 4 : 6, "nat");
  const own = readlinkSync("/proc/self/ns/net");
  for (const task of readdirSync("/proc/self/task")) {
    expect(readlinkSync(`/proc/self/task/${task}/ns/net`)).toBe(own);
  }
});

test.each([4, 6] as const)("IPv%s: asked for existing tables only, none is created", async (family) => {
  using netns = await Netns.makeTemporary();
  const existing = async (table: string, of = family) =>
    (await existingXtablesInNetns(netns.fd, [{ family: of, table, chains: [] }]))[0];
  expect(await existing("nat")).toBeUndefined();
  expect(await existing("nat")).toBeUndefined();
  const table = await xtablesInNetns(netns.fd, family, "nat");
  expect(await existing("nat")).toEqual(table.subarray(0, INFO_BYTES));
  // neither a part of a name nor more than it, nor those of the other family
  for (const name of ["na", "natt", "", "raw"]) expect(await existing(name)).toBeUndefined();
  expect(await existing("nat", family === 4 ? 6 : 4)).toBeUndefined();
});

test("several tables are told in the order in which they were asked for", async () => {
  using netns = await Netns.makeTemporary();
  const raw = (await xtablesInNetns(netns.fd, 6, "raw")).subarray(0, INFO_BYTES);
  const nat = (await xtablesInNetns(netns.fd, 4, "nat")).subarray(0, INFO_BYTES);
  const chains = [{ chain: "CHAIN" }];
  const names = [
    { family: 4, table: "raw", chains },
    { family: 6, table: "raw", chains },
    { family: 4, table: "nat", chains },
  ] as const;
  expect(await existingXtablesInNetns(netns.fd, names)).toEqual([undefined, raw, nat]);
  expect(await existingXtablesInNetns(netns.fd, [])).toEqual([]);
});
