// SPDX-License-Identifier: Apache-2.0
// Visits of a namespace: who shares an entry, what one conversation's failure does to the others, and who waits for whom.
import { readdirSync, readlinkSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { netlinkInNetns } from "../../src/linux/native.ts";
import { encodeRequests, NLM, sortAnswers } from "../../src/linux/netlink/message.ts";
import { Netns } from "../../src/linux/netns.ts";
import { converse, NetnsVisit } from "../../src/linux/netns-visit.ts";

const ROUTE = 0;
const FIB_LOOKUP = 10; // answers, but never with an acknowledgement: a conversation that lasts until its deadline
const NO_PROTOCOL = 31;
const RTM_GETLINK = 18;

const lo = encodeRequests([
  { type: RTM_GETLINK, flags: NLM.ack, body: Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
]);
const endless = encodeRequests([{ type: 16, flags: NLM.ack, body: new Uint8Array(32) }]);
const aboutLo = { protocol: ROUTE, request: lo };

let netns: Netns;

beforeAll(async () => {
  netns = await Netns.makeTemporary();
});

afterAll(() => netns.close());

/** A visit that counts how often the namespace is entered. */
function countedVisit(options: { readonly isUrgent?: boolean } = {}) {
  const entered = { count: 0 };
  const assertUsable = () => {
    entered.count++;
  };
  return { entered, visit: new NetnsVisit({ fd: netns.fd, assertUsable, ...options }) };
}

function expectLo(received: Uint8Array): void {
  expect(sortAnswers(1, received)).toMatchObject([{ error: 0, messages: [{ type: 16 }] }]);
}

test.each([
  ["a promise", (action: () => Promise<void>) => Promise.resolve().then(action)],
  [
    "a callback",
    (action: () => Promise<void>) => new Promise((resolve) => setImmediate(() => resolve(action()))),
  ],
])("what is asked in one turn of %s shares an entry, also behind promises", async (_, begin) => {
  await begin(async () => {
    const { entered, visit } = countedVisit();
    const later = async () => {
      for (let i = 0; i < 20; i++) await undefined;
      return await converse(visit, aboutLo);
    };
    for (const answer of await Promise.all([visit.converse(aboutLo), later(), visit.converse(aboutLo)]))
      expectLo(answer);
    expect(entered.count).toBe(1);
    expectLo(await visit.converse(aboutLo));
    expect(entered.count).toBe(2);
  });
});

test("a conversation that fails fails alone", async () => {
  const { entered, visit } = countedVisit();
  const [first, refused, late, last] = await Promise.allSettled([
    visit.converse(aboutLo),
    visit.converse({ protocol: NO_PROTOCOL, request: lo }),
    visit.converse({ protocol: FIB_LOOKUP, request: endless, deadlineMs: 50 }),
    visit.converse(aboutLo),
  ]);
  expect(first.status).toBe("fulfilled");
  expect(last.status).toBe("fulfilled");
  expect(refused).toMatchObject({ reason: { code: "EPROTONOSUPPORT", syscall: "socket" } });
  expect(late).toMatchObject({ reason: { code: "ETIMEDOUT", syscall: "recvmsg" } });
  expect(entered.count).toBe(1);
});

test("a namespace that may not be entered is not, and all who asked are told", async () => {
  const visit = new NetnsVisit({
    fd: netns.fd,
    assertUsable: () => {
      throw new Error("closed");
    },
  });
  const both = await Promise.allSettled([visit.converse(aboutLo), visit.converse(aboutLo)]);
  expect(both).toMatchObject([{ reason: { message: "closed" } }, { reason: { message: "closed" } }]);
});

test("an urgent visit waits for none that lasts, and those have their turns", async () => {
  const over: string[] = [];
  const others = await Promise.all(Array.from({ length: 10 }, () => Netns.makeTemporary()));
  const lasting = Array.from({ length: 40 }, async (_, index) => {
    const visit = new NetnsVisit({ fd: (others[index % others.length] as Netns).fd });
    const conversation = { protocol: FIB_LOOKUP, request: endless, deadlineMs: 300 };
    await converse(visit, conversation).catch(() => over.push("lasting"));
  });
  const patient = converse(countedVisit().visit, aboutLo).then(() => over.push("patient"));
  // behind them all in the queue
  for (let i = 0; i < 4; i++) {
    await nextTurn();
    expectLo(await converse(countedVisit({ isUrgent: true }).visit, aboutLo));
    over.push("urgent");
  }
  expect(over).toEqual(["urgent", "urgent", "urgent", "urgent"]);
  await Promise.all([...lasting, patient]);
  expect(over.filter((each) => each === "lasting")).toHaveLength(40);
  expect(over.indexOf("patient")).toBeGreaterThan(4);
  for (const other of others) other.close();
});

test("visits of one namespace that last, however many, leave places to those of others", async () => {
  const over: string[] = [];
  using slow = await Netns.makeTemporary();
  const lasting = Array.from({ length: 40 }, async () => {
    const conversation = { protocol: FIB_LOOKUP, request: endless, deadlineMs: 100 };
    await converse(new NetnsVisit({ fd: slow.fd }), conversation).catch(() => over.push("lasting"));
  });
  await nextTurn();
  const others = await Promise.all(Array.from({ length: 20 }, () => Netns.makeTemporary()));
  const startMs = performance.now();
  await Promise.all(others.map(({ fd }) => converse(new NetnsVisit({ fd }), aboutLo)));
  // two places of the namespace are given up in 100 ms, all of them in two seconds
  expect(over.length).toBeLessThan(20);
  expect(performance.now() - startMs).toBeLessThan(1_000);
  await Promise.all(lasting);
  expect(over).toHaveLength(40);
  for (const other of others) other.close();
});

test("nobody who was visited is kept: the namespace goes with its last descriptor", async () => {
  const own = readlinkSync("/proc/self/ns/net");
  const visited = await Netns.makeTemporary();
  const held = await Netns.makeTemporary();
  await Promise.all(
    [visited, held].flatMap(({ fd }) => Array.from({ length: 20 }, () => netlinkInNetns(fd, ROUTE, lo))),
  );
  visited.close();
  held.close();
  const tasks = readdirSync("/proc/self/task");
  expect(new Set(tasks.map((task) => readlinkSync(`/proc/self/task/${task}/ns/net`)))).toEqual(
    new Set([own]),
  );
});
