// SPDX-License-Identifier: Apache-2.0
// Who holds a pod's namespace while the probes' way to it is checked. What a check finds is seen in test/kernel/probes.test.ts.
import { afterEach, beforeEach, expect, test } from "vitest";
import { Netns, openNetnsCount } from "../../src/linux/netns.ts";
import { ProbePathWatch } from "../../src/probes/probe-path-watch.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { waitFor } from "../support/node/wait-for.ts";

const here = "/proc/self/ns/net";
const netns = Netns.open(here);
const alone = openNetnsCount();
const watches: ProbePathWatch[] = [];

let clock: FakeClock;

beforeEach(() => {
  clock = new FakeClock();
});

/** One whose checks begin when the clock is moved. */
function patientWatch(): ProbePathWatch {
  const watch = new ProbePathWatch({
    hostNetnsPath: here,
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
    ipv6: true,
    countsOwnConnections: () => true,
    pluginTypes: () => Promise.resolve([]),
    onoutcome: () => {},
    log: recordingLogger(),
    clock,
  });
  watches.push(watch);
  return watch;
}

afterEach(async () => {
  for (const watch of watches.splice(0)) await watch.stop();
  expect(openNetnsCount()).toBe(alone);
});

test("a pod that leaves is let go of at once, and the next one is taken instead", async () => {
  const watch = patientWatch();
  watch.enrolled({ uid: "a", netns, addresses: ["10.0.0.1"] });
  expect(openNetnsCount()).toBe(alone + 1);
  await watch.left("b");
  expect(openNetnsCount()).toBe(alone + 1);
  await watch.left("a");
  expect(openNetnsCount()).toBe(alone);
  expect(watch.state).toEqual({ outcome: "unknown", atMs: undefined });
  watch.enrolled({ uid: "c", netns, addresses: ["10.0.0.3"] });
  expect(openNetnsCount()).toBe(alone + 1);
  await watch.left("a");
  expect(openNetnsCount()).toBe(alone + 1);
});

test("nothing is begun after the stop", async () => {
  const watch = patientWatch();
  watch.enrolled({ uid: "a", netns, addresses: ["10.0.0.1"] });
  await watch.stop();
  expect(openNetnsCount()).toBe(alone);
  watch.enrolled({ uid: "b", netns, addresses: ["10.0.0.2"] });
  expect(openNetnsCount()).toBe(alone);
});

test("checks of which nothing came are repeated after pauses that grow", async () => {
  const watch = patientWatch();
  // an address that is nobody's here: the check cannot be made
  const taken = (): boolean => {
    watch.enrolled({ uid: "a", netns, addresses: ["203.0.113.9"] });
    return openNetnsCount() > alone;
  };
  // each pause is cut by up to a half
  for (const pauseMs of [10_000, 20_000, 40_000]) {
    expect(taken()).toBe(true);
    clock.advance(2_000);
    await waitFor("the check to end", () => openNetnsCount() === alone);
    expect(watch.state).toMatchObject({ outcome: "unknown", atMs: expect.any(Number) as number });
    clock.advance(pauseMs / 2 - 1);
    expect(taken()).toBe(false);
    clock.advance(pauseMs / 2 + 1);
  }
  await watch.stop();
  expect(clock.pendingCount).toBe(0);
});
