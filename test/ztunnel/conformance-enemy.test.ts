// SPDX-License-Identifier: Apache-2.0
// The ZDS server against clients that mean it harm, and against bad timing.

import { execFile } from "node:child_process";
import { chmodSync } from "node:fs";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { bounds } from "../../src/bounds/bounds.ts";
import type { Netns } from "../../src/linux/netns.ts";
import { patience } from "../support/node/patience.ts";
import { PodNamespaces } from "../support/ztunnel/pod-namespaces.ts";
import {
  eventually,
  openFdCount,
  outcomeOf,
  podEntry,
  told,
  ZdsHarness,
} from "../support/ztunnel/zds-harness.ts";

const run = promisify(execFile);
const manyPods = 200;
const nobody = "65534";

let namespaces: PodNamespaces;
let pods: Netns[];
let harness: ZdsHarness;

beforeAll(async () => {
  namespaces = await PodNamespaces.create(manyPods);
  pods = Array.from({ length: manyPods }, (_, index) => namespaces.open(index));
}, 60_000);

afterAll(async () => {
  for (const pod of pods) pod.close();
  await namespaces.stop();
});

afterEach(() => harness.close());

function listening(options?: ConstructorParameters<typeof ZdsHarness>[0]): ZdsHarness {
  harness = new ZdsHarness(options);
  harness.server.listen();
  return harness;
}

function pod(index: number): Netns {
  const found = pods[index];
  if (found === undefined) throw new RangeError(`No pod ${index}`);
  return found;
}

function uid(index: number): string {
  return `0b8f6a1e-3c58-4b0e-9f7d-${String(index).padStart(12, "0")}`;
}

function holdPods(count: number): void {
  for (let index = 0; index < count; index++) harness.server.hold(podEntry(uid(index), pod(index)));
}

describe("size", () => {
  test("200 pods are handed over in one snapshot, each with its own namespace, and forgotten one by one", async () => {
    listening();
    holdPods(manyPods);
    const ztunnel = await harness.standIn();
    const start = performance.now();
    await ztunnel.waitForReady(10_000);
    expect(performance.now() - start).toBeLessThan(5000);
    const { workloads } = await ztunnel.stats();
    const expected = Object.fromEntries(pods.map((netns, index) => [uid(index), String(netns.id.ino)]));
    expect(Object.fromEntries(Object.entries(workloads).map(([id, { ino }]) => [id, ino]))).toEqual(expected);
    expect(await told(ztunnel)).toHaveLength(manyPods + 1);
    await Promise.all(pods.map((_, index) => harness.server.remove(uid(index))));
    const after = await ztunnel.stats();
    expect(after.workloads).toEqual({});
    expect(after.openFds).toBeLessThan(60);
  });

  test("the longest names Kubernetes allows go through", async () => {
    listening();
    const ztunnel = await harness.standIn();
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    const workload = { name: "n".repeat(253), namespace: "s".repeat(63), serviceAccount: "a".repeat(253) };
    await harness.server.add({ uid: uid(0), workload, netns: pod(0) });
    expect((await told(ztunnel)).at(-1)).toMatchObject({ info: workload, uid: uid(0) });
    expect((await told(ztunnel)).at(-1)?.sizeBytes).toBeLessThan(1024);
  });

  test.each([
    ["4 KiB", 4096],
    ["60 KiB", 60 * 1024],
  ])(
    "a refusal of %s reaches the caller as far as its bound, and costs nothing else",
    async (_name, size) => {
      listening();
      const ztunnel = await harness.standIn({ faults: ["nack=deep,1", `nack-size=${size}`] });
      await ztunnel.waitForReady();
      await eventually("live", () => harness.server.ready);
      const outcome = await outcomeOf(harness.server.add(podEntry(uid(0), pod(0))));
      expect(outcome.code).toBe("NACK");
      expect(outcome.message).toContain("…");
      // a sentence of ours stands before its words
      expect(Buffer.byteLength(outcome.message)).toBeLessThan(bounds.nack.bytes + 100);
      expect((await ztunnel.stats()).connections).toBe(1);
      expect(await outcomeOf(harness.server.add(podEntry(uid(1), pod(1))))).toMatchObject({ code: "ok" });
    },
  );

  test("a refusal longer than the server reads is a refusal all the same", async () => {
    listening();
    const ztunnel = await harness.standIn({
      faults: ["nack=deep,1", `nack-size=${100 * 1024}`],
      retryMs: 60_000,
    });
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    const outcome = await outcomeOf(harness.server.add(podEntry(uid(0), pod(0))));
    expect(outcome.code).toBe("NACK");
    expect(outcome.message).toContain("failure to start proxy : deep");
    expect(harness.server.acknowledged(uid(0))).toBeUndefined();
    expect(await outcomeOf(harness.server.add(podEntry(uid(1), pod(1))))).toMatchObject({ code: "ok" });
    expect((await ztunnel.stats()).connections).toBe(1);
  });
});

