// SPDX-License-Identifier: Apache-2.0
// Netlink conversations in a namespace: when they are over, what they survive, and that nobody waits for them.
import { execFile, execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { netlinkInNetns } from "../../src/linux/native.ts";
import {
  eachMessage,
  encodeRequests,
  type NetlinkRequest,
  NLM,
  sortAnswers,
} from "../../src/linux/netlink/message.ts";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";

const ROUTE = 0;
const FIB_LOOKUP = 10; // answers, but never with an acknowledgement
const NETFILTER = 12;
const RTM = { newLink: 16, getLink: 18, getAddress: 22, newRule: 32, getRule: 34 } as const;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

let held: HeldNetns;
let netnsFd: number;
let folder: string;
let fdsBefore: number;

beforeAll(async () => {
  held = await holdNetns();
  netnsFd = openSync(held.path, "r");
  folder = mkdtempSync(join(tmpdir(), "ambient-netlink-"));
});

afterAll(async () => {
  closeSync(netnsFd);
  await held[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

beforeEach(() => {
  fdsBefore = readdirSync("/proc/self/fd").length;
});

afterEach(() => expect(readdirSync("/proc/self/fd").length).toBe(fdsBefore));

const lo: NetlinkRequest = {
  type: RTM.getLink,
  flags: NLM.ack,
  body: Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
};

function dump(type: number, family = 0): NetlinkRequest {
  return { type, flags: NLM.dump, body: Uint8Array.of(family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) };
}

function bytesOf(messages: readonly { readonly body: Uint8Array }[]): number {
  return messages.reduce((sum, { body }) => sum + 16 + ((body.length + 3) & ~3), 0);
}

async function ask(...requests: NetlinkRequest[]) {
  return sortAnswers(requests.length, await netlinkInNetns(netnsFd, ROUTE, encodeRequests(requests)));
}

test("a request with an acknowledgement gives the object and the acknowledgement", async () => {
  const [answer] = await ask(lo);
  expect(answer).toMatchObject({ error: 0, interrupted: false });
  expect(answer?.messages.map(({ type }) => type)).toEqual([RTM.newLink]);
});

test("answers come from the namespace and not from the one of this process", async () => {
  const [answer] = await ask(dump(RTM.getLink));
  expect(answer?.messages).toHaveLength(1);
  expect(readdirSync("/sys/class/net").length).toBeGreaterThan(1);
});

test("several dumps in one request all complete, although the kernel runs one at a time", async () => {
  const answers = await ask(
    dump(RTM.getRule, 2),
    dump(RTM.getRule, 10),
    lo,
    dump(RTM.getLink),
    dump(RTM.getRule, 2),
  );
  expect(answers.map(({ error, messages }) => [error, messages.length])).toEqual([
    [0, 3],
    [0, 2],
    [0, 1],
    [0, 1],
    [0, 3],
  ]);
});

test("a request without an acknowledgement gives its answer and does not wait", async () => {
  const started = performance.now();
  const [answer] = await ask({ ...lo, flags: 0 });
  expect(answer?.messages).toHaveLength(1);
  expect(performance.now() - started).toBeLessThan(1_000);
});

test("a refusal is in the answers, with the kernel's words where it has some", async () => {
  const body = Uint8Array.of(...lo.body);
  body[4] = 99;
  const [missing, fine, unknown] = await ask({ ...lo, body }, lo, {
    type: 999,
    flags: 0,
    body: new Uint8Array(4),
  });
  expect(missing?.error).toBe(-19);
  expect(fine?.error).toBe(0);
  expect(unknown?.error).toBe(-95);
  const [unsound] = await ask({ type: RTM.newRule, flags: NLM.ack, body: new Uint8Array(12) });
  expect(unsound?.error).toBeLessThan(0);
  expect(unsound?.reason).toMatch(/\w+ \w+/);
});

test("an empty request has no answer", async () => {
  expect(await netlinkInNetns(netnsFd, ROUTE, new Uint8Array())).toEqual(new Uint8Array());
});

test("the acknowledgements of a thousand messages all arrive", async () => {
  const answers = await ask(...Array.from({ length: 1_000 }, () => lo));
  expect(answers.filter(({ error, messages }) => error === 0 && messages.length === 1)).toHaveLength(1_000);
});

test("a dump of hundreds of kilobytes arrives whole", async () => {
  await using big = await holdNetns();
  const fd = openSync(big.path, "r");
  const lines = Array.from({ length: 4_000 }, (_, i) => `addr add 10.1.${i >> 8}.${i & 255}/32 dev lo`);
  await big.feed(lines.join("\n"), "ip", "-batch", "-");
  const received = await netlinkInNetns(fd, ROUTE, encodeRequests([dump(RTM.getAddress)]));
  closeSync(fd);
  expect(received.length).toBeGreaterThan(250_000);
  const [answer] = sortAnswers(1, received);
  expect(answer).toMatchObject({ error: 0 });
  expect(answer?.messages).toHaveLength(4_000 + 2);
});

test("a batch the kernel gives up on at its first message ends at once and not at the deadline", async () => {
  const beginNothing = { type: 16, flags: NLM.ack, body: Uint8Array.of(0, 0, 0, 99) };
  const newTable = { type: 0xa00, flags: NLM.ack | NLM.create, body: Uint8Array.of(2, 0, 0, 0) };
  const end = { type: 17, flags: 0, body: Uint8Array.of(0, 0, 0, 10) };
  const started = performance.now();
  const request = encodeRequests([beginNothing, newTable, newTable, end]);
  const answers = sortAnswers(4, await netlinkInNetns(netnsFd, NETFILTER, request));
  expect(performance.now() - started).toBeLessThan(2_000);
  expect(answers[0]?.error).toBeLessThan(0);
  expect(answers[1]?.error).toBeUndefined();
});

test("a conversation without an end fails with ETIMEDOUT at its deadline, and the loop runs on meanwhile", async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const started = performance.now();
  const request = encodeRequests([{ type: 16, flags: NLM.ack, body: new Uint8Array(32) }]);
  await expect(netlinkInNetns(netnsFd, FIB_LOOKUP, request, { deadlineMs: 200 })).rejects.toMatchObject({
    name: "NativeError",
    code: "ETIMEDOUT",
    syscall: "recvmsg",
  });
  clearInterval(timer);
  expect(performance.now() - started).toBeGreaterThan(190);
  expect(performance.now() - started).toBeLessThan(2_000);
  expect(ticks).toBeGreaterThan(5);
});

test("a forged answer from a process in the namespace is not taken for the kernel's", async () => {
  const program = join(folder, "forge");
  execFileSync("gcc", ["-Wall", "-Werror", "-o", program, join(import.meta.dirname, "forge.c")]);
  // The kernel gives a process's first netlink socket of a namespace the process id as its port.
  const forging = promisify(execFile)("nsenter", [
    `--net=${held.path}`,
    program,
    `${FIB_LOOKUP}`,
    `${process.pid}`,
    "1",
  ]);
  const request = encodeRequests([{ type: 16, flags: NLM.ack, body: new Uint8Array(32) }]);
  let outcome: string;
  try {
    const received = await netlinkInNetns(netnsFd, FIB_LOOKUP, request, { deadlineMs: 500 });
    outcome = `answered: ${[...eachMessage(received)].map(({ type }) => type)}`;
  } catch (error) {
    outcome = (error as NodeJS.ErrnoException).code ?? "";
  }
  forging.child.stdin?.end();
  expect(Number((await forging).stdout)).toBeGreaterThan(0);
  expect(outcome).toBe("ETIMEDOUT");
});

test("a conversation ends when enough is received, in the middle of a dump, and asks for nothing more", async () => {
  const requests = [dump(RTM.getAddress), lo];
  const whole = await netlinkInNetns(netnsFd, ROUTE, encodeRequests(requests));
  expect(sortAnswers(2, whole).map(({ error }) => error)).toEqual([0, 0]);
  const endsAt = [...eachMessage(whole)].findIndex(({ type }) => type === NLMSG_DONE);
  const listBytes = bytesOf([...eachMessage(whole)].slice(0, endsAt));
  for (const enoughBytes of [1, listBytes]) {
    const part = await netlinkInNetns(netnsFd, ROUTE, encodeRequests(requests), { enoughBytes });
    expect(part.length).toBe(listBytes);
    expect(sortAnswers(2, part).map(({ error }) => error)).toEqual([undefined, undefined]);
  }
  const all = await netlinkInNetns(netnsFd, ROUTE, encodeRequests(requests), { enoughBytes: 1 << 20 });
  expect(all.length).toBe(whole.length);
});

test.each([
  { what: "a header cut short", bytes: new Uint8Array(15).fill(16) },
  {
    what: "a length below the header's",
    bytes: Uint8Array.of(15, 0, 0, 0, 18, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0),
  },
  { what: "a length beyond the end", bytes: Uint8Array.of(17, 0, 0, 0, 18, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0) },
  { what: "a length of zero", bytes: new Uint8Array(16) },
])("a request with $what fails with EINVAL before it is sent", async ({ bytes }) => {
  await expect(netlinkInNetns(netnsFd, ROUTE, bytes)).rejects.toMatchObject({
    code: "EINVAL",
    syscall: "sendto",
  });
});

test("descriptors that are no network namespace are refused by name of the failing call", async () => {
  const request = encodeRequests([lo]);
  const file = openSync("/dev/null", "r");
  const mount = openSync("/proc/self/ns/mnt", "r");
  const refusal = (fd: number, protocol = ROUTE) => expect(netlinkInNetns(fd, protocol, request)).rejects;
  await refusal(file).toMatchObject({ code: "EINVAL", syscall: "setns" });
  await refusal(mount).toMatchObject({ code: "EINVAL", syscall: "setns" });
  await refusal(999_999).toMatchObject({ code: "EBADF", syscall: "fcntl" });
  await refusal(netnsFd, 31).toMatchObject({ code: "EPROTONOSUPPORT", syscall: "socket" });
  closeSync(file);
  closeSync(mount);
});

test("the descriptor may be closed as soon as the call has returned", async () => {
  const fd = openSync(held.path, "r");
  const answer = netlinkInNetns(fd, ROUTE, encodeRequests([dump(RTM.getLink)]));
  closeSync(fd);
  const reused = openSync("/dev/null", "r");
  expect(reused).toBe(fd);
  expect([...eachMessage(await answer)].filter(({ type }) => type === RTM.newLink)).toHaveLength(1);
  closeSync(reused);
});

test("forty conversations at once all complete, and every thread is in its own namespace after", async () => {
  const request = encodeRequests([lo, dump(RTM.getAddress)]);
  const all = await Promise.all(Array.from({ length: 40 }, () => netlinkInNetns(netnsFd, ROUTE, request)));
  for (const received of all) {
    expect(sortAnswers(2, received).map(({ error }) => error)).toEqual([0, 0]);
    expect([...eachMessage(received)].filter(({ type }) => type === NLMSG_ERROR)).toHaveLength(1);
  }
  const own = readlinkSync("/proc/self/ns/net");
  expect(own).not.toBe(readlinkSync(held.path));
  for (const task of readdirSync("/proc/self/task")) {
    expect(readlinkSync(`/proc/self/task/${task}/ns/net`)).toBe(own);
  }
});
