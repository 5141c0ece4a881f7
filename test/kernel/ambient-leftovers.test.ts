// SPDX-License-Identifier: Apache-2.0
// A node whose agent is told to serve sidecars alone: what ambient mode left on the host goes, once no pod is captured any more.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./ambient-leftovers.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "ambient-leftovers.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

test("an agent of ambient mode leaves its chain and its sets on the host when it stops", async () => {
  expect(await node.call.ofTheHost()).toEqual(["chain v4", "chain v6", "set v4", "set v6"]);
});

test("they stay while a namespace is captured, and status, doctor and verify say so", async () => {
  const { host, status, doctor, verify } = await node.call.withStray();
  expect(host).toEqual(["chain v4", "chain v6", "set v4", "set v6"]);
  expect(status).toMatch(/sidecars alone \(AMBIENT_ENABLED=false\)/);
  expect(status).toMatch(
    /! ambient mode is off, and the host still has chain ISTIO_POSTRT, .*network namespaces are still captured: \S+/,
  );
  expect(doctor).toMatch(/^warn +ambient-leftovers +ambient mode is off, .*captured still/m);
  expect(doctor).toMatch(/^ok +ztunnel +no ztunnel is needed/m);
  expect(verify.out).toMatch(/host-leftover.*chain ISTIO_POSTRT/);
  expect(verify.code).toBe(1);
});

test("the pod that was captured has left the mesh by itself", async () => {
  expect(await node.call.captured()).toEqual({ rules: false, annotation: undefined });
});

test("once none is captured all of it goes, nothing of others, and a sidecar keeps its rules", async () => {
  const { host, others, sidecar, verify, status } = await node.call.withoutStray();
  expect(host).toEqual([]);
  expect(others).toEqual({ rule: true, set: true });
  expect(sidecar).toBe(true);
  expect(verify).toEqual({ code: 0, out: expect.stringMatching(/^all is right: .*1 with a sidecar/) });
  expect(status).not.toContain("ambient mode is off");
});