describe("clients that misbehave", () => {
  test.each([["no-hello"], ["bad-hello"], ["bad-hello=0a00"]])(
    "%s: never served, closed and forgotten, however often it comes",
    async (fault) => {
      listening({ helloTimeoutMs: 100 });
      holdPods(1);
      const bad = await harness.standIn({ faults: [fault] });
      await bad.waitForStats((stats) => stats.connections >= 3);
      const good = await harness.standIn();
      await good.waitForReady();
      expect(bad.messages).toEqual([]);
      expect(harness.events.filter((event) => event.type === "connected")).toHaveLength(1);
    },
  );

  test("a hello that takes its time is welcome within the limit", async () => {
    listening({ helloTimeoutMs: 1000 });
    const slow = await harness.standIn({ faults: ["hello-delay=200"] });
    await slow.waitForReady();
    expect((await slow.stats()).connections).toBe(1);
  });

  test.each([["double-ack"], ["garbage-ack"], ["empty-ack-payload"]])(
    "%s in the snapshot ends the connection, and the next one is complete",
    async (fault) => {
      listening();
      holdPods(3);
      // after an ack too many the server cannot know that the stand-in is not done yet
      const ztunnel = await harness.standIn({ faults: [fault], allow: ["early-message"] });
      await ztunnel.waitForEvent("close");
      await ztunnel.setFaults();
      await ztunnel.waitForReady();
      expect(Object.keys((await ztunnel.stats()).workloads).sort()).toEqual([uid(0), uid(1), uid(2)]);
    },
  );

  test("an ack nobody asked for ends an idle connection", async () => {
    listening();
    const ztunnel = await harness.standIn({ faults: ["unsolicited-ack-when-idle"] });
    await ztunnel.waitForEvent("close");
    await ztunnel.setFaults();
    await ztunnel.waitForReady();
    expect((await ztunnel.stats()).connections).toBeGreaterThan(1);
  });

  test.each([["add"], ["snapshot-sent"]])(
    "a client that closes on every %s does not hurt another",
    async (kind) => {
      listening();
      holdPods(3);
      const bad = await harness.standIn({ faults: [`close-after=${kind}`] });
      await bad.waitForEvent("close");
      const good = await harness.standIn();
      await good.waitForReady();
      expect(Object.keys((await good.stats()).workloads)).toHaveLength(3);
    },
  );

  test("a client that closes with data unread does not hurt another", async () => {
    listening();
    holdPods(3);
    const bad = await harness.standIn({ faults: ["close-with-unread-data"] });
    await bad.waitForEvent("close");
    await bad.setFaults();
    const good = await harness.standIn();
    await Promise.all([bad.waitForReady(), good.waitForReady()]);
    expect(harness.server.connectionCount).toBe(2);
  });

  test("a client that never reads is given up, and updates go to the one that works", async () => {
    listening({ ackTimeoutMs: 300 });
    holdPods(2);
    const good = await harness.standIn();
    await good.waitForReady();
    const bad = await harness.standIn({ faults: ["half-start"] });
    await harness.connections(2);
    expect(await outcomeOf(harness.server.add(podEntry(uid(5), pod(5))))).toMatchObject({ code: "TIMEOUT" });
    await harness.connections(1);
    expect(await outcomeOf(harness.server.add(podEntry(uid(5), pod(5))))).toMatchObject({ code: "ok" });
    expect((await told(good)).at(-1)).toMatchObject({ kind: "add", uid: uid(5) });
    await bad.kill();
  });

  test.each([
    ["instead of a hello", false],
    ["instead of an ack", true],
  ])("random bytes %s never stop the server", async (_name, greet) => {
    listening();
    holdPods(1);
    const good = await harness.standIn();
    await good.waitForReady();
    const random = generator(greet ? 7 : 11);
    for (let round = 0; round < 60; round++) {
      const client = harness.client();
      if (greet) client.send("08 01");
      for (let packets = 0; packets < 5; packets++) {
        const bytes = Uint8Array.from({ length: 1 + (random() % 2000) }, () => random() & 0xff);
        try {
          client.sendBytes(bytes);
        } catch {
          break;
        }
      }
      client.close();
      // the backlog is finite
      await new Promise((resolve) => setImmediate(resolve));
    }
    await harness.connections(1);
    expect(await outcomeOf(harness.server.add(podEntry(uid(9), pod(9))))).toMatchObject({ code: "ok" });
    expect((await good.stats()).connections).toBe(1);
  });

  test("a descriptor sent to the server is closed, and so is the connection", async () => {
    listening();
    const before = openFdCount();
    for (const greet of [false, true]) {
      const client = harness.client();
      if (greet) client.send("08 01");
      client.sendFd("08 01", pod(0).fd);
      await client.ended();
      client.close();
    }
    expect(openFdCount()).toBe(before);
  });

  test("a client of another user cannot connect, and is turned away where the file lets it in", async () => {
    const { path } = listening();
    holdPods(1);
    expect(await connectAs(nobody, path)).toBe("connect: Permission denied");
    chmodSync(dirname(path), 0o777);
    chmodSync(path, 0o777);
    expect(await connectAs(nobody, path)).toBe("closed");
    expect(await connectAs("0", path)).toBe("packet");
    expect(harness.logged("only processes of user 0 may connect")).toBe(true);
  });
});

