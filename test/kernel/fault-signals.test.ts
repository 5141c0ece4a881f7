// SPDX-License-Identifier: Apache-2.0
// Each fault of the suites with a real cluster and a real containerd is named before anyone opens a log.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { type FaultName, faultSignals, faultsWithoutHarm, withoutFault } from "./fault-signals.ts";

type Inside = typeof import("./fault-signals.inside.ts");
const root = join(import.meta.dirname, "../..");

/** Names of the tests in a file, as they stand in its text. */
function testNames(file: string): string[] {
  const text = readFileSync(join(root, file), "utf8");
  const names = text.matchAll(/\btest(?:\.each(?:<[^(]*>)?\((?:[^()]|\([^()]*\))*\))?\(\s*(["`])(.*?)\1,/gs);
  return [...names].map((match) => match[2] ?? "");
}

const suiteFiles = [
  "test/cri",
  "test/cluster/api-server",
  "test/cluster/node",
  "test/cluster/drop-in",
].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => /\.(?:test|cluster)\.ts$/.test(name))
    .map((name) => `${folder}/${name}`),
);
const references = [
  ...Object.values(faultSignals).flatMap(({ madeIn }) => [...madeIn]),
  ...faultsWithoutHarm,
  ...withoutFault,
];

describe("the table of faults and signals", () => {
  test.each(suiteFiles)("has every test of %s", (file) => {
    const names = testNames(file);
    expect(names.length).toBeGreaterThan(0);
    const mine = references.filter(([other]) => other === file).map(([, words]) => words);
    expect(names.filter((name) => !mine.some((words) => name.includes(words)))).toEqual([]);
  });

  test("names tests that exist", () => {
    const dangling = references.filter(
      ([file, words]) => !testNames(file).some((name) => name.includes(words)),
    );
    expect(dangling).toEqual([]);
  });
});

describe("a fault is named without a log:", () => {
  let node: NodeModule<Inside>;
  beforeAll(async () => {
    node = await NodeModule.start<Inside>(join(import.meta.dirname, "fault-signals.inside.ts"));
  });
  afterAll(async () => {
    await node.stop();
  });

  test.each(Object.keys(faultSignals) as FaultName[])("%s", { timeout: 60_000 }, async (fault) => {
    expect(await node.call.missingSignals(fault)).toEqual([]);
  });
});
