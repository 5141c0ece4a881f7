// SPDX-License-Identifier: Apache-2.0
// The ZDS server against the 22 conformance cases: a stand-in as strict as ztunnel, or a bare client where a case is
// about single packets. Each test ends with the check that no descriptor is left (ZdsHarness.close).
import { execFile } from "node:child_process";
import { existsSync, fstatSync, linkSync, mkdirSync, rmSync, statSync } from "node:fs";
import { connect, createServer } from "node:net";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Netns } from "../../src/linux/netns.ts";
import { connectSeqpacket } from "../../src/linux/seqpacket.ts";
import { patience } from "../support/node/patience.ts";
import type { StandInEvent } from "../support/ztunnel/event-log.ts";
import { PodNamespaces } from "../support/ztunnel/pod-namespaces.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import { eventually, outcomeOf, podEntry, told, ZdsHarness } from "../support/ztunnel/zds-harness.ts";
import { decodeRequest } from "../support/ztunnel/zds-message.ts";

const run = promisify(execFile);
const ack = "0a 00";
const snapshotSent = "1a00";
const delU1 = "120412027531";
const keepU1 = "2a040a027531";

let namespaces: PodNamespaces;
let pods: Netns[];
let harness: ZdsHarness;

beforeAll(async () => {
  namespaces = await PodNamespaces.create(6);
  pods = Array.from({ length: namespaces.count }, (_, index) => namespaces.open(index));
});

afterAll(async () => {
  for (const pod of pods) pod.close();
  await namespaces.stop();
});

afterEach(() => harness.close());

function setUp(options?: ConstructorParameters<typeof ZdsHarness>[0]): ZdsHarness {
  harness = new ZdsHarness(options);
  return harness;
}

function listening(options?: ConstructorParameters<typeof ZdsHarness>[0]): ZdsHarness {
  setUp(options).server.listen();
  return harness;
}

function pod(index: number): Netns {
  const found = pods[index];
  if (found === undefined) throw new RangeError(`No pod ${index}`);
  return found;
}

/** Puts pods u0, u1, … into the roster. */
function holdPods(count: number): void {
  for (let index = 0; index < count; index++) harness.server.hold(podEntry(`u${index}`, pod(index)));
}

function kindsOf(events: readonly StandInEvent[]): unknown[] {
  return events.map((event) => event.kind);
}

function uidsOf(events: readonly StandInEvent[]): unknown[] {
  return events.map((event) => event.uid);
}

async function live(options?: Parameters<ZdsHarness["standIn"]>[0]): Promise<StandIn> {
  const before = harness.server.connectionCount;
  const standIn = await harness.standIn(options);
  await standIn.waitForReady();
  await harness.connections(before + 1);
  return standIn;
}

