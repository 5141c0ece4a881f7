// SPDX-License-Identifier: Apache-2.0
// The stand-in ztunnel is as strict as it claims: what kills or confuses the real one makes it fail.
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PodNamespaces } from "../support/ztunnel/pod-namespaces.ts";
import { addRequest, refusalText, ScriptedAgent } from "../support/ztunnel/scripted-agent.ts";
import { StandIn, type StandInStart } from "../support/ztunnel/stand-in.ts";
import { classify } from "../support/ztunnel/zds-dialogue.ts";
import { decodeRequest, responseBytes } from "../support/ztunnel/zds-message.ts";

const helloHex = "0801";
const ackHex = "0a00";
const snapshotSentHex = "1a00";

let folder: string;
let pods: PodNamespaces;
let agent: ScriptedAgent;
let standIn: StandIn | undefined;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "stand-in-"));
  pods = await PodNamespaces.create(3);
});

afterAll(async () => {
  await pods.stop();
  rmSync(folder, { recursive: true, force: true });
});

beforeEach(() => {
  agent = new ScriptedAgent(join(folder, "zds.sock"));
});

afterEach(async () => {
  await standIn?.kill();
  standIn = undefined;
  agent[Symbol.dispose]();
});

async function start(options: Partial<StandInStart> = {}): Promise<StandIn> {
  standIn = await StandIn.start({
    socket: join(folder, "zds.sock"),
    maxBackoffMs: 40,
    retryMs: 50,
    ...options,
  });
  return standIn;
}

async function startGreeted(options: Partial<StandInStart> = {}): Promise<StandIn> {
  const started = await start(options);
  expect(await agent.next()).toBe(helloHex);
  return started;
}

describe("decoding", () => {
  test.each([
    ["an Add with all fields", "0a0f0a02753112090a016e1201641a0173", { kind: "add", uid: "u1" }],
    ["an Add with empty info", "0a060a0275311200", { kind: "add", info: { name: "", namespace: "" } }],
    ["an Add without info", "0a040a027531", { kind: "add", info: undefined }],
    ["a Keep", "2a040a027531", { kind: "keep", uid: "u1" }],
    ["a Del", "120412027531", { kind: "del", uid: "u1" }],
    ["SnapshotSent", "1a00", { kind: "snapshot-sent" }],
  ])("%s is understood", (_name, hex, expected) => {
    expect(decodeRequest(Buffer.from(hex, "hex"))).toMatchObject(expected);
  });

  test.each([
    ["no payload", "", "no payload"],
    ["two payloads", "1a0012041202 7531", "more than one payload"],
    ["Del with its uid in field 1", "12040a027531", "unknown field 1"],
    ["Keep with its uid in field 2", "2a0412027531", "unknown field 2"],
    ["the unused field 4", "2200", "unknown field 4"],
    ["SnapshotSent with a body", "1a020a00", "unknown field 1"],
    ["a length beyond the end", "0a100a027531", "cut off"],
    ["a varint payload", "0801", "wire type 0"],
    ["a uid given twice", "12081202753112027532", "given twice"],
    ["field number 0", "0200", "out of range"],
    ["a tag longer than needed", "8a000400000000", "longer than needed"],
    ["an endless varint", "ffffffffffff", "longer than 5 bytes"],
    ["a string that is no UTF-8", "12041202fffe", "not UTF-8"],
  ])("%s is refused", (_name, hex, why) => {
    expect(() => decodeRequest(Buffer.from(hex.replaceAll(" ", ""), "hex"))).toThrow(why);
  });

  test("responses have ztunnel's bytes", () => {
    expect(Buffer.from(responseBytes()).toString("hex")).toBe("0a00");
    expect(Buffer.from(responseBytes("x")).toString("hex")).toBe("0a030a0178");
    expect(
      Buffer.from(responseBytes("x".repeat(300)))
        .subarray(0, 6)
        .toString("hex"),
    ).toBe("0aaf020aac02");
  });
});

