// SPDX-License-Identifier: Apache-2.0
// When what was seen of the host holds, against a clock and a kernel that the test moves.
import { expect, test } from "vitest";
import type { Netns } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { HostEars } from "../../src/probes/host-ears.ts";
import { FakeClock } from "../support/fake-clock.ts";

const netns = {} as Netns;

type Fails = "listening" | "polling" | "asking";

function make({ fails, asksForSets = true }: { fails?: Fails | undefined; asksForSets?: boolean } = {}) {
  const faults = { fails };
  const clock = new FakeClock();
  const looks: number[] = [];
  const kernel = {
    announce: () => {},
    answerOtherwise: () => {},
    whileAsked: () => {},
    opened: 0,
    listened: 0,
    asked: 0,
  };
  const failing = (what: Fails): void => {
    if (faults.fails === what) throw new Error(`${what} fails`);
  };
  const ears = new HostEars({
    listen: async () => {
      failing("listening");
      return {
        listen: (onheard) => {
          kernel.listened++;
          kernel.announce = onheard;
        },
      };
    },
    asksForSets,
    poll: async () => {
      failing("polling");
      kernel.opened++;
      return {
        listen: async (onchanged) => {
          failing("asking");
          kernel.asked++;
          kernel.answerOtherwise = onchanged;
          kernel.whileAsked();
        },
      };
    },
    onheard: (inMs) => looks.push(inMs),
    log: silentLogger,
    clock,
  });
  return { ears, clock, looks, kernel, faults };
}

test("what was found right holds for a minute", async () => {
  const { ears, clock, kernel } = make();
  expect(ears.restMs).toBe(undefined);
  await ears.begin(netns);
  expect(ears.restMs).toBe(undefined);
  clock.advance(10_000);
  ears.note();
  expect(ears.restMs).toBe(50_000);
  clock.advance(49_999);
  expect(ears.restMs).toBe(1);
  clock.advance(1);
  expect(ears.restMs).toBe(undefined);
  expect([kernel.listened, kernel.asked]).toEqual([1, 1]);
});

test.each(["announce", "answerOtherwise"] as const)(
  "what is heard (%s) ends it at once, also during the look, and asks for one",
  async (hear) => {
    const { ears, looks, kernel } = make();
    await ears.begin(netns);
    ears.note();
    kernel[hear]();
    expect([ears.restMs, looks]).toEqual([undefined, [50]]);
    await ears.begin(netns);
    expect([kernel.listened, kernel.asked]).toEqual([2, 2]);
    kernel[hear]();
    // what the look found is older than what was heard
    ears.note();
    expect(ears.restMs).toBe(undefined);
  },
);

test("what is announced while the sets are asked about counts", async () => {
  const { ears, kernel } = make();
  kernel.whileAsked = () => kernel.announce();
  await ears.begin(netns);
  ears.note();
  expect(ears.restMs).toBe(undefined);
});

test("sets that the kernel announces are not asked about", async () => {
  const { ears, kernel } = make({ asksForSets: false });
  await ears.begin(netns);
  ears.note();
  expect([ears.restMs, kernel.asked]).toEqual([60_000, 0]);
});

test("who writes there all the time brings a look in three seconds, as there was without announcements", async () => {
  const { ears, looks, kernel } = make();
  for (let i = 0; i < 6; i++) {
    await ears.begin(netns);
    kernel.announce();
  }
  expect(looks).toEqual([50, 50, 50, 50, 3_000, 6_000]);
});

test("the echo of our own writes takes nothing from what others may", async () => {
  const { ears, looks, kernel } = make({ asksForSets: false });
  for (let i = 0; i < 8; i++) {
    await ears.begin(netns);
    if (i % 2 === 1) ears.write();
    kernel.announce();
  }
  expect(looks).toEqual([50, 50, 50, 50, 50, 50, 50, 50]);
});

test("what we put into a set is looked at soon: without it again the answer is the old one", async () => {
  const { ears, looks } = make();
  await ears.begin(netns);
  ears.write();
  expect(looks).toEqual([250]);
});

test.each(["listening", "polling", "asking"] as const)(
  "a host that cannot be listened to (%s fails) is looked at by the clock until it can",
  async (fails) => {
    const { ears, kernel, faults } = make({ fails });
    await ears.begin(netns);
    ears.note();
    expect(ears.restMs).toBe(undefined);
    faults.fails = undefined;
    await ears.begin(netns);
    ears.note();
    expect([ears.restMs, kernel.opened]).toEqual([60_000, 1]);
  },
);