describe("connecting", () => {
  test("case 1: a stale socket file is replaced, SEQPACKET is accepted, STREAM is not", async () => {
    const { server, path } = setUp();
    await leaveStaleSocket(path);
    server.listen();
    expect(statSync(path).isSocket()).toBe(true);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const client = await harness.liveClient();
    const stream = connect(path);
    const code = await new Promise((resolve) =>
      stream.once("error", (error) => resolve((error as NodeJS.ErrnoException).code)),
    );
    expect(code).toBe("EPROTOTYPE");
    await client.silence(50);
    await server.close();
    await client.ended();
    expect(() => connectSeqpacket(path)).toThrow(/ENOENT|ECONNREFUSED/);
    expect(harness.log.filter((line) => line.level === "error")).toEqual([]);
  });

  test("case 2: an empty snapshot is one packet, and then there is silence", async () => {
    listening();
    const client = harness.client();
    client.send("08 01");
    const packet = await client.next();
    expect(packet).toMatchObject({ hex: snapshotSent, netns: [] });
    expect(harness.server.ready).toBe(false);
    client.send(ack);
    await client.silence(300);
    expect(harness.server.ready).toBe(true);
    expect(client.packets).toHaveLength(1);
    expect(harness.events.map((event) => event.type)).toEqual(["connected", "snapshot"]);
  });

  test("case 3: nothing is sent before a hello, and a silent client is closed after the limit", async () => {
    listening({ helloTimeoutMs: 400 });
    holdPods(1);
    const start = performance.now();
    const silent = harness.client();
    const other = await harness.liveClient();
    expect(other.packets).toHaveLength(2);
    const end = await silent.ended();
    expect(end - start).toBeGreaterThan(390);
    expect(end - start).toBeLessThan(900);
    expect(silent.packets).toEqual([]);
    expect(other.endedAtMs).toBeUndefined();
    expect(harness.server.connectionCount).toBe(1);
  });

  test.each([
    ["ff ff", "ffff"],
    ["a cut off varint", "08"],
    ["a version that is text", "0a0131"],
    ["an ack", "0a00"],
  ])("case 4: a hello of %s ends that connection only", async (_name, hex) => {
    listening();
    const good = await harness.liveClient();
    const bad = harness.client();
    bad.send(hex);
    await bad.ended();
    expect(bad.packets).toEqual([]);
    await harness.connections(1);
    await good.silence(50);
    void outcomeOf(harness.server.add(podEntry("u0", pod(0))));
    expect((await good.nextAcked()).netns).toEqual([pod(0).key]);
  });

  test.each([
    ["a hello of 0 bytes", 'send(S, "", 0)'],
    ["a client closed for writing before its hello", "shutdown(S, 1)"],
    ["a client closed for writing after its hello", 'send(S, "\\x08\\x01", 0); shutdown(S, 1)'],
  ])("case 4: %s ends that connection only", async (_name, act) => {
    listening();
    const good = await harness.liveClient();
    await perlClient(act);
    await eventually("the bad client is gone", () => harness.server.connectionCount === 1);
    await good.silence(50);
  });

  test.each([
    ["version 2 and an unknown number", "08 02 78 07"],
    ["unknown text first", "7a 02 68 69 08 05"],
    ["no version, only an unknown field", "7a 00"],
  ])("case 5: a hello with %s is welcome", async (_name, hex) => {
    listening();
    const client = harness.client();
    client.send(hex);
    expect((await client.nextAcked()).hex).toBe(snapshotSent);
    await eventually("live", () => harness.server.ready);
    await client.silence(50);
  });
});

