// SPDX-License-Identifier: Apache-2.0
// Each fault of the suites with a real cluster and a real containerd is named before anyone opens a log.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
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

/** Waiting takes longest; with two nodes it is done side by side. */
const onSecondNode: ReadonlySet<FaultName> = new Set<FaultName>([
  "pod made without ztunnel",
  "pod labelled without ztunnel",
  "ztunnel refuses a pod",
  "ztunnel does not answer",
  "kernel refuses the redirection",
  "kubelet gives up",
  "host's rules flushed without an agent",
]);

describe("a fault is named without a log:", () => {
  const faults = Object.keys(faultSignals) as FaultName[];
  const shares = [
    faults.filter((fault) => !onSecondNode.has(fault)),
    faults.filter((fault) => onSecondNode.has(fault)),
  ];
  const nodes: NodeModule<Inside>[] = [];
  const found = new Map<FaultName, Promise<string[]>>();

  beforeAll(async () => {
    const file = join(import.meta.dirname, "fault-signals.inside.ts");
    nodes.push(...(await Promise.all(shares.map(() => NodeModule.start<Inside>(file)))));
    for (const [index, share] of shares.entries()) {
      let last: Promise<unknown> = Promise.resolve();
      for (const fault of share) {
        const outcome = last.then(() => nodes[index]?.call.missingSignals(fault) ?? ["there is no node"]);
        found.set(fault, outcome);
        // its own test tells; the next fault is made all the same
        last = outcome.catch(() => {});
      }
    }
  });
  afterAll(async () => {
    await Promise.all(nodes.map((node) => node.stop()));
  });

  test.each(faults)("%s", { timeout: 120_000 * patience() }, async (fault) => {
    expect(await found.get(fault)).toEqual([]);
  });
});
