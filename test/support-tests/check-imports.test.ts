// SPDX-License-Identifier: Apache-2.0
// The check of who imports whom: what it finds, that it can find it, and that the sources pass.
import { join } from "node:path";
import { expect, test } from "vitest";
import { findCircles, findImportFaults, importsIn, readImports, rooms } from "../../scripts/check-imports.ts";

const src = join(import.meta.dirname, "../../src");

test("the sources import as the table says, and every room of it is there", () => {
  const imports = readImports(src);
  expect([...findImportFaults(imports), ...findCircles(imports)]).toEqual([]);
  const found = new Set(imports.map(({ from }) => (from.includes("/") ? from.split("/")[0] : from)));
  // what imports nothing is not among those that import
  const silent = ["settings-reader", "bounds", "protobuf"];
  const missing = rooms.filter(({ name }) => !found.has(name) && !found.has(`${name}.ts`));
  expect(missing.map(({ name }) => name).filter((name) => !silent.includes(name))).toEqual([]);
});

test.each([
  ["up", "linux/listening-sockets.ts", "observe/state-report.ts"],
  ["up, from the ground", "log/log-ring.ts", "loop/clock.ts"],
  ["into the composition root", "enrolment/enrolment.ts", "agent/agent.ts"],
  ["sideways", "redirection/plan.ts", "probes/probe-set.ts"],
  ["out of src", "cni/cni-verbs.ts", "../test/support/fake-clock.ts"],
])("an import that runs %s is a fault", (_, from, to) => {
  const faults = findImportFaults([{ from, to }]);
  expect(faults).toHaveLength(1);
  expect(faults[0]).toContain(`src/${from} must not import ${to}`);
});

test("an import within a room, of a room below, and of the package's own file is none", () => {
  const imports = [
    { from: "enrolment/enrolment.ts", to: "enrolment/pod-record.ts" },
    { from: "linux/netlink/exchange.ts", to: "linux/native.ts" },
    { from: "enrolment/enrolment.ts", to: "loop/keyed-queue.ts" },
    { from: "main.ts", to: "agent/agent.ts" },
    { from: "version.ts", to: "../package.json" },
  ];
  expect(findImportFaults(imports)).toEqual([]);
});

test("a room that nobody has a place for is named", () => {
  expect(findImportFaults([{ from: "helpers/all.ts", to: "log/logger.ts" }])).toEqual([
    expect.stringContaining('add "helpers"'),
  ]);
});

test("a table in which two rooms could import each other is a fault of its own", () => {
  const table = [
    { name: "a", may: ["b"] },
    { name: "b", may: ["a"] },
  ];
  expect(findImportFaults([], table)).toEqual(["the table lets a import b, which does not stand below it"]);
});

test("files that import each other are a fault, whichever way round, and what leads there is none", () => {
  const imports = [
    ["cni/leads.ts", "cni/a.ts"],
    ["cni/a.ts", "cni/b.ts"],
    ["cni/b.ts", "cni/c.ts"],
    ["cni/c.ts", "cni/a.ts"],
    ["cni/c.ts", "cni/leaf.ts"],
    ["kube/x.ts", "kube/y.ts"],
    ["kube/y.ts", "kube/x.ts"],
  ].map(([from = "", to = ""]) => ({ from, to }));
  expect(findCircles(imports)).toEqual([
    "imports run in a circle: src/cni/a.ts -> src/cni/b.ts -> src/cni/c.ts -> src/cni/a.ts",
    "imports run in a circle: src/kube/x.ts -> src/kube/y.ts -> src/kube/x.ts",
  ]);
  const open = imports.filter(
    ({ from, to }) => !["cni/a.ts", "kube/x.ts"].includes(to) || from === "cni/leads.ts",
  );
  expect(findCircles(open)).toEqual([]);
});

test("imports are found in all their forms, packages and text left out", () => {
  const text = `
import { a } from "./a.ts";
import type { B } from "../b/b.ts";
import {
  type C,
  c,
} from "./c.ts";
export { d } from "./d.ts";
export type { E } from "./e.ts";
import "./f.ts";
const g = await import("../g.ts");
type H = import("./h.ts").H;
import { open } from "node:fs/promises";
import { Document } from "yaml";
// say where it is from "./nowhere.ts"
`;
  expect(importsIn(text)).toEqual([
    "./a.ts",
    "../b/b.ts",
    "./c.ts",
    "./d.ts",
    "./e.ts",
    "./f.ts",
    "../g.ts",
    "./h.ts",
  ]);
});