describe("the snapshot", () => {
  test("case 6: a pod is handed over with its own namespace, then the snapshot ends", async () => {
    listening();
    const info = { name: "web", namespace: "shop", serviceAccount: "clerk" };
    harness.server.hold({ uid: "u1", workload: info, netns: pod(0) });
    const ztunnel = await live();
    expect(harness.server.connectionCount).toBe(1);
    const [add, end] = ztunnel.messages;
    const { dev, ino } = pod(0).id;
    expect(add).toMatchObject({ kind: "add", uid: "u1", info, fds: 1, dev: String(dev), ino: String(ino) });
    expect(add?.hex).toBe("0a180a02753112120a03776562120473686f701a05636c65726b");
    expect(end).toMatchObject({ kind: "snapshot-sent", fds: 0, hex: snapshotSent });
    await eventually("acknowledged", () => harness.server.acknowledged("u1") === pod(0).key);
    await ztunnel.stop();
    await harness.connections(0);
    expect(harness.server.ready).toBe(false);
    expect(harness.server.acknowledged("u1")).toBeUndefined();
    expect(harness.events.map((event) => [event.type, event.connections])).toEqual([
      ["connected", 1],
      ["snapshot", 1],
      ["disconnected", 0],
    ]);
  });

  test("case 7: each message waits for the answer to the last", async () => {
    listening();
    holdPods(3);
    const ztunnel = await live({ faults: ["ack-delay=250"] });
    await ztunnel.waitFor((event) => event.event === "response" && event.to === "snapshot-sent");
    expect(kindsOf(await told(ztunnel))).toEqual(["add", "add", "add", "snapshot-sent"]);
    expect(
      uidsOf(await told(ztunnel))
        .slice(0, 3)
        .sort(),
    ).toEqual(["u0", "u1", "u2"]);
    const steps = ztunnel.events.filter((event) => ["message", "response"].includes(event.event));
    expect(steps.map((event) => event.event)).toEqual(Array(4).fill(["message", "response"]).flat());
    for (let index = 2; index < steps.length; index += 2) {
      // the message comes after the answer to the one before, and at once
      expect(gap(steps[index - 1], steps[index])).toBeGreaterThan(0);
      expect(gap(steps[index - 1], steps[index])).toBeLessThan(150);
      expect(gap(steps[index - 2], steps[index])).toBeGreaterThan(245);
    }
  });

  test("case 8: a pod without a namespace is kept, and added when its namespace is known", async () => {
    listening();
    harness.server.hold(podEntry("u1", undefined));
    const ztunnel = await live();
    expect((await told(ztunnel)).map((event) => [event.hex, event.fds])).toEqual([
      [keepU1, 0],
      [snapshotSent, 0],
    ]);
    await harness.server.add(podEntry("u1", pod(0)));
    expect(kindsOf(await told(ztunnel))).toEqual(["keep", "snapshot-sent", "add"]);
    expect((await ztunnel.stats()).workloads.u1?.ino).toBe(String(pod(0).id.ino));
  });

  test("case 8: a namespace handle that was closed counts as unknown", async () => {
    listening();
    const gone = namespaces.open(0);
    harness.server.hold(podEntry("u1", gone));
    gone.close();
    const ztunnel = await live();
    expect(kindsOf(await told(ztunnel))).toEqual(["keep", "snapshot-sent"]);
  });

  test("case 9: a refused pod does not stop the snapshot, and stays in the roster", async () => {
    listening();
    holdPods(3);
    const ztunnel = await live({ faults: ["nack=Bind(Os { code: 98 }),1"], retryMs: 50 });
    expect(kindsOf(await told(ztunnel))).toEqual(["add", "del", "add", "add", "snapshot-sent"]);
    expect(harness.logged("failure to start proxy : Bind(Os { code: 98 })")).toBe(true);
    expect((await ztunnel.stats()).connections).toBe(1);
    await ztunnel.command({ do: "reconnect" });
    await ztunnel.waitForReady();
    await eventually("the second snapshot", () => ztunnel.messages.length === 9);
    expect(
      uidsOf(await told(ztunnel))
        .slice(5, 8)
        .sort(),
    ).toEqual(["u0", "u1", "u2"]);
  });

  test("case 9: of many pods that are refused in the snapshot three are named, the others counted", async () => {
    listening();
    holdPods(6);
    const ztunnel = await harness.standIn({ faults: ["nack=no"], retryMs: 60_000 });
    await ztunnel.waitFor((event) => event.event === "response" && event.to === "snapshot-sent");
    await eventually("live", () => harness.server.ready);
    const lines = harness.log.filter(({ message }) => message.startsWith("ztunnel refused"));
    expect(lines.map(({ message }) => message)).toEqual([
      ...Array<string>(3).fill("ztunnel refused a pod of the snapshot"),
      "ztunnel refused more pods of the snapshot",
    ]);
    expect(lines.at(-1)?.fields).toMatchObject({ refused: 6 });
  });

  test("case 9: a pod refused in the snapshot does not count as acknowledged", async () => {
    listening();
    holdPods(1);
    const ztunnel = await harness.standIn({ faults: ["nack=no"], retryMs: 60_000 });
    await ztunnel.waitFor((event) => event.event === "response" && event.to === "snapshot-sent");
    await eventually("live", () => harness.server.ready);
    expect(harness.server.acknowledged("u0")).toBeUndefined();
  });

  test("case 10: a client that does not answer is closed, and gets everything when it comes back", async () => {
    listening({ ackTimeoutMs: 400 });
    holdPods(3);
    const ztunnel = await harness.standIn({ faults: ["never-ack"] });
    const first = await ztunnel.waitForEvent("message");
    const closed = await ztunnel.waitForEvent("close");
    expect(gap(first, closed)).toBeGreaterThan(300);
    expect(gap(first, closed)).toBeLessThan(900);
    expect(await told(ztunnel)).toHaveLength(1);
    await ztunnel.setFaults();
    await ztunnel.command({ do: "reconnect" });
    await ztunnel.waitForReady();
    // the attempt under way may still have met the old fault: the last connection is the one that counts
    const from = ztunnel.events.findLastIndex((event) => event.event === "connect");
    const again = ztunnel.events.slice(from).filter((event) => event.event === "message");
    expect(kindsOf(again)).toEqual(["add", "add", "add", "snapshot-sent"]);
    expect(uidsOf(again).slice(0, 3).sort()).toEqual(["u0", "u1", "u2"]);
  });

  test("case 11: workload_info is there even when all of it is empty", async () => {
    listening();
    const workload = { name: "", namespace: "", serviceAccount: "" };
    harness.server.hold({ uid: "u1", workload, netns: pod(0) });
    const ztunnel = await live();
    expect((await told(ztunnel))[0]?.hex).toBe("0a060a0275311200");
    await harness.server.add({ uid: "u2", workload, netns: pod(1) });
    expect((await told(ztunnel))[2]?.hex).toBe("0a060a0275321200");
  });
});

