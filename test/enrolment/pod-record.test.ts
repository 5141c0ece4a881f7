// SPDX-License-Identifier: Apache-2.0
// Whose namespace is whose when the kernel gives numbers out again.
import { uptime } from "node:os";
import { expect, test } from "vitest";
import { createPodRecord, noteEnd, offerSandbox } from "../../src/enrolment/pod-record.ts";
import type { Sandbox } from "../../src/enrolment/sandbox-finder.ts";
import { Netns } from "../../src/linux/netns.ts";

/** This process's own namespace serves as any: its number is what counts. */
function sandbox(startedMs?: number): Sandbox {
  const started = startedMs === undefined ? {} : { startedMs };
  return { netns: Netns.open("/proc/self/ns/net"), containerId: "c", ips: [], isNew: false, ...started };
}

test("what is left of an ended sandbox is not taken for the pod", () => {
  const record = createPodRecord("u1");
  using ended = sandbox().netns;
  noteEnd(record, { netns: ended, containerId: "c", ips: [], isNew: false });
  const remains = sandbox(uptime() * 1000 - 60_000);
  offerSandbox(record, remains);
  expect(record.sandbox).toBeUndefined();
  expect(remains.netns.closed).toBe(true);
});

test("a new namespace with the number of the ended one is the pod's", () => {
  const record = createPodRecord("u1");
  using ended = sandbox().netns;
  noteEnd(record, { netns: ended, containerId: "c", ips: [], isNew: false });
  const rebuilt = sandbox(uptime() * 1000 + 10);
  offerSandbox(record, rebuilt);
  expect(record.sandbox).toBe(rebuilt);
  rebuilt.netns.close();
});

test("a sandbox of unknown age with the number of the ended one is not taken", () => {
  const record = createPodRecord("u1");
  using ended = sandbox().netns;
  noteEnd(record, { netns: ended, containerId: "c", ips: [], isNew: false });
  offerSandbox(record, sandbox());
  expect(record.sandbox).toBeUndefined();
});
