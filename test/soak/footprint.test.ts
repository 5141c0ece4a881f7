// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { descriptorKind, type Footprint, growth } from "./footprint.ts";

const early: Footprint = {
  descriptors: { socket: 10, net: 3, file: 4 },
  handles: { PipeWrap: 2, Timeout: 5 },
  rssMb: 80,
};

test("a descriptor's kind is what it leads to, without numbers and names", () => {
  expect(
    ["socket:[123]", "net:[4026531840]", "/dev/null", "anon_inode:[eventpoll]", "pipe:[7]"].map(
      descriptorKind,
    ),
  ).toEqual(["socket", "net", "file", "anon_inode:[eventpoll]", "pipe"]);
});

test.each<[string, Footprint, string[]]>([
  ["nothing", early, []],
  ["less", { ...early, descriptors: { socket: 2 }, rssMb: 60 }, []],
  ["a little more", { ...early, descriptors: { ...early.descriptors, socket: 12 }, rssMb: 90 }, []],
  [
    "namespaces",
    { ...early, descriptors: { ...early.descriptors, net: 6 } },
    ["descriptors of net: 3, then 6"],
  ],
  [
    "a new kind",
    { ...early, handles: { ...early.handles, TCPSocketWrap: 3 } },
    ["handles of TCPSocketWrap: 0, then 3"],
  ],
  ["memory", { ...early, rssMb: 96 }, ["memory: 80 MB, then 96 MB"]],
])("growth is told of %s", (_, late, told) => {
  expect(growth(early, late)).toEqual(told);
});