describe("updates", () => {
  test("case 12: an Add resolves with its ack, and leaves the caller's descriptor alone", async () => {
    listening();
    const ztunnel = await live({ faults: ["ack-delay=150"] });
    const start = performance.now();
    await harness.server.add(podEntry("u1", pod(0)));
    expect(performance.now() - start).toBeGreaterThan(145);
    const answered = ztunnel.events.findLast((event) => event.event === "response");
    expect(answered).toMatchObject({ to: "add", ok: true });
    expect((await told(ztunnel)).at(-1)).toMatchObject({
      kind: "add",
      uid: "u1",
      fds: 1,
      ino: String(pod(0).id.ino),
    });
    const { dev, ino } = fstatSync(pod(0).fd, { bigint: true });
    expect({ dev, ino }).toEqual(pod(0).id);
    expect(pod(0).closed).toBe(false);
    expect(harness.server.acknowledged("u1")).toBe(pod(0).key);
  });

  test("case 13: an Add without a ztunnel fails at once, and is in the next snapshot", async () => {
    listening();
    const outcome = await outcomeOf(harness.server.add(podEntry("u1", pod(0))));
    expect(outcome).toMatchObject({ code: "NO_CONNECTION" });
    expect(outcome.message).toContain("no ztunnel connection");
    expect(outcome.tookMs).toBeLessThan(50);
    const ztunnel = await live();
    expect((await told(ztunnel))[0]).toMatchObject({ kind: "add", uid: "u1" });
  });

  test("case 13: a client before its hello is no connection yet", async () => {
    listening();
    const client = harness.client();
    expect(await outcomeOf(harness.server.add(podEntry("u1", pod(0))))).toMatchObject({
      code: "NO_CONNECTION",
    });
    expect((await client.takeSnapshot()).map((packet) => packet.netns)).toEqual([[pod(0).key], []]);
  });

  test("case 14: a refusal reaches the caller, and the repeat goes through on the same connection", async () => {
    listening();
    const ztunnel = await live({ retryMs: 60_000 });
    await ztunnel.setFaults("nack=Bind(Os { code: 98 }),1");
    const refused = await outcomeOf(harness.server.add(podEntry("u1", pod(0))));
    expect(refused.code).toBe("NACK");
    expect(refused.message).toContain("failure to start proxy : Bind(Os { code: 98 })");
    expect(harness.server.acknowledged("u1")).toBeUndefined();
    expect(await outcomeOf(harness.server.add(podEntry("u1", pod(0))))).toMatchObject({ code: "ok" });
    expect(harness.server.acknowledged("u1")).toBe(pod(0).key);
    expect(await ztunnel.stats()).toMatchObject({ connections: 1, ready: true });
  });

  test("a pod that ztunnel refused is taken back, so that its readiness does not hang on it", async () => {
    listening();
    const ztunnel = await live({ retryMs: 60_000 });
    await ztunnel.setFaults("nack=Bind(Os { code: 98 }),1");
    expect((await outcomeOf(harness.server.add(podEntry("u1", pod(0))))).code).toBe("NACK");
    expect(await outcomeOf(harness.server.add(podEntry("u2", pod(1))))).toMatchObject({ code: "ok" });
    expect(await ztunnel.stats()).toMatchObject({ pending: [], ready: true });
    expect((await told(ztunnel)).slice(-3)).toMatchObject([
      { kind: "add", uid: "u1" },
      { kind: "del", uid: "u1" },
      { kind: "add", uid: "u2" },
    ]);
  });

  test("a new ztunnel that refuses a pod of its snapshot gets ready, and the one before it keeps the pod", async () => {
    listening();
    const old = await live();
    await harness.server.add(podEntry("u1", pod(0)));
    await harness.server.add(podEntry("u2", pod(1)));
    const next = await harness.standIn({ faults: ["nack=Bind(Os { code: 98 }),1"], retryMs: 60_000 });
    await next.waitForReady();
    expect((await next.stats()).pending).toEqual([]);
    expect(Object.keys((await next.stats()).workloads)).toEqual(["u2"]);
    expect(Object.keys((await old.stats()).workloads)).toEqual(["u1", "u2"]);
    expect(harness.server.acknowledged("u1")).toBeUndefined();
    expect(await outcomeOf(harness.server.add(podEntry("u1", pod(0))))).toMatchObject({ code: "ok" });
  });

  test("case 15: Del carries its uid in field 2 and no descriptor, known pod or not", async () => {
    listening();
    const client = await harness.liveClient();
    const added = outcomeOf(harness.server.add(podEntry("u1", pod(0))));
    expect((await client.nextAcked()).netns).toEqual([pod(0).key]);
    expect(await added).toMatchObject({ code: "ok" });
    const removed = outcomeOf(harness.server.remove("u1"));
    expect(await client.nextAcked()).toMatchObject({ hex: delU1, netns: [] });
    expect(await removed).toMatchObject({ code: "ok" });
    const unknown = outcomeOf(harness.server.remove("u2"));
    expect(await client.nextAcked()).toMatchObject({ hex: "120412027532", netns: [] });
    expect(await unknown).toMatchObject({ code: "ok" });
    expect(harness.server.acknowledged("u1")).toBeUndefined();
    const next = harness.client();
    expect((await next.takeSnapshot()).map((packet) => packet.hex)).toEqual([snapshotSent]);
  });

  test("case 15: removing a pod that a ztunnel refuses to forget still ends", async () => {
    listening();
    const client = await harness.liveClient();
    const removed = outcomeOf(harness.server.remove("u1"));
    await client.next();
    client.send("0a 03 0a 01 78");
    expect(await removed).toMatchObject({ code: "ok" });
    await client.silence(50);
  });

  test("case 15: removing with no ztunnel at all resolves at once", async () => {
    listening();
    holdPods(1);
    expect((await outcomeOf(harness.server.remove("u0"))).tookMs).toBeLessThan(50);
    const ztunnel = await live();
    expect(kindsOf(await told(ztunnel))).toEqual(["snapshot-sent"]);
  });
});

