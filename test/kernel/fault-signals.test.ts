// SPDX-License-Identifier: Apache-2.0
// Each fault of the suites with a real cluster and a real containerd is named before anyone opens a log.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
import { type FaultName, faultSignals } from "./fault-signals.ts";

type Inside = typeof import("./fault-signals.inside.ts");
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