describe("bad timing", () => {
  test("a ztunnel killed in the middle of its snapshot does not disturb the other's", async () => {
    listening();
    holdPods(60);
    const doomed = await harness.standIn({ faults: ["ack-delay=20"] });
    await doomed.waitFor(() => doomed.messages.length > 5);
    const other = await harness.standIn({ faults: ["ack-delay=2"] });
    await other.waitFor(() => other.messages.length > 5);
    await doomed.kill();
    await other.waitForReady(10_000);
    expect(Object.keys((await other.stats()).workloads)).toHaveLength(60);
    await harness.connections(1);
  });

  test("silent connections without end cost sixteen descriptors, and a ztunnel still finds a place", async () => {
    listening();
    const before = openFdCount();
    const count = 40;
    for (let i = 1; i <= count; i++) {
      harness.client();
      // a full backlog would refuse it
      await eventually("it to be accepted", () => harness.server.acceptedCount === i);
    }
    // both ends are in this process
    expect(openFdCount() - before - count).toBeLessThanOrEqual(16);
    await harness.liveClient();
    expect(harness.server.connectionCount).toBe(1);
    expect(harness.log.filter(({ message }) => message.startsWith("more ZDS connections"))).toHaveLength(1);
  });

  test("where sixteen have said hello the next one is closed, and gets its place when one ends", async () => {
    listening();
    const clients = [];
    for (let i = 0; i < 16; i++) clients.push(await harness.liveClient());
    const surplus = harness.client();
    await eventually("it to be accepted", () => harness.server.acceptedCount === 17);
    expect(harness.server.connectionCount).toBe(16);
    surplus.close();
    clients[0]?.close();
    await harness.connections(15);
    await harness.liveClient();
    await harness.connections(16);
  });

  test("a storm of connections is let in five a second, and a patient client still gets its turn", async () => {
    listening({ acceptsPerSecond: 5 });
    holdPods(2);
    const times: number[] = [];
    harness.server.onchange = ({ type }) => type === "connected" && times.push(performance.now());
    const storm = await harness.standIn({ faults: ["reconnect-storm"] });
    // the storm's dead connections fill the backlog: who asks at growing intervals up to 15 s may find it full each time
    const patient = await harness.standIn({ maxBackoffMs: 100 });
    await patient.waitForReady(15_000);
    // counted here: the last of those that the storm counts wait in the backlog
    await eventually("more than twenty to be let in", () => times.length > 20, 15_000);
    await storm.kill();
    // five in each second, looked at over four of them: a hello is seen some time after its connection was let in, on a busy machine
    // tens of milliseconds later than another's
    const crowded = times.filter(
      (time, index) => (times[index + 20] ?? Number.POSITIVE_INFINITY) - time < 3_500,
    );
    expect(crowded).toEqual([]);
    expect(await patient.stats()).toMatchObject({ ready: true, connections: 1 });
    await harness.connections(1, 20_000);
  }, 40_000);

  test("pods removed and added at random during snapshots are right in the end", async () => {
    listening();
    const random = generator(3);
    holdPods(30);
    const ztunnel = await harness.standIn({ faults: ["ack-delay=3"] });
    const present = new Set(Array.from({ length: 30 }, (_, index) => index));
    const updates: Promise<unknown>[] = [];
    for (let step = 0; step < 120; step++) {
      await new Promise((resolve) => setTimeout(resolve, random() % 8));
      const index = random() % 40;
      if (present.delete(index)) updates.push(harness.server.remove(uid(index)));
      else {
        present.add(index);
        updates.push(outcomeOf(harness.server.add(podEntry(uid(index), pod(index)))));
      }
      if (step === 40) await ztunnel.command({ do: "reconnect" });
    }
    await Promise.all(updates);
    // what failed on the way is repaired by the next snapshot, as the agent's own loop would
    await ztunnel.command({ do: "reconnect" });
    const wanted = [...present].map(uid).sort();
    const right = await ztunnel.waitForStats(
      (stats) => stats.ready && Object.keys(stats.workloads).length === wanted.length,
    );
    expect(Object.keys(right.workloads).sort()).toEqual(wanted);
  });

  test("a pod that gets a new namespace while its Add is under way ends with the new one", async () => {
    listening();
    const ztunnel = await harness.standIn();
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    await ztunnel.setFaults("ack-delay=100");
    const first = outcomeOf(harness.server.add(podEntry(uid(0), pod(0))));
    await ztunnel.waitForEvent("message");
    const second = outcomeOf(harness.server.add(podEntry(uid(0), pod(1))));
    const third = outcomeOf(harness.server.add(podEntry(uid(0), pod(2))));
    expect(["ok", "SUPERSEDED"]).toContain((await first).code);
    expect((await second).code).toBe("SUPERSEDED");
    expect((await third).code).toBe("ok");
    expect(harness.server.acknowledged(uid(0))).toBe(pod(2).key);
    expect((await ztunnel.stats()).workloads[uid(0)]?.ino).toBe(String(pod(2).id.ino));
  });

  test("a namespace that passes to another pod is never held by two", async () => {
    listening();
    holdPods(2);
    const ztunnel = await harness.standIn();
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    await harness.server.add(podEntry(uid(7), pod(0)));
    const { workloads } = await ztunnel.stats();
    expect(Object.keys(workloads).sort()).toEqual([uid(1), uid(7)]);
  });

  test("a pod removed before its queued Add was sent is not announced any more", async () => {
    listening();
    const ztunnel = await harness.standIn();
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    await ztunnel.setFaults("ack-delay=100");
    const first = outcomeOf(harness.server.add(podEntry(uid(0), pod(0))));
    const second = outcomeOf(harness.server.add(podEntry(uid(1), pod(1))));
    const removed = harness.server.remove(uid(1));
    expect((await first).code).toBe("ok");
    expect((await second).code).toBe("SUPERSEDED");
    await removed;
    expect(ztunnel.messages.filter((event) => event.uid === uid(1)).map((event) => event.kind)).toEqual([
      "del",
    ]);
  });

  test("a pod known without its namespace during the snapshot is not forgotten by it", async () => {
    listening();
    const old = await harness.standIn();
    await old.waitForReady();
    await eventually("live", () => harness.server.ready);
    await harness.server.add(podEntry(uid(3), pod(3)));
    harness.server.hold(podEntry(uid(0), pod(0)));
    await old.setFaults("ack-delay=150");
    await harness.server.remove(uid(3));
    await old.command({ do: "reconnect" });
    await old.waitFor((event) => event.event === "message" && event.uid === uid(0));
    harness.server.hold(podEntry(uid(3), undefined));
    await old.waitForReady();
    const uids = old.messages.map((event) => [event.kind, event.uid]);
    expect(uids.slice(-2)).toEqual([
      ["keep", uid(3)],
      ["snapshot-sent", undefined],
    ]);
  });

  test("closing the server tells everyone who waits", async () => {
    listening();
    const ztunnel = await harness.standIn();
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    await ztunnel.setFaults("never-ack");
    const updates = [
      outcomeOf(harness.server.add(podEntry(uid(0), pod(0)))),
      outcomeOf(harness.server.add(podEntry(uid(1), pod(1)))),
    ];
    const removed = harness.server.remove(uid(2));
    await ztunnel.waitForEvent("message");
    await harness.server.close();
    for (const outcome of await Promise.all(updates)) expect(outcome.code).toBe("CLOSED");
    await removed;
    expect(await outcomeOf(harness.server.add(podEntry(uid(2), pod(2))))).toMatchObject({ code: "CLOSED" });
    expect(() => harness.client()).toThrow(/ECONNREFUSED|ENOENT/);
  });
});

/** Connects and says hello as this user; tells what came of it. */
async function connectAs(user: string, path: string): Promise<string> {
  const program = `
    use Socket; socket(S, AF_UNIX, SOCK_SEQPACKET, 0) or die; $SIG{PIPE} = "IGNORE";
    connect(S, sockaddr_un($ARGV[0])) or do { print "connect: $!"; exit };
    send(S, "\\x08\\x01", 0); my $n = sysread(S, my $b, 1024); print $n ? "packet" : "closed";`;
  const args = [`--reuid=${user}`, "--clear-groups", "perl", "-e", program, path];
  const { stdout } = await run("setpriv", args, {
    timeout: 8000 * patience(),
    env: { ...process.env, LC_ALL: "C" },
  });
  return stdout;
}

/** The same numbers in every run. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
}
