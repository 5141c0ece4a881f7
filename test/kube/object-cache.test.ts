// SPDX-License-Identifier: Apache-2.0
// The cache against events that come twice, late or in the wrong order.
import { expect, test } from "vitest";
import {
  compareVersions,
  laterVersion,
  ObjectCache,
  type ObjectChange,
} from "../../src/kube/object-cache.ts";

interface Thing {
  readonly key: string;
  readonly resourceVersion: string;
  readonly text: string;
}

const thing = (key: string, version: number | string, text = "x"): Thing => ({
  key,
  resourceVersion: String(version),
  text,
});
const brief = (change: ObjectChange<Thing> | undefined) => {
  if (change === undefined) return undefined;
  return `${change.type} ${change.current?.resourceVersion ?? "-"} ${change.previous?.resourceVersion ?? "-"}`;
};

test.each([
  ["1", "2", -1],
  ["10", "9", 1],
  ["9", "10", -1],
  ["5", "5", 0],
  ["123456789012345678901", "123456789012345678902", -1],
  ["", "5", undefined],
  ["a", "5", undefined],
  ["5", "5.0", undefined],
])("versions %j and %j compare as %j", (a, b, expected) => {
  const order = compareVersions(a, b);
  expect(order === undefined ? undefined : Math.sign(order)).toBe(expected);
});

test("the later version is kept, and the newer one when they cannot be compared", () => {
  expect(laterVersion("10", "9")).toBe("10");
  expect(laterVersion("9", "10")).toBe("10");
  expect(laterVersion("9", "x")).toBe("x");
});

test("events in order make changes", () => {
  const cache = new ObjectCache<Thing>();
  expect(brief(cache.apply("ADDED", thing("a", 1)))).toBe("set 1 -");
  expect(brief(cache.apply("MODIFIED", thing("a", 2)))).toBe("set 2 1");
  expect(brief(cache.apply("DELETED", thing("a", 3)))).toBe("delete - 2");
  expect(cache.size).toBe(0);
});

test.each<[string, ["ADDED" | "MODIFIED" | "DELETED", number][], string[], string | undefined]>([
  [
    "twice",
    [
      ["ADDED", 1],
      ["ADDED", 1],
      ["MODIFIED", 2],
      ["MODIFIED", 2],
    ],
    ["set 1 -", "set 2 1"],
    "2",
  ],
  [
    "swapped",
    [
      ["ADDED", 1],
      ["MODIFIED", 3],
      ["MODIFIED", 2],
    ],
    ["set 1 -", "set 3 1"],
    "3",
  ],
  [
    "late after a deletion",
    [
      ["ADDED", 1],
      ["DELETED", 3],
      ["MODIFIED", 2],
    ],
    ["set 1 -", "delete - 1"],
    undefined,
  ],
  [
    "late after an unseen deletion",
    [
      ["DELETED", 3],
      ["ADDED", 1],
    ],
    [],
    undefined,
  ],
  [
    "a deletion twice",
    [
      ["ADDED", 1],
      ["DELETED", 2],
      ["DELETED", 2],
    ],
    ["set 1 -", "delete - 1"],
    undefined,
  ],
  [
    "a deletion older than the object",
    [
      ["ADDED", 5],
      ["DELETED", 3],
    ],
    ["set 5 -"],
    "5",
  ],
  [
    "a return after a deletion",
    [
      ["ADDED", 1],
      ["DELETED", 2],
      ["ADDED", 3],
    ],
    ["set 1 -", "delete - 1", "set 3 -"],
    "3",
  ],
])("events that come %s leave the latest state", (_, events, expected, version) => {
  const cache = new ObjectCache<Thing>();
  const changes = events.map(([type, at]) => brief(cache.apply(type, thing("a", at))));
  expect(changes.filter((change) => change !== undefined)).toEqual(expected);
  expect(cache.get("a")?.resourceVersion).toBe(version);
});

test("versions that cannot be compared are taken as they come", () => {
  const cache = new ObjectCache<Thing>();
  cache.apply("ADDED", thing("a", "v2"));
  expect(brief(cache.apply("MODIFIED", thing("a", "v1")))).toBe("set v1 v2");
});

test("a whole list tells exactly what is new, changed and gone", () => {
  const cache = new ObjectCache<Thing>();
  for (const key of ["same", "changed", "gone"]) cache.apply("ADDED", thing(key, 1));
  const changes = cache.replace([thing("new", 9), thing("same", 1), thing("changed", 5)]);
  expect(changes).toEqual([
    { type: "delete", previous: thing("gone", 1) },
    { type: "set", current: thing("new", 9) },
    { type: "set", current: thing("changed", 5), previous: thing("changed", 1) },
  ]);
  expect([...cache.values()].map(({ key }) => key).sort()).toEqual(["changed", "new", "same"]);
});

test("steps without interest are taken silently", () => {
  const cache = new ObjectCache<Thing>((a, b) => a.text === b.text);
  cache.apply("ADDED", thing("a", 1));
  expect(cache.apply("MODIFIED", thing("a", 2))).toBeUndefined();
  expect(cache.get("a")?.resourceVersion).toBe("2");
  expect(cache.replace([thing("a", 3)])).toEqual([]);
  expect(brief(cache.apply("MODIFIED", thing("a", 4, "y")))).toBe("set 4 3");
});

test("only so many deletions are remembered", () => {
  const cache = new ObjectCache<Thing>();
  for (let index = 0; index < 3000; index += 1) cache.apply("DELETED", thing(`k${index}`, 10));
  expect(cache.apply("ADDED", thing("k2999", 5))).toBeUndefined();
  expect(cache.apply("ADDED", thing("k0", 5))).toBeDefined();
});
