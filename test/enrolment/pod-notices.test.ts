// SPDX-License-Identifier: Apache-2.0
// When a pod that is listened to is looked at, which pods are, and that ears end with the pod, against a clock that the test moves.
import { expect, test } from "vitest";
import type { Glance } from "../../src/enrolment/pod-glances.ts";
import { type Ears, PodNotices } from "../../src/enrolment/pod-notices.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import type { Netns } from "../../src/linux/netns.ts";
import { type Logger, silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { sandboxOf, workloadOf } from "./pure-pod.ts";

/** Ears whose kernel the test is. */
class FakeEars implements Ears {
  isClosed = false;
  onheard: (() => void) | undefined;
  listen(onheard: () => void): void {
    if (!this.isClosed) this.onheard = onheard;
  }
  close(): void {
    this.isClosed = true;
  }
  /** The kernel announces something. */
  announce(): void {
    const tell = this.onheard;
    this.onheard = undefined;
    if (!this.isClosed) tell?.();
  }
}

interface Kernel {
  readonly most?: number;
  readonly fails?: boolean;
  readonly glance?: Glance;
}

function make({ most = 10, fails = false, glance }: Kernel = {}) {
  const clock = new FakeClock();
  const ears: FakeEars[] = [];
  const looks: number[] = [];
  const warnings: string[] = [];
  const notices = new PodNotices({
    open: async () => {
      if (fails) throw new Error("no descriptor is left");
      const each = new FakeEars();
      ears.push(each);
      return each;
    },
    most,
    glance,
    onheard: (_, inMs) => looks.push(inMs),
    log: { ...silentLogger, warn: (_: unknown, message: string) => void warnings.push(message) } as Logger,
    clock,
  });
  return { clock, ears, looks, warnings, notices };
}

/** Lets everything happen that waits for nothing. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function captured(uid: string): PodRecord {
  const record = new PodRecord(uid);
  record.areRulesAnnounced = true;
  record.become(workloadOf({ phase: { at: "captured" }, sandbox: sandboxOf(`${uid}-netns`) }));
  return record;
}

/** A whole look in which nothing is announced. */
function look(setup: ReturnType<typeof make>, record: PodRecord): void {
  setup.notices.begin(record);
  setup.notices.follow(record);
  setup.notices.looked(record);
}

/** The ears are open, and the first look has been. */
async function followed(setup: ReturnType<typeof make>, record = captured("u1")) {
  setup.notices.follow(record);
  setup.clock.advance(1_500);
  await turn();
  look(setup, record);
  setup.looks.length = 0;
  return record;
}

test("a captured pod is listened to, and looked at once more for what changed before that", async () => {
  const { notices, looks, ears, clock } = make();
  const record = captured("u1");
  notices.follow(record);
  clock.advance(499);
  await turn();
  expect([ears.length, notices.hears(record)]).toEqual([0, false]);
  clock.advance(1_001);
  await turn();
  expect(notices.hears(record)).toBe(true);
  expect(looks).toHaveLength(1);
  expect(looks[0]).toBeGreaterThanOrEqual(500);
  expect(looks[0]).toBeLessThanOrEqual(1_500);
});

test("what is announced is looked at soon, once however much it is, and heard again from the look on", async () => {
  const setup = make();
  const record = await followed(setup);
  const [ears] = setup.ears as [FakeEars];
  ears.announce();
  ears.announce();
  expect(setup.looks).toEqual([50]);
  expect(setup.notices.dueInMs(record)).toBe(50);
  setup.notices.begin(record);
  expect(setup.notices.dueInMs(record)).toBeUndefined();
  setup.notices.follow(record);
  setup.notices.looked(record);
  ears.announce();
  expect(setup.looks).toEqual([50, 50]);
});

test("what is announced during a look brings another, and the echo of our own writes takes nothing from the pod's quick looks", async () => {
  const setup = make();
  const record = await followed(setup);
  const [ears] = setup.ears as [FakeEars];
  for (let i = 0; i < 8; i++) {
    ears.announce();
    setup.notices.begin(record);
    ears.announce();
    record.hasWritten = true;
    setup.notices.follow(record);
    setup.notices.looked(record);
    look(setup, record);
  }
  expect(setup.looks).toEqual(Array.from({ length: 16 }, () => 50));
  ears.announce();
  expect(setup.looks.at(-1)).toBe(2_000);
});

test("what is announced during a look is answered as becomes what came of it", async () => {
  const setup = make();
  const record = await followed(setup);
  for (const [before, after] of [
    [1, 0],
    [0, 1],
  ] as const) {
    record.failures = before;
    setup.notices.begin(record);
    setup.ears[0]?.announce();
    setup.notices.follow(record);
    record.failures = after;
    setup.notices.looked(record);
  }
  // what has failed has its time by the clock
  expect(setup.looks).toEqual([50, 8_000]);
});

test("a look that finds nothing ends it", async () => {
  const setup = make();
  const record = await followed(setup);
  setup.ears[0]?.announce();
  look(setup, record);
  expect(setup.notices.dueInMs(record)).toBeUndefined();
  expect(setup.looks).toHaveLength(1);
});

test("a pod whose rules change without end is looked at once in two seconds in the long run", async () => {
  const setup = make();
  const record = await followed(setup);
  let looks = 0;
  while (setup.clock.nowMs() < 600_000) {
    setup.ears[0]?.announce();
    await setup.clock.advance(setup.notices.dueInMs(record) ?? 0);
    look(setup, record);
    looks++;
  }
  expect(looks).toBeGreaterThan(290);
  expect(looks).toBeLessThan(320);
});

test.each(["leaving", "outside", "replaced", "closed"])(
  "a pod that is %s is listened to no more",
  async (how) => {
    const setup = make();
    const record = await followed(setup);
    const { workload } = record;
    if (how === "replaced") record.become({ ...workload, sandbox: sandboxOf("another") });
    else if (how === "closed") record.become({ ...workload, sandbox: { ...sandboxOf("x"), netns: closed } });
    else record.become({ ...workload, phase: { at: "outside" } });
    setup.notices.follow(record);
    expect(setup.ears[0]?.isClosed).toBe(true);
    expect(setup.notices.size).toBe(how === "replaced" ? 1 : 0);
    expect(setup.notices.hears(record)).toBe(false);
  },
);

const closed = { key: "closed", fd: -1, closed: true, close: () => {} } as Partial<Netns> as Netns;

test("a pod that ends before its ears are opened has none", async () => {
  const setup = make();
  const record = captured("u1");
  setup.notices.follow(record);
  record.become({ ...record.workload, phase: { at: "outside" } });
  setup.notices.follow(record);
  setup.clock.advance(5_000);
  await turn();
  expect([setup.ears.length, setup.notices.size, setup.clock.pendingCount]).toEqual([0, 0, 0]);
});

test.each([
  [1, 1],
  [0, 0],
])(
  "beyond the bound of %i pods are looked at by the clock, which is told where somebody is to listen",
  async (most, tellings) => {
    const setup = make({ most });
    const records = [captured("u1"), captured("u2"), captured("u3")];
    for (const record of records) await followed(setup, record);
    expect(records.map((record) => setup.notices.hears(record))).toEqual([most > 0, false, false]);
    expect(setup.ears).toHaveLength(most);
    expect(setup.warnings).toHaveLength(tellings);
  },
);

test("a namespace that cannot be listened to is tried again after its next look", async () => {
  const setup = make({ fails: true });
  const record = await followed(setup);
  expect(setup.notices.hears(record)).toBe(false);
  await followed(setup, record);
  expect(setup.looks).toEqual([]);
});

test("rules that no kernel announces are glanced at every eight seconds, and a pod is looked at when they changed", async () => {
  let rules: string | undefined = "ours";
  const setup = make({ glance: async () => rules });
  const record = await followed(setup);
  record.areRulesAnnounced = false;
  expect(setup.notices.hears(record)).toBe(false);
  setup.notices.start();
  await turn();
  // what was changed between the last look and the first glance would not show
  expect(setup.looks).toEqual([50]);
  expect(setup.notices.hears(record)).toBe(true);
  look(setup, record);
  const after = async (ms: number) => {
    setup.clock.advance(ms);
    await turn();
    return setup.looks.length;
  };
  expect([await after(8_000), await after(8_000)]).toEqual([1, 1]);
  rules = "another's";
  expect([await after(7_999), await after(1), await after(8_000)]).toEqual([1, 2, 2]);
  // too large for a glance: one look, and the clock is all that is left
  look(setup, record);
  rules = undefined;
  expect([await after(8_000), await after(8_000)]).toEqual([3, 3]);
  expect(setup.notices.hears(record)).toBe(false);
  await setup.notices.stop();
  rules = "ours";
  expect(await after(60_000)).toBe(3);
});

test("a pod that cannot be glanced at is looked at by the clock, and does not keep others from it", async () => {
  const setup = make({
    glance: async ({ key }) => {
      if (key === "u1-netns") throw new Error("no such namespace");
      return "rules";
    },
  });
  const first = await followed(setup);
  const second = await followed(setup, captured("u2"));
  for (const record of [first, second]) record.areRulesAnnounced = false;
  setup.notices.start();
  await turn();
  expect([setup.notices.hears(first), setup.notices.hears(second)]).toEqual([false, true]);
  await setup.notices.stop();
});
