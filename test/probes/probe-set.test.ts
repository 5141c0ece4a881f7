// SPDX-License-Identifier: Apache-2.0
// The `ipset restore` texts, word by word.
import { describe, expect, test } from "vitest";
import { planSet, type SeenSet } from "../../src/probes/probe-set.ts";

const wanted = {
  owners: new Map([
    ["10.0.0.1", "a"],
    ["10.0.0.2", "b"],
  ]),
  isStale: (comment: string) => comment === "gone",
};

function seen(entries: Record<string, string>, how: Partial<SeenSet> = {}): SeenSet {
  const plain = { type: "hash:ip", hasComments: true, hasTimeout: false };
  return { ...plain, ...how, entries: new Map(Object.entries(entries)) };
}

describe("planSet", () => {
  test("makes a set that is not there, with its members", () => {
    const plan = planSet(undefined, wanted, 4);
    expect(plan.lines).toEqual([
      "create istio-inpod-probes-v4 hash:ip family inet comment",
      'add istio-inpod-probes-v4 10.0.0.1 comment "a"',
      'add istio-inpod-probes-v4 10.0.0.2 comment "b"',
    ]);
    expect(plan.drift.map(({ kind }) => kind)).toEqual(["missing-set"]);
    expect(planSet(undefined, { ...wanted, owners: new Map([["fd00::1", "a"]]) }, 6).lines).toEqual([
      "create istio-inpod-probes-v6 hash:ip family inet6 comment",
      'add istio-inpod-probes-v6 fd00::1 comment "a"',
    ]);
  });

  test("changes nothing where every address names its owner, whatever strangers are there", () => {
    const plan = planSet(seen({ "10.0.0.1": "a", "10.0.0.2": "b", "10.0.0.9": "stranger" }), wanted, 4);
    expect(plan).toEqual({ drift: [], entries: [], lines: [] });
  });

  test("adds, corrects and deletes what differs and nothing else", () => {
    const plan = planSet(seen({ "10.0.0.1": "gone", "10.0.0.8": "gone", "10.0.0.9": "stranger" }), wanted, 4);
    expect(plan.entries).toEqual([
      { family: 4, address: "10.0.0.1", owner: "a" },
      { family: 4, address: "10.0.0.2", owner: "b" },
      { family: 4, address: "10.0.0.8" },
    ]);
    expect(plan.lines).toEqual([]);
    expect(plan.drift.map(({ kind, uid }) => [kind, uid])).toEqual([
      ["wrong-owner", "a"],
      ["missing-member", "b"],
      ["stale-member", "gone"],
    ]);
  });

  test.each([
    ["that has no comments", { hasComments: false }, ""],
    ["whose entries expire", { hasTimeout: true }, "stranger"],
  ])("exchanges a set %s in one step and takes strangers along", (_name, how, comment) => {
    const plan = planSet(seen({ "10.0.0.1": comment, "10.0.0.9": comment }, how), wanted, 4);
    expect(plan.lines).toEqual([
      "create istio-inpod-probes-v4-new hash:ip family inet comment",
      "flush istio-inpod-probes-v4-new",
      'add istio-inpod-probes-v4-new 10.0.0.1 comment "a"',
      'add istio-inpod-probes-v4-new 10.0.0.2 comment "b"',
      `add istio-inpod-probes-v4-new 10.0.0.9${comment === "" ? "" : ` comment "${comment}"`}`,
      "swap istio-inpod-probes-v4-new istio-inpod-probes-v4",
      "destroy istio-inpod-probes-v4-new",
    ]);
    expect(plan.drift.map(({ kind }) => kind)).toEqual(["wrong-set"]);
  });
});