describe("several ztunnels", () => {
  test("case 16: an Add goes to the newest, a Del to all", async () => {
    listening();
    holdPods(2);
    const older = await live();
    const newer = await live();
    expect(harness.server.connectionCount).toBe(2);
    for (const ztunnel of [older, newer]) {
      expect(kindsOf(await told(ztunnel))).toEqual(["add", "add", "snapshot-sent"]);
    }
    await harness.server.add(podEntry("u5", pod(5)));
    expect(await told(newer)).toHaveLength(4);
    expect((await told(newer)).at(-1)).toMatchObject({ kind: "add", uid: "u5" });
    await harness.server.remove("u5");
    expect((await told(newer)).at(-1)).toMatchObject({ kind: "del", uid: "u5" });
    expect(kindsOf(await told(older))).toEqual(["add", "add", "snapshot-sent", "del"]);
  });

  test("case 17: when the newest goes, Adds go to the older one, and to none after that", async () => {
    listening();
    const older = await live();
    const newer = await live();
    await newer.kill();
    await harness.connections(1);
    await harness.server.add(podEntry("u1", pod(0)));
    expect((await told(older)).at(-1)).toMatchObject({ kind: "add", uid: "u1" });
    await older.kill();
    await harness.connections(0);
    expect(await outcomeOf(harness.server.add(podEntry("u2", pod(1))))).toMatchObject({
      code: "NO_CONNECTION",
    });
  });
});

