// SPDX-License-Identifier: Apache-2.0
// Which pod owns which address, through reuse, conflicts, dual stack and incomplete pictures.
import { describe, expect, test } from "vitest";
import { ProbeMembers } from "../../src/probes/probe-members.ts";

function owners(members: ProbeMembers): Record<string, string> {
  const { owners } = members.wanted();
  return Object.fromEntries([...owners[4], ...owners[6]]);
}

describe("set", () => {
  test("owns every address of a dual-stack pod, in one spelling, by family", () => {
    const members = new ProbeMembers();
    expect(members.set("a", ["10.0.0.1", "FD00:0:0::01", "fd00::1"])).toBe(true);
    const { owners } = members.wanted();
    expect([...owners[4]]).toEqual([["10.0.0.1", "a"]]);
    expect([...owners[6]]).toEqual([["fd00::1", "a"]]);
  });

  test("says whether anything changed", () => {
    const members = new ProbeMembers();
    members.set("a", ["10.0.0.1", "10.0.0.2"]);
    expect(members.set("a", ["10.0.0.2", "10.0.0.1"])).toBe(false);
    expect(members.set("a", ["10.0.0.2"])).toBe(true);
    expect(owners(members)).toEqual({ "10.0.0.2": "a" });
  });

  test("gives a reused address to the newest pod, which keeps it when the older one is named again", () => {
    const members = new ProbeMembers();
    members.set("old", ["10.0.0.1"]);
    members.set("new", ["10.0.0.1"]);
    expect(members.set("old", ["10.0.0.1"])).toBe(false);
    expect(owners(members)).toEqual({ "10.0.0.1": "new" });
    members.set("old", []);
    expect(owners(members)).toEqual({ "10.0.0.1": "new" });
  });

  test("gives an address back to the older of two living pods when the newer one goes", () => {
    const members = new ProbeMembers();
    members.set("old", ["10.0.0.1"]);
    members.set("new", ["10.0.0.1"]);
    members.set("new", []);
    expect(owners(members)).toEqual({ "10.0.0.1": "old" });
  });

  test("without addresses makes the pod's entries stale", () => {
    const members = new ProbeMembers();
    members.set("a", ["10.0.0.1"]);
    expect(members.set("a", [])).toBe(true);
    expect(members.wanted().isStale("a")).toBe(true);
    expect(owners(members)).toEqual({});
  });

  test.each<[string, string[]]>([
    ["a", ["10.0.0.256"]],
    ["a", ["10.0.0.1", ""]],
    ["a", ["fe80::1%eth0"]],
    ["a", ["0.0.0.0"]],
    ["a", ["::"]],
    ["a", ["10.0.0.0/24"]],
    ["", ["10.0.0.1"]],
    ['x"\nflush istio-inpod-probes-v4', ["10.0.0.1"]],
    ["x y", ["10.0.0.1"]],
    ["x".repeat(254), ["10.0.0.1"]],
  ])("of %j with %j is refused and changes nothing", (uid, addresses) => {
    const members = new ProbeMembers();
    members.set("a", ["10.0.0.9"]);
    expect(() => members.set(uid, addresses)).toThrow(RangeError);
    expect(() =>
      members.restore(
        new Map([
          ["b", ["10.0.0.8"]],
          [uid, addresses],
        ]),
      ),
    ).toThrow(RangeError);
    expect(owners(members)).toEqual({ "10.0.0.9": "a" });
    expect(members.wanted().isStale("unknown")).toBe(false);
  });
});

describe("stale entries", () => {
  test("are those of pods we know or removed, never those of pods we never heard of", () => {
    const members = new ProbeMembers();
    members.set("known", ["10.0.0.1"]);
    members.set("removed", []);
    const { isStale } = members.wanted();
    expect(["known", "removed", "unknown", ""].filter(isStale)).toEqual(["known", "removed"]);
  });

  test("of a removed pod are stale until the kernel was seen without them", () => {
    const members = new ProbeMembers();
    members.set("a", []);
    const wanted = members.wanted();
    members.set("b", []);
    members.settle(wanted);
    expect(["a", "b"].filter(members.wanted().isStale)).toEqual(["b"]);
  });

  test("a pod that comes back is not removed any more", () => {
    const members = new ProbeMembers();
    members.set("a", []);
    expect(members.set("a", ["10.0.0.1"])).toBe(true);
    expect(owners(members)).toEqual({ "10.0.0.1": "a" });
  });

  test("a snapshot does not change with the members", () => {
    const members = new ProbeMembers();
    members.set("a", ["10.0.0.1"]);
    const before = members.wanted();
    members.set("b", ["10.0.0.1"]);
    members.set("c", []);
    expect(before.owners[4].get("10.0.0.1")).toBe("a");
    expect(before.isStale("c")).toBe(false);
  });
});

describe("restore", () => {
  test("lets the later of two pods in the list own an address", () => {
    const members = new ProbeMembers();
    members.restore(
      new Map([
        ["old", ["10.0.0.1"]],
        ["new", ["10.0.0.1"]],
      ]),
    );
    expect(owners(members)).toEqual({ "10.0.0.1": "new" });
  });

  test("leaves what was said before the list came as it is", () => {
    const members = new ProbeMembers();
    members.set("added", ["10.0.0.1"]);
    members.set("deleted", []);
    const list = new Map([
      ["stale", ["10.0.0.1"]],
      ["added", []],
      ["deleted", ["10.0.0.2"]],
      ["b", ["10.0.0.3"]],
    ]);
    members.restore(list);
    expect(owners(members)).toEqual({ "10.0.0.1": "added", "10.0.0.3": "b" });
  });
});
