// SPDX-License-Identifier: Apache-2.0
// Which pinned namespace is which pod's, where nothing but addresses tells.
import { expect, test } from "vitest";
import { matchPinned } from "../../src/enrolment/match-pinned.ts";

/** Namespaces by key with their addresses, pods with theirs, and what comes of it: a key, "refused", or "none". */
const cases: readonly [string, Record<string, string>, readonly string[], readonly string[]][] = [
  ["the one with its address", { a: "10.0.0.1", b: "10.0.0.2" }, ["10.0.0.2"], ["b"]],
  ["nothing without its address", { a: "10.0.0.1" }, ["10.0.0.2"], ["none"]],
  ["nothing of nothing", {}, ["10.0.0.1"], ["none"]],
  ["one that has but one of two addresses", { a: "10.0.0.1 fe80::1" }, ["10.0.0.1 fd00::1"], ["a"]],
  [
    "of two the one that has all addresses",
    { a: "10.0.0.1", b: "10.0.0.1 fd00::1" },
    ["10.0.0.1 fd00::1"],
    ["b"],
  ],
  ["neither of two with the same address", { a: "10.0.0.1", b: "10.0.0.1" }, ["10.0.0.1"], ["refused"]],
  [
    "neither of two that have one of two each",
    { a: "10.0.0.1", b: "fd00::1" },
    ["10.0.0.1 fd00::1"],
    ["refused"],
  ],
  [
    "neither of two that have both",
    { a: "10.0.0.1 fd00::1", b: "fd00::1 10.0.0.1" },
    ["10.0.0.1 fd00::1"],
    ["refused"],
  ],
  ["an address in another spelling", { a: "fd00::1" }, ["FD00:0:0::0001"], ["a"]],
  [
    "each pod its own",
    { a: "10.0.0.1", b: "10.0.0.2" },
    ["10.0.0.2", "10.0.0.1", "10.0.0.3"],
    ["b", "a", "none"],
  ],
  [
    "no two pods one namespace",
    { a: "10.0.0.1", b: "10.0.0.2" },
    ["10.0.0.1", "10.0.0.1", "10.0.0.2"],
    ["refused", "refused", "b"],
  ],
];
test.each(cases)("a pod is given %s", (_name, namespaces, pods, expected) => {
  const pinned = Object.entries(namespaces).map(([key, ips]) => ({
    key,
    path: `/${key}`,
    addresses: new Set(ips.split(" ")),
  }));
  const matches = matchPinned(
    pods.map((ips) => ({ ips: ips.split(" "), mayBe: () => true })),
    pinned,
  );
  expect(matches.map((match) => (match === undefined ? "none" : (match.chosen?.key ?? "refused")))).toEqual(
    expected,
  );
});

test("a namespace that cannot be a pod's leaves the other one without a doubt", () => {
  const pinned = ["a", "b"].map((key) => ({ key, path: `/${key}`, addresses: new Set(["10.0.0.1"]) }));
  const [match] = matchPinned([{ ips: ["10.0.0.1"], mayBe: (key) => key !== "a" }], pinned);
  expect(match?.chosen?.key).toBe("b");
});
