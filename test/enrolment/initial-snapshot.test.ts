// SPDX-License-Identifier: Apache-2.0
// What an agent that starts puts back into the host's sets.
import { expect, test } from "vitest";
import { restoreProbes } from "../../src/enrolment/initial-snapshot.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { podOf, sandboxOf, workloadOf } from "./pure-pod.ts";

const captured = workloadOf({ phase: { at: "captured" } });

/** The UIDs put into the sets, with one captured pod that is there before the host is looked at, or also after it. */
async function restored(staysCaptured: boolean): Promise<string[]> {
  const record = new PodRecord(captured.uid);
  record.become(captured);
  let records = [record];
  let uids: string[] = [];
  const probes = {
    start: async () => {
      if (!staysCaptured) records = [];
    },
    restore: async (members: ReadonlyMap<string, readonly string[]>) => {
      uids = [...members.keys()];
    },
  };
  await restoreProbes(() => records, { probes, log: silentLogger });
  return uids;
}

test.each([
  ["what its status says", ["10.1.0.7"], ["10.1.0.7"]],
  ["what ADD told, until the status is there", [], ["10.1.0.9"]],
])("a captured pod is put back with %s", async (_what, ips, expected) => {
  const record = new PodRecord(captured.uid);
  record.become({ ...captured, pod: podOf({ ips }), sandbox: sandboxOf("A", { ips: ["10.1.0.9"] }) });
  const members: [string, readonly string[]][] = [];
  const probes = {
    start: async () => {},
    restore: async (all: ReadonlyMap<string, readonly string[]>) => void members.push(...all),
  };
  await restoreProbes(() => [record], { probes, log: silentLogger });
  expect(members).toEqual([[captured.uid, expected]]);
});

test("a captured pod is put back, one, one that leaves while the host is looked at is not", async () => {
  expect(await restored(true)).toEqual([captured.uid]);
  expect(await restored(false)).toEqual([]);
});
