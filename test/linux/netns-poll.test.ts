// SPDX-License-Identifier: Apache-2.0
// A question that is asked again and again: told once per change, never while nothing changes, and nothing is left of it.
import { readdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Netns } from "../../src/linux/netns.ts";
import { NetnsPoll } from "../../src/linux/netns-poll.ts";
import { setsQuestion } from "../../src/probes/host-look.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type HeldNetns, holdNetns } from "./held-netns.ts";

const everyMs = 20;
/** What would be told is told by now: as much later as ten times what it takes. */
const quietMs = 200;

let held: HeldNetns;
let netns: Netns;
let before: { fds: number; threads: number };

const owned = () => ({
  fds: readdirSync("/proc/self/fd").length,
  threads: readdirSync("/proc/self/task").length,
});

beforeEach(async () => {
  held = await holdNetns();
  before = owned();
  netns = Netns.open(held.path);
});

afterEach(async () => {
  netns.close();
  await waitFor("the poll to end", () => owned().fds <= before.fds, { timeoutMs: 2_000 });
  await held[Symbol.asyncDispose]();
});

const sh = (script: string): Promise<string> => held.run("sh", "-ec", script);
const set = "istio-inpod-probes-v4";

async function open(question = setsQuestion(everyMs)) {
  const poll = await NetnsPoll.open(netns, question);
  if (poll === undefined) throw new Error("the namespace is closed");
  const heard = { times: 0 };
  const listen = (): Promise<void> => poll.listen(() => heard.times++);
  await listen();
  return { poll, heard, listen };
}

test.each([
  ["a set that is made", "true", `ipset create ${set} hash:ip comment`],
  ["a set that is destroyed", `ipset create ${set} hash:ip comment`, `ipset destroy ${set}`],
  ["an entry that is added", `ipset create ${set} hash:ip comment`, `ipset add ${set} 10.0.0.1 comment a`],
  [
    "an entry that is taken away",
    `ipset create ${set} hash:ip comment && ipset add ${set} 10.0.0.1 comment a`,
    `ipset del ${set} 10.0.0.1`,
  ],
  [
    "a set that is emptied",
    `ipset create ${set} hash:ip && ipset add ${set} 10.0.0.1 && ipset add ${set} 10.0.0.2`,
    `ipset flush ${set}`,
  ],
  ["a set of IPv6", "true", "ipset create istio-inpod-probes-v6 hash:ip family inet6"],
])("tells of %s, once", async (_, first, change) => {
  await sh(first);
  const { heard, listen } = await open();
  await delay(quietMs);
  expect(heard.times).toBe(0);
  await sh(change);
  await waitFor("it to be told", () => heard.times === 1, { timeoutMs: 2_000, intervalMs: 5 });
  await sh(change.includes("add") ? `ipset add ${set} 10.0.0.9` : "true");
  await delay(quietMs);
  expect(heard.times).toBe(1);
  await listen();
  await delay(quietMs);
  expect(heard.times).toBe(1);
});

test("tells of what changed right after it was asked for", async () => {
  await sh(`ipset create ${set} hash:ip`);
  const { heard, listen } = await open();
  for (let i = 1; i <= 5; i++) {
    await listen();
    await sh(`ipset add ${set} 10.0.0.${i}`);
    await waitFor("it to be told", () => heard.times === i, { timeoutMs: 2_000, intervalMs: 5 });
  }
});

test("tells nothing of changes elsewhere", async () => {
  const { heard } = await open();
  await sh(
    "ipset create other hash:ip && ipset add other 10.0.0.1 && ip link add veth7 type veth peer name veth8",
  );
  await delay(quietMs);
  expect(heard.times).toBe(0);
});

test("a question that the kernel does not understand has the same answer each time", async () => {
  const { heard } = await open({
    protocol: 12,
    requests: [{ type: (99 << 8) | 1, flags: 4, body: new Uint8Array(4) }],
    everyMs,
  });
  await delay(quietMs);
  expect(heard.times).toBe(0);
});

test("a protocol that the kernel has not is refused", async () => {
  await expect(open({ ...setsQuestion(everyMs), protocol: 31 })).rejects.toThrow(
    "Cannot ask again and again in a network namespace: socket: EPROTONOSUPPORT",
  );
});

test("its thread, its descriptors and the namespace end with it", async () => {
  const { poll, heard } = await open();
  expect(owned().threads).toBeGreaterThan(before.threads);
  const threads = owned().threads - 1;
  poll.close();
  poll.close();
  await waitFor("the thread to end", () => owned().threads <= threads, { timeoutMs: 2_000 });
  await sh(`ipset create ${set} hash:ip`);
  await delay(quietMs);
  expect(heard.times).toBe(0);
  await poll.listen(() => heard.times++);
  expect(await NetnsPoll.open(closed(), setsQuestion(everyMs))).toBe(undefined);
});

function closed(): Netns {
  const other = Netns.open(held.path);
  other.close();
  return other;
}

test("closing the namespace's handle closes it, also while it opens", async () => {
  const opening = NetnsPoll.open(netns, setsQuestion(everyMs));
  netns.close();
  expect(await opening).toBe(undefined);
});

test("a hundred of them leave nothing", async () => {
  const polls = await Promise.all(Array.from({ length: 100 }, () => NetnsPoll.open(netns, setsQuestion(1))));
  await Promise.all(polls.map((poll) => poll?.listen(() => {})));
  await delay(quietMs);
  for (const poll of polls) poll?.close();
  await waitFor("all to end", () => owned().fds <= before.fds + 1, { timeoutMs: 5_000 });
});
