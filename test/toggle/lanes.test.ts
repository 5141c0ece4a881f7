// SPDX-License-Identifier: Apache-2.0
// The traffic's own judgement: what counts as failed, as hung, as repeated by rule, and as nothing at all.
import { afterEach, beforeEach, expect, test } from "vitest";
import { waitFor } from "../support/node/wait-for.ts";
import { BadRelay } from "./bad-relay.ts";
import { Lane, type LaneKind } from "./lanes.ts";
import { addTallies, monotonicMs, TallyRecorder } from "./tally.ts";
import { TrafficServer } from "./traffic-server.ts";

let server: TrafficServer;
let relay: BadRelay;
let tally: TallyRecorder;
const lanes: Lane[] = [];

beforeEach(async () => {
  server = await TrafficServer.listen(0);
  relay = await BadRelay.start(server.port);
  tally = new TallyRecorder("here > there");
});

afterEach(async () => {
  await Promise.all(lanes.splice(0).map((lane) => lane.stop()));
  relay.close();
  server.close();
});

function start(kind: LaneKind): Lane {
  // slow answers take up to a second by themselves
  const hungAfterMs = kind === "slow" ? 3000 : 1500;
  const to = { host: "127.0.0.1", port: relay.port };
  const lane = new Lane({ name: kind, kind, ...to, pauseMs: 2, hungAfterMs, tally });
  lanes.push(lane);
  return lane;
}

async function untilSteps(lane: Lane, more: number): Promise<void> {
  const wanted = lane.steps + more;
  await waitFor(`${more} more answers on lane "${lane.name}"`, () => lane.steps >= wanted);
}

/** Has the relay misbehave until the counts show it, then forward again. */
async function misbehave(manner: BadRelay["manner"], isSeen: () => boolean): Promise<void> {
  relay.manner = manner;
  await waitFor(`the traffic to meet "${manner}"`, isSeen);
  relay.manner = "forward";
}

test.each<LaneKind>(["short", "slow", "kept", "kept-lasting", "watch", "note"])(
  "%s traffic has no fault when nothing happens, and leaves no connection",
  async (kind) => {
    const lane = start(kind);
    await untilSteps(lane, 2);
    await lane.stop();
    expect(tally.tally).toMatchObject({ failed: 0, hung: 0, repeated: 0, streamsEnded: 0, faults: [] });
    await waitFor("the server to have no connection", () => server.openConnections === 0);
  },
);

test("a kept request is repeated once when the connection was closed before any byte of its answer", async () => {
  const lane = start("kept");
  await untilSteps(lane, 2);
  relay.manner = "end-once";
  await untilSteps(lane, 3);
  expect(tally.tally).toMatchObject({ failed: 0, repeated: 1 });
  await misbehave("end", () => tally.tally.failed > 0);
  expect(tally.tally.faults[0]).toMatchObject({ kind: "fin" });
});

test("a kept connection that is closed while it is idle costs nothing", async () => {
  const lane = start("kept");
  await untilSteps(lane, 2);
  relay.endAll();
  await untilSteps(lane, 3);
  const { failed, repeated } = tally.tally;
  expect(failed).toBe(0);
  // it may have been within a request, which the rule forgives
  expect(repeated).toBeLessThanOrEqual(1);
  expect(relay.accepted).toBe(2);
});

test("a close within an answer, a reset, and a close of a new connection are failures", async () => {
  const kept = start("kept");
  await untilSteps(kept, 1);
  await misbehave("cut", () => tally.tally.failed > 0);
  expect(tally.tally.faults.map(({ kind }) => kind)).toContain("cut");
  await untilSteps(kept, 1);
  const before = tally.tally.failed;
  await misbehave("reset", () => tally.tally.failed > before);
  expect(tally.tally.faults.at(-1)).toMatchObject({ lane: "kept", kind: "reset" });
  const short = start("short");
  await untilSteps(short, 1);
  await misbehave("end", () => tally.tally.faults.some(({ lane }) => lane === "short"));
  expect(tally.tally.faults.find(({ lane }) => lane === "short")).toMatchObject({ kind: "fin" });
  expect(tally.tally.hung).toBe(0);
});

test("a refused connection is a failure, with its time after the change of the label", async () => {
  tally.change = { round: 3, phase: "leaving", atMs: monotonicMs() - 1000 };
  const lane = start("short");
  await untilSteps(lane, 1);
  await relay.refuse();
  await waitFor("a failure", () => tally.tally.faults.some(({ kind }) => kind === "refused"));
  const fault = tally.tally.faults.find(({ kind }) => kind === "refused");
  expect(fault).toMatchObject({ way: "here > there", lane: "short", round: 3, phase: "leaving" });
  expect(fault?.begunMs).toBeGreaterThanOrEqual(1000);
});

test.each<LaneKind>(["short", "kept", "watch", "note"])(
  "%s traffic that nobody answers counts as hung",
  async (kind) => {
    const lane = start(kind);
    await untilSteps(lane, 1);
    await misbehave("mute", () => tally.tally.hung > 0);
    expect(tally.tally.faults.find((fault) => fault.kind === "silent")).toMatchObject({ lane: kind });
    await untilSteps(lane, 1);
  },
);

test.each<LaneKind>(["watch", "note"])(
  "a %s stream that the other side closes in order is opened again; while a pod enters, that is told",
  async (kind) => {
    const lane = start(kind);
    await untilSteps(lane, 2);
    relay.endAll();
    await waitFor("the end", () => tally.tally.streamsEnded === 1);
    await untilSteps(lane, 2);
    tally.change = { round: 1, phase: "entering", atMs: monotonicMs() };
    relay.endAll();
    await waitFor("the end", () => tally.tally.streamsEnded === 2);
    expect(tally.tally).toMatchObject({ failed: 0, streamsEndedEntering: 1 });
  },
);

test.each<[LaneKind, number]>([
  ["kept", 2],
  ["kept-lasting", 1],
  ["watch", 2],
  ["watch-lasting", 1],
])("a renewal gives %s traffic %i connections in all", async (kind, connections) => {
  const lane = start(kind);
  await untilSteps(lane, 2);
  lane.renew();
  await untilSteps(lane, 2);
  expect(relay.accepted).toBe(connections);
  expect(tally.tally).toMatchObject({ failed: 0, repeated: 0, streamsEnded: 0 });
});

test("tallies add up, and the longest answer is the longest of all", () => {
  const other = new TallyRecorder("there > here");
  tally.answered(3);
  tally.fault({ lane: "short-0", kind: "silent", why: "no answer", begunAtMs: monotonicMs() });
  other.answered(7);
  other.repeated();
  expect(addTallies([tally.tally, other.tally])).toMatchObject({
    requests: 3,
    failed: 1,
    hung: 1,
    repeated: 1,
    maxMs: 7,
    faults: [{ way: "here > there", phase: "before" }],
  });
  expect(addTallies([])).toMatchObject({ requests: 0, maxMs: 0 });
});
