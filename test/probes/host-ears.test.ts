// SPDX-License-Identifier: Apache-2.0
// When what was seen of the host holds, against a clock and a kernel that the test moves.
import { expect, test } from "vitest";
import type { Netns } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { HostEars } from "../../src/probes/host-ears.ts";
import { FakeClock } from "../support/fake-clock.ts";

const netns = {} as Netns;

function make({ fails = false } = {}) {
  const clock = new FakeClock();
  const looks: number[] = [];
  const kernel: { announce: () => void; listened: number } = { announce: () => {}, listened: 0 };
  const ears = new HostEars({
    listen: async () => {
      if (fails) throw new Error("no such protocol");
      return {
        listen: (onheard) => {
          kernel.listened++;
          kernel.announce = onheard;
        },
      };
    },
    onheard: (inMs) => looks.push(inMs),
    log: silentLogger,
    clock,
  });
  return { ears, clock, looks, kernel };
}

test("what was found right holds while a glance is the same, for a minute", async () => {
  const { ears, clock } = make();
  expect(ears.isAtEase).toBe(false);
  await ears.begin(netns);
  expect(ears.isAtEase).toBe(false);
  ears.note("3 entries");
  expect([ears.isAtEase, ears.isSame("3 entries"), ears.isSame("2 entries")]).toEqual([true, true, false]);
  clock.advance(59_999);
  expect(ears.isSame("3 entries")).toBe(true);
  clock.advance(1);
  expect([ears.isAtEase, ears.isSame("3 entries")]).toEqual([false, false]);
});

test("what is announced ends it at once, also during the look, and asks for one", async () => {
  const { ears, looks, kernel } = make();
  await ears.begin(netns);
  ears.note("x");
  kernel.announce();
  expect([ears.isAtEase, looks]).toEqual([false, [50]]);
  await ears.begin(netns);
  expect(kernel.listened).toBe(2);
  kernel.announce();
  // what the look found is older than the announcement
  ears.note("x");
  expect(ears.isSame("x")).toBe(false);
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
  const { ears, looks, kernel } = make();
  for (let i = 0; i < 8; i++) {
    await ears.begin(netns);
    if (i % 2 === 1) ears.write();
    kernel.announce();
  }
  expect(looks).toEqual([50, 50, 50, 50, 50, 50, 50, 50]);
});

test("a host that cannot be listened to is looked at by the clock", async () => {
  const { ears } = make({ fails: true });
  await ears.begin(netns);
  ears.note("x");
  expect([ears.isAtEase, ears.isSame("x")]).toEqual([false, false]);
});
