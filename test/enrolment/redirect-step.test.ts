// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, expect, test } from "vitest";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import { redirectPod } from "../../src/enrolment/redirect-step.ts";
import { Netns } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";
import { FakeClock } from "../support/fake-clock.ts";

let clock: FakeClock;
let netns: Netns;
let did: string[];

beforeEach(() => {
  clock = new FakeClock();
  netns = Netns.open("/proc/self/ns/net");
  did = [];
});
afterEach(() => netns.close());

const report = { changed: true, writes: 1, repaired: [], skippedFamilies: [], durationMs: 1 };

async function redirect(part: { isNew: boolean; isEntry: boolean }, fault?: Error): Promise<void> {
  const forget = async (): Promise<number> => {
    did.push("forget");
    if (fault !== undefined) throw fault;
    return 1;
  };
  const apply = async (): Promise<typeof report> => {
    did.push("rules");
    return report;
  };
  await redirectPod(
    {
      ...{ do: "redirect", sandbox: { netns } as never, redirect: DEFAULT_OPTIONS },
      ...{ isUntouched: false, isRepair: false, ...part },
    } as Parameters<typeof redirectPod>[0],
    new PodRecord("u1"),
    {
      clock,
      log: silentLogger,
      redirection: { apply } as never,
      connections: {
        countEarlier: async () => ({ count: 0, isCapped: false }),
        forgetFrozen: forget,
      } as never,
      history: { entered: () => {}, looked: () => {}, step: () => {}, sawBypasses: () => {} } as never,
      outcomes: { repaired: () => {}, bypassed: () => {} },
      bypasses: undefined,
    },
  );
}

test("what is over is forgotten before a running pod's rules stand, and once more when what ended meanwhile is", async () => {
  await redirect({ isNew: false, isEntry: true });
  expect(did).toEqual(["forget", "rules"]);
  clock.advance(1_999);
  expect(did).toHaveLength(2);
  clock.advance(1);
  expect(did).toEqual(["forget", "rules", "forget"]);
});

test("what an earlier agent left is forgotten once of a pod that has its rules, within half a minute", async () => {
  for (let look = 0; look < 3; look++) await redirect({ isNew: false, isEntry: false });
  expect(did).toEqual(["rules", "rules", "rules"]);
  clock.advance(32_000);
  expect(did.slice(3)).toEqual(["forget"]);
});

test("nothing is forgotten of a pod that is being made", async () => {
  await redirect({ isNew: true, isEntry: false });
  await redirect({ isNew: false, isEntry: false });
  clock.advance(60_000);
  expect(did).toEqual(["rules", "rules"]);
});

test("a kernel that does not let us keeps no pod out, and a pod that is gone is left alone", async () => {
  await redirect({ isNew: false, isEntry: true }, new Error("EPERM"));
  netns.close();
  clock.advance(2_000);
  expect(did).toEqual(["forget", "rules"]);
});