describe("a faithful stand-in", () => {
  test("acks a snapshot and is ready only after its end", async () => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    expect(await agent.exchange(addRequest("u1", { name: "web" }), netns.fd)).toBe(ackHex);
    expect((await ztunnel.stats()).ready).toBe(false);
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    const stats = await ztunnel.stats();
    expect(stats.ready).toBe(true);
    expect(stats.workloads.u1).toMatchObject({
      dev: String(netns.id.dev),
      ino: String(netns.id.ino),
      info: { name: "web", namespace: "", serviceAccount: "" },
    });
    agent.hangUp();
    await ztunnel.waitFor((event) => event.event === "ready" && event.ready === false);
  });

  test("keeps pods over a reconnect, and drops those the next snapshot does not name", async () => {
    const ztunnel = await startGreeted();
    for (const index of [0, 1, 2]) {
      using netns = pods.open(index);
      expect(await agent.exchange(addRequest(`u${index}`), netns.fd)).toBe(ackHex);
    }
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    const before = await ztunnel.stats();
    agent.hangUp();
    expect(await agent.next()).toBe(helloHex);
    expect(Object.keys((await ztunnel.stats()).workloads)).toEqual(["u0", "u1", "u2"]);
    expect(await agent.exchange("2a040a027531")).toBe(ackHex);
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    const after = await ztunnel.stats();
    expect(Object.keys(after.workloads)).toEqual(["u1"]);
    expect(after.openFds).toBe(before.openFds - 2);
  });

  test("takes the same pod twice as one, another namespace as a replacement, and closes what it gave up", async () => {
    const ztunnel = await startGreeted();
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    const empty = (await ztunnel.stats()).openFds;
    using first = pods.open(0);
    using second = pods.open(1);
    for (const netns of [first, first, second, second, first]) {
      expect(await agent.exchange(addRequest("u1"), netns.fd)).toBe(ackHex);
      const stats = await ztunnel.stats();
      expect(stats.workloads.u1?.ino).toBe(String(netns.id.ino));
      expect(stats.openFds).toBe(empty + 1);
    }
    expect(await agent.exchange("120412027531")).toBe(ackHex);
    expect(await agent.exchange("12081206616273656e74")).toBe(ackHex);
    expect((await ztunnel.stats()).openFds).toBe(empty);
  });

  test("refuses a pod it cannot start, is not ready, and gets it going by itself", async () => {
    const ztunnel = await startGreeted({ faults: ["nack=Bind(in use),2"] });
    using netns = pods.open(0);
    const answer = await agent.exchange(addRequest("u1"), netns.fd);
    expect(refusalText(answer)).toBe("failure to start proxy : Bind(in use)");
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    await ztunnel.waitFor((event) => event.event === "retry" && event.ok === false);
    await ztunnel.waitForReady();
    expect((await ztunnel.stats()).workloads.u1?.ino).toBe(String(netns.id.ino));
  });

  test("stays ready when it refuses, until the next message that it does not refuse", async () => {
    const ztunnel = await startGreeted({ retryMs: 60_000 });
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    await ztunnel.setFaults("nack=Bind(in use),1");
    using first = pods.open(0);
    using second = pods.open(1);
    expect(refusalText(await agent.exchange(addRequest("u1"), first.fd))).toContain("Bind(in use)");
    expect(await ztunnel.stats()).toMatchObject({ ready: true, pending: ["u1"] });
    expect(await agent.exchange(addRequest("u2"), second.fd)).toBe(ackHex);
    expect((await ztunnel.stats()).ready).toBe(false);
    expect(await agent.exchange(addRequest("u1"), first.fd)).toBe(ackHex);
    expect((await ztunnel.stats()).ready).toBe(true);
  });

  test("a Del before the end of the snapshot only takes back the name", async () => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    expect(await agent.exchange(addRequest("u1"), netns.fd)).toBe(ackHex);
    expect(await agent.exchange("120412027531")).toBe(ackHex);
    expect(Object.keys((await ztunnel.stats()).workloads)).toEqual(["u1"]);
    expect(await agent.exchange(snapshotSentHex)).toBe(ackHex);
    expect(Object.keys((await ztunnel.stats()).workloads)).toEqual([]);
  });

  test.each([
    ["no end", undefined, [20, 40, 80, 160, 320]],
    ["an end that a test sets", 80, [20, 40, 80, 80, 80]],
  ])("waits for the agent with pauses that grow to %s", async (_name, maxBackoffMs, expected) => {
    const limit = maxBackoffMs === undefined ? {} : { maxBackoffMs };
    const ztunnel = await StandIn.start({ socket: join(folder, "nobody.sock"), ...limit });
    standIn = ztunnel;
    const pauses = () =>
      ztunnel.events.filter((event) => event.event === "connect-failed").map((e) => e.retryInMs);
    await ztunnel.waitFor(() => pauses().length >= 5);
    expect(pauses().slice(0, 5)).toEqual(expected);
  });
});

