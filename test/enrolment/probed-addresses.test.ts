// SPDX-License-Identifier: Apache-2.0
// The addresses that the host's probes go to, of what ADD, the status and the namespace say.
import { expect, test } from "vitest";
import { probedAddresses } from "../../src/enrolment/probed-addresses.ts";

const first = ["10.0.0.2", "fd00::2"];
const second = ["10.222.0.2"];

test.each([
  { when: "neither says anything", told: [], status: [], has: [], want: [] },
  { when: "no ADD was heard", told: [], status: first, has: first, want: first },
  { when: "there is no status yet", told: first, status: [], has: first, want: first },
  { when: "both say the same", told: first, status: first, has: first, want: first },
  {
    when: "an address is spelled in two ways",
    told: ["fd00::2"],
    status: ["fd00:0::2"],
    has: [],
    want: ["fd00:0::2"],
  },
  {
    when: "ADD told of a second network, too",
    told: [...first, ...second],
    status: first,
    has: [],
    want: first,
  },
  { when: "ADD told of a second network alone", told: second, status: first, has: first, want: first },
  {
    when: "the status is that of a sandbox before",
    told: first,
    status: ["10.0.0.9"],
    has: first,
    want: first,
  },
  {
    when: "the status is of both",
    told: first,
    status: ["10.0.0.9", "fd00::2"],
    has: first,
    want: first,
  },
])("$when", async ({ told, status, has, want }) => {
  const asked: string[] = [];
  const held = async (ips: readonly string[]): Promise<string[]> => {
    asked.push(...ips);
    return ips.filter((ip) => has.includes(ip));
  };
  expect(await probedAddresses({ told, status, held })).toEqual(want);
  // a namespace that nobody doubts is not asked
  expect(asked.filter((ip) => told.includes(ip))).toEqual([]);
});