describe("updates during a snapshot", () => {
  test("case 18: an Add is not pushed in between, and not lost", async () => {
    listening();
    holdPods(2);
    const ztunnel = await harness.standIn({ faults: ["ack-delay=150"] });
    await ztunnel.waitForEvent("message");
    await harness.server.add(podEntry("u5", pod(5)));
    const kinds = kindsOf(ztunnel.messages);
    expect(kinds.filter((kind) => kind === "snapshot-sent")).toHaveLength(1);
    expect(uidsOf(await told(ztunnel))).toContain("u5");
    const stats = await ztunnel.stats();
    expect(Object.keys(stats.workloads).sort()).toEqual(["u0", "u1", "u5"]);
    expect(stats.ready).toBe(true);
    expect(harness.server.acknowledged("u5")).toBe(pod(5).key);
  });

  test("case 19: pods removed during the snapshot are absent in the end, sent already or not", async () => {
    listening();
    holdPods(4);
    const ztunnel = await harness.standIn({ faults: ["ack-delay=100"] });
    const first = await ztunnel.waitForEvent("message");
    const sent = String(first.uid);
    const unsent = sent === "u3" ? "u2" : "u3";
    await Promise.all([harness.server.remove(sent), harness.server.remove(unsent)]);
    await ztunnel.waitForReady();
    const left = ["u0", "u1", "u2", "u3"].filter((uid) => uid !== sent && uid !== unsent);
    const stats = await ztunnel.waitForStats((now) => Object.keys(now.workloads).length === 2);
    expect(Object.keys(stats.workloads).sort()).toEqual(left);
    const order = ztunnel.messages.filter((event) => event.uid === sent);
    expect(kindsOf(order)).toEqual(["add", "del"]);
  });
});

