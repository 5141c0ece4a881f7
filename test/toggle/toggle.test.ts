// SPDX-License-Identifier: Apache-2.0
// No request is lost while pods enter and leave the mesh: the short form of `npm run test:toggle`, and its control.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
import { deletionWrongs, wrongs } from "./verdict.ts";

type Inside = typeof import("./toggle.inside.ts");
type Control = typeof import("./control.inside.ts");
let node: NodeModule<Inside>;
let control: NodeModule<Control>;

beforeAll(async () => {
  [node, control] = await Promise.all([
    NodeModule.start<Inside>(join(import.meta.dirname, "toggle.inside.ts")),
    NodeModule.start<Control>(join(import.meta.dirname, "control.inside.ts")),
  ]);
});
afterAll(async () => {
  await Promise.all([node?.stop(), control?.stop()]);
});

test.concurrent("no request is lost, and no connection forgotten, while a client, a server and a namespace leave and enter", {
  timeout: 120_000 * patience(),
}, async () => {
  const rounds = 3;
  const report = await node.call.toggle(rounds);
  expect(wrongs(report)).toEqual([]);
  expect(report.rounds).toEqual({ client: rounds, server: rounds, namespace: rounds });
  expect(Object.keys(report.ways)).toHaveLength(5);
  for (const [way, { requests, streamsEnded }] of Object.entries(report.ways)) {
    expect(requests, way).toBeGreaterThan(500);
    // what ztunnel carried when the pod left was ended: the traffic did go through it
    expect(streamsEnded, way).toBeGreaterThan(0);
  }
});

test.concurrent("requests are lost when rules go, and come, before ztunnel knows of the pod", {
  timeout: 60_000 * patience(),
}, async () => {
  const { total, ways } = await control.call.toggleByHand("rules-first", {
    // in one of some four rounds no request met the moment of entering
    rounds: 3,
    toggles: ["client", "server"],
    hungAfterMs: 2000,
  });
  expect(total.hung).toBeGreaterThan(0);
  expect(total.failed).toBeGreaterThan(total.hung);
  const phases = new Set(total.faults.map(({ phase }) => phase));
  expect(phases).toEqual(new Set(["leaving", "entering"]));
  for (const [way, { failed }] of Object.entries(ways)) expect(failed, way).toBeGreaterThan(0);
});

test("a deleted pod leaves no pooled connection behind in its peer", {
  timeout: 60_000 * patience(),
}, async () => {
  expect(deletionWrongs(await node.call.deletePods(5))).toEqual([]);
});
