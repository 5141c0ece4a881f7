// SPDX-License-Identifier: Apache-2.0
// A namespace made by the addon: another one than ours, empty, with its loopback device up, kept by the descriptor alone.
import { closeSync, readdirSync, readlinkSync, statSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNetns, NativeError, netlinkInNetns } from "../../src/linux/native.ts";
import { readRedirectRouting } from "../../src/linux/netlink/rtnetlink.ts";
import { Netns } from "../../src/linux/netns.ts";
import { run } from "../support/node/run.ts";

const isRoot = process.getuid?.() === 0;

test.skipIf(!isRoot)("is another namespace than ours, in which lo alone is there, and up", async () => {
  const own = readlinkSync("/proc/self/ns/net");
  const fd = await makeNetns();
  try {
    expect(readlinkSync(`/proc/self/fd/${fd}`)).toMatch(/^net:\[\d+\]$/);
    expect(readlinkSync(`/proc/self/fd/${fd}`)).not.toBe(own);
    expect(readlinkSync("/proc/self/ns/net")).toBe(own);
    const { stdout } = await run(["nsenter", `--net=/proc/${process.pid}/fd/${fd}`, "ip", "-br", "link"]);
    expect(stdout).toMatch(/^lo +UNKNOWN +\S+ <LOOPBACK,UP,LOWER_UP> *\n$/);
  } finally {
    closeSync(fd);
  }
});

test.skipIf(!isRoot)("is not inherited by programs and leaves no descriptor", async () => {
  const before = readdirSync("/proc/self/fd").length;
  const made = await Promise.all(Array.from({ length: 8 }, () => Netns.makeTemporary()));
  expect(new Set(made.map(({ key }) => key)).size).toBe(8);
  const { stdout } = await run(["sh", "-c", "ls -l /proc/self/fd"]);
  expect(stdout).not.toMatch(/net:\[/);
  for (const netns of made) {
    const { fd } = netns;
    expect(statSync(`/proc/self/fd/${fd}`).ino).toBe(Number(netns.id.ino));
    await readRedirectRouting(fd, { v6: true });
    netns.close();
    await expect(netlinkInNetns(fd, 0, new Uint8Array())).rejects.toThrow(NativeError);
  }
  expect(readdirSync("/proc/self/fd").length).toBe(before);
});
