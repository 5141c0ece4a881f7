// SPDX-License-Identifier: Apache-2.0
// Who holds a pod's namespace while the probes' way to it is checked. What a check finds is seen in test/kernel/probes.test.ts.
import { afterEach, expect, test } from "vitest";
import { Netns, openNetnsCount } from "../../src/linux/netns.ts";
import { ProbePathWatch } from "../../src/probes/probe-path-watch.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";

const here = "/proc/self/ns/net";
const netns = Netns.open(here);
const alone = openNetnsCount();
const watches: ProbePathWatch[] = [];

/** One whose checks have not begun within the test. */
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
    settleMs: 60_000,
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
