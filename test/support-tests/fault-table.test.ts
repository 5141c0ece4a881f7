// SPDX-License-Identifier: Apache-2.0
// The table of faults and signals knows every test of the suites with a real cluster and a real containerd: asked here, where it takes no node.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { faultSignals, faultsWithoutHarm, withoutFault } from "../kernel/fault-signals.ts";

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
    .filter((name) => /\.(?:test|slow|cluster)\.ts$/.test(name))
    .map((name) => `${folder}/${name}`),
);
/** What test/cluster/api-server calls, and the tests in it are not in a file of its own. */
suiteFiles.push("test/kube/behaviours.ts");
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