describe("what ztunnel cannot read is refused on the spot, and it connects anew", () => {
  test.each([
    ["an Add without a descriptor", addRequest("u1"), false, "No control message"],
    ["a Del with a descriptor", "120412027531", true, "Unexpected control message"],
    ["SnapshotSent with a descriptor", "1a00", true, "Unexpected control message"],
    ["garbage", "ffffffff", false, "varint"],
  ])("%s", async (_name, hex, withFd, why) => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    const before = (await ztunnel.stats()).openFds;
    const answer = await agent.exchange(hex, withFd ? netns.fd : undefined);
    expect(refusalText(answer)).toContain("failure to read message : ");
    expect(refusalText(answer)).toContain(why);
    expect(await agent.next()).toBe(helloHex);
    expect(agent.accepted).toBe(2);
    const stats = await ztunnel.stats();
    expect(stats.readFailures).toBe(1);
    expect(stats.openFds).toBe(before);
  });
});

test.each([
  ["two descriptors", { fds: [3, 4] }, "Expected 1 FD, got 2"],
  ["lost data", { truncated: true }, "truncated"],
  ["lost descriptors", { controlTruncated: true }, "truncated"],
])("an Add with %s is sorted out before it is decoded", (_name, change, why) => {
  const packet = { data: Buffer.from("ff"), fds: [3], truncated: false, controlTruncated: false, ...change };
  expect(() => classify(packet)).toThrow(why);
});

describe("the inputs that kill ztunnel kill the stand-in with status 1", () => {
  test.each([
    ["an Add without workload_info", [addRequest("u1", null)], true],
    ["a Keep after SnapshotSent", [snapshotSentHex, "2a040a027531"], false],
    ["a second SnapshotSent", [snapshotSentHex, snapshotSentHex], false],
  ])("%s", async (_name, requests, withFd) => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    let answer = "";
    for (const hex of requests) answer = await agent.exchange(hex, withFd ? netns.fd : undefined);
    expect(refusalText(answer)).toMatch(/^failure to process message : ProtocolError\("/);
    expect(await ztunnel.exited).toEqual({ code: 1, signal: null });
    expect(ztunnel.events.some((event) => event.event === "fatal")).toBe(true);
  });
});

describe("what ztunnel takes silently and serves badly ends the stand-in with status 1", () => {
  async function expectViolation(ztunnel: StandIn, rule: string): Promise<void> {
    expect(await ztunnel.exited).toEqual({ code: 1, signal: null });
    expect(ztunnel.events.find((event) => event.event === "violation")).toMatchObject({ rule });
  }

  test.each([
    ["an Add", "0a021200", true],
    ["a Keep", "2a00", false],
    ["a Del", "1200", false],
  ])("%s without a uid", async (_name, hex, withFd) => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    agent.send(hex, withFd ? netns.fd : undefined);
    await expectViolation(ztunnel, "empty-uid");
  });

  test("a message before the answer to the last", async () => {
    const ztunnel = await startGreeted();
    agent.send("2a040a027531");
    agent.send("2a040a027532");
    await expectViolation(ztunnel, "early-message");
  });

  test("a second message while the answer takes its time", async () => {
    const ztunnel = await startGreeted({ faults: ["ack-delay=5000"] });
    agent.send("2a040a027531");
    await ztunnel.waitForEvent("message");
    agent.send("2a040a027532");
    await expectViolation(ztunnel, "early-message");
  });

  test("two pods in one namespace", async () => {
    const ztunnel = await startGreeted();
    using netns = pods.open(0);
    expect(await agent.exchange(addRequest("u1"), netns.fd)).toBe(ackHex);
    agent.send(addRequest("u2"), netns.fd);
    await expectViolation(ztunnel, "shared-netns");
  });

  test("a descriptor that is no namespace", async () => {
    const ztunnel = await startGreeted();
    const fd = openSync("/dev/null", "r");
    agent.send(addRequest("u1"), fd);
    closeSync(fd);
    await expectViolation(ztunnel, "not-a-netns");
  });

  test("a message longer than 1024 bytes", async () => {
    const ztunnel = await startGreeted();
    const answer = await agent.exchange("00".repeat(1025));
    expect(refusalText(answer)).toContain("truncated");
    await expectViolation(ztunnel, "oversized");
  });

  test("a namespace whose loopback is down", async () => {
    await using down = await PodNamespaces.create(1, { loopback: "down" });
    const ztunnel = await startGreeted();
    using netns = down.open(0);
    agent.send(addRequest("u1"), netns.fd);
    await expectViolation(ztunnel, "lo-down");
  });

  test("a rule that is switched off is let through", async () => {
    const ztunnel = await startGreeted({ allow: ["not-a-netns"] });
    const fd = openSync("/dev/null", "r");
    expect(await agent.exchange(addRequest("u1"), fd)).toBe(ackHex);
    closeSync(fd);
    expect(Object.keys((await ztunnel.stats()).workloads)).toEqual(["u1"]);
  });
});
