// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, expect, test } from "vitest";
import { lookForBypasses } from "../../src/enrolment/bypass-step.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import { Netns } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import type { BypassReport } from "../../src/netfilter/bypass/bypass.ts";
import { DEFAULT_OPTIONS } from "../redirection/variants.ts";

/** What the looks were given as known; undefined: all was read. */
let looks: (BypassReport | undefined)[];
let record: PodRecord;
let netns: Netns;

const nft = { bypasses: [], isComplete: true, generation: 7 };
const parts: Parameters<typeof lookForBypasses>[2] = {
  bypasses: async (_netns, _redirect, known) => {
    looks.push(known);
    return { ...nft, nft };
  },
  history: { sawBypasses: () => {} } as never,
  outcomes: { bypassed: () => {} },
  redirection: { searchAgain: () => {} },
  log: silentLogger,
};
const look = (generation?: number) =>
  lookForBypasses(record, { netns, redirect: DEFAULT_OPTIONS, generation }, parts);

beforeEach(() => {
  looks = [];
  record = new PodRecord("u1");
  netns = Netns.open("/proc/self/ns/net");
});

afterEach(() => netns.close());

test("a pod that nobody hears of is spared as long as its nf_tables stand still, five times at most", async () => {
  for (let i = 0; i < 7; i++) await look(7);
  expect(looks).toEqual([undefined, undefined]);
  await look(8);
  expect(looks).toHaveLength(3);
});

test("of a pod that is heard of x_tables are looked into each time, nf_tables when they changed and every sixth time", async () => {
  record.isHeard = true;
  for (let i = 0; i < 7; i++) await look(7);
  expect(looks).toEqual([undefined, nft, nft, nft, nft, nft, undefined]);
  await look(8);
  await look();
  expect(looks.slice(7)).toEqual([undefined, undefined]);
  await look(7);
  expect(looks.at(-1)).toBe(nft);
  record.isAnnounced = true;
  await look(7);
  expect(looks.at(-1)).toBeUndefined();
});