describe("clients that answer late or not at all", () => {
  test("case 20: a late ack is not taken for the answer to the next message", async () => {
    listening({ ackTimeoutMs: 400 });
    const client = await harness.liveClient();
    const seen = client.packets.length;
    const first = outcomeOf(harness.server.add(podEntry("u1", pod(0))));
    const second = outcomeOf(harness.server.add(podEntry("u2", pod(1))));
    expect(await first).toMatchObject({ code: "TIMEOUT" });
    expect((await first).tookMs).toBeGreaterThan(390);
    expect(() => client.send(ack)).toThrow(/EPIPE|ECONNRESET/);
    expect(["TIMEOUT", "DISCONNECTED"]).toContain((await second).code);
    await client.ended();
    expect(client.packets).toHaveLength(seen + 1);
    await harness.connections(0);
    const back = harness.client();
    const uids = (await back.takeSnapshot()).slice(0, -1).map((packet) => uidOf(packet.hex));
    expect(uids.sort()).toEqual(["u1", "u2"]);
  });

  test("case 21a: an idle client that dies is noticed at once, and another is served at once", async () => {
    listening();
    holdPods(1);
    const ztunnel = await live();
    const other = harness.client();
    other.send("08 01");
    const start = performance.now();
    const killed = ztunnel.kill();
    const pods = [await other.nextAcked(), await other.nextAcked()];
    expect(pods.map((packet) => packet.netns)).toEqual([[pod(0).key], []]);
    await killed;
    await harness.connections(1);
    expect(performance.now() - start).toBeLessThan(500);
    expect(harness.events.at(-1)).toMatchObject({ connections: 1 });
  });

  test("case 21b, c: whoever waits for a client that dies is told promptly, whatever is queued", async () => {
    listening();
    const ztunnel = await live();
    const bystander = harness.client();
    await ztunnel.setFaults("never-ack");
    const start = performance.now();
    const updates = [harness.server.add(podEntry("u1", pod(1))), harness.server.add(podEntry("u2", pod(2)))];
    const adds = updates.map(outcomeOf);
    const dels = ["u3", "u4", "u5"].map((uid) => outcomeOf(harness.server.remove(uid)));
    await ztunnel.waitFor((event) => event.event === "message" && event.uid === "u1");
    await ztunnel.kill();
    for (const outcome of await Promise.all(adds)) expect(outcome.code).toBe("DISCONNECTED");
    for (const outcome of await Promise.all(dels)) expect(outcome.code).toBe("ok");
    expect(performance.now() - start).toBeLessThan(1500);
    await harness.connections(0);
    const snapshot = await bystander.takeSnapshot();
    expect(snapshot.map((packet) => packet.netns.length)).toEqual([1, 1, 0]);
  });

  test("case 22a: an idle client is kept, however long it is silent", async () => {
    listening({ helloTimeoutMs: 150, ackTimeoutMs: 150 });
    const client = await harness.liveClient();
    await client.silence(700);
    const added = outcomeOf(harness.server.add(podEntry("u1", pod(0))));
    await client.nextAcked();
    expect(await added).toMatchObject({ code: "ok" });
  });

  test("case 22b: an answer to nothing ends the connection", async () => {
    listening();
    const client = await harness.liveClient();
    client.send(ack);
    await client.ended();
    await harness.connections(0);
  });

  test("case 22c: a client that closes while idle is noticed at once", async () => {
    listening();
    const client = await harness.liveClient();
    client.close();
    await harness.connections(0, 500);
  });
});

function gap(from: StandInEvent | undefined, to: StandInEvent | undefined): number {
  if (from === undefined || to === undefined) throw new Error("an event is missing");
  return to.atMs - from.atMs;
}

function uidOf(hex: string): string {
  const message = decodeRequest(Buffer.from(hex, "hex"));
  return message.kind === "snapshot-sent" ? "" : message.uid;
}

/** Leaves a socket file at the path that nobody listens on. */
async function leaveStaleSocket(path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}.live`, resolve));
  linkSync(`${path}.live`, path);
  await new Promise((resolve) => server.close(resolve));
  rmSync(`${path}.live`, { force: true });
  expect(existsSync(path)).toBe(true);
}

/** A client that can do what Node and the addon refuse to: empty packets, half-closed connections. */
async function perlClient(act: string): Promise<void> {
  const program = `
    use Socket; socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die; connect(S, sockaddr_un($ARGV[0])) or die "connect: $!";
    ${act}; while (1) { my $n = sysread(S, my $b, 1024); last unless $n }`;
  await run("perl", ["-e", program, harness.path], { timeout: 8000 * patience() });
}
