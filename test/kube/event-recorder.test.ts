// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EventRecorder, type EventRecorderOptions, type EventResult } from "../../src/kube/event-recorder.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type KubeFixture, recordingLogger, startKube } from "./kube-fixture.ts";

const web = { uid: "u1", namespace: "shop", name: "web-0" };
let kube: KubeFixture;
let clock: FakeClock;
let counts: Record<EventResult, number>;

beforeEach(async () => {
  counts = { written: 0, repeated: 0, dropped: 0, failed: 0, forbidden: 0 };
  kube = await startKube();
  kube.server.put("namespaces", { metadata: { name: "shop" } });
  clock = new FakeClock();
});
afterEach(async () => {
  await kube[Symbol.asyncDispose]();
});

function recorder(options: Partial<EventRecorderOptions> = {}): EventRecorder {
  return new EventRecorder({
    client: kube.client,
    nodeName: "node1",
    log: silentLogger,
    clock,
    onresult: (result) => {
      counts[result] += 1;
    },
    ...options,
  });
}

function events(): Record<string, unknown>[] {
  return kube.server.store.list("events") as unknown as Record<string, unknown>[];
}

describe("EventRecorder", () => {
  test("writes an Event that names the pod, the reason and the message", async () => {
    const recorded = recorder();
    recorded.record(web, { reason: "AmbientZtunnelRefused", message: "ztunnel refused: port in use" });
    await recorded.idle();
    expect(events()).toEqual([
      expect.objectContaining({
        involvedObject: { apiVersion: "v1", kind: "Pod", namespace: "shop", name: "web-0", uid: "u1" },
        type: "Warning",
        reason: "AmbientZtunnelRefused",
        message: "ztunnel refused: port in use",
        source: { component: "ambient-cni", host: "node1" },
        count: 1,
      }),
    ]);
  });

  test("says the same thing once and raises its count now and then", async () => {
    const recorded = recorder({ repeatMs: 1000 });
    const event = { reason: "AmbientNotCaptured", message: "no" } as const;
    for (let i = 0; i < 5; i++) recorded.record(web, event);
    await recorded.idle();
    clock.advance(2000);
    recorded.record(web, event);
    recorded.record(web, event);
    await recorded.idle();
    expect(events()).toEqual([expect.objectContaining({ message: "no", count: 7 })]);
    expect(counts).toMatchObject({ written: 1, repeated: 1 });
  });

  test("writes an Event anew that is over by the time that it is to be said again", async () => {
    const recorded = recorder({ repeatMs: 1000 });
    const event = { reason: "AmbientMayBeBypassed", message: "no" } as const;
    for (let i = 0; i < 3; i++) recorded.record(web, event);
    await recorded.idle();
    // as an API server does after an hour
    for (const { metadata } of events())
      kube.server.delete("events", (metadata as { name: string }).name, "shop");
    clock.advance(3_600_000);
    recorded.record(web, event);
    await recorded.idle();
    expect(events()).toEqual([expect.objectContaining({ message: "no", count: 1 })]);
    expect(counts).toMatchObject({ written: 2, repeated: 0, failed: 0 });
    clock.advance(2000);
    recorded.record(web, event);
    await recorded.idle();
    expect(events()).toEqual([expect.objectContaining({ message: "no", count: 2 })]);
  });

  test("writes another Event for another message, reason or pod", async () => {
    const recorded = recorder();
    recorded.record(web, { reason: "AmbientNotCaptured", message: "a" });
    recorded.record(web, { reason: "AmbientNotCaptured", message: "b" });
    recorded.record(web, { reason: "AmbientRepaired", message: "b" });
    recorded.record({ ...web, uid: "u2" }, { reason: "AmbientRepaired", message: "b" });
    await recorded.idle();
    expect(
      events()
        .map(({ type }) => type)
        .sort(),
    ).toEqual(["Normal", "Normal", "Warning", "Warning"]);
  });

  test("does not flood the API server", async () => {
    const recorded = recorder({ burst: 3 });
    for (let i = 0; i < 10; i++)
      recorded.record({ ...web, uid: `u${i}` }, { reason: "AmbientNotCaptured", message: "x" });
    await recorded.idle();
    expect(counts).toMatchObject({ written: 3, dropped: 7 });
    clock.advance(1000);
    recorded.record({ ...web, uid: "late" }, { reason: "AmbientNotCaptured", message: "x" });
    await recorded.idle();
    expect(counts.written).toBe(4);
  });

  test("lives on when the API server fails, and says it again later", async () => {
    const log = recordingLogger();
    const recorded = recorder({ log });
    kube.server.faults.failures.push({ status: 500, verb: "create", times: 1 });
    recorded.record(web, { reason: "AmbientNotCaptured", message: "x" });
    await recorded.idle();
    expect(counts).toMatchObject({ failed: 1, forbidden: 0, written: 0 });
    expect(log.lines.map(({ level }) => level)).toEqual(["debug"]);
    recorded.record(web, { reason: "AmbientNotCaptured", message: "x" });
    await recorded.idle();
    expect(counts.written).toBe(1);
  });

  test("says in the log what it has no right to write, with the remedy, and counts it", async () => {
    const log = recordingLogger();
    const recorded = recorder({ log });
    kube.server.faults.failures.push({ status: 403, reason: "Forbidden", verb: "create", times: 1 });
    recorded.record(web, { reason: "AmbientZtunnelRefused", message: "port 15008 is in use" });
    await recorded.idle();
    expect(log.lines).toEqual([
      {
        level: "warn",
        message: expect.stringContaining("it is only in this line") as string,
        fields: {
          ns: "shop",
          pod: "web-0",
          uid: "u1",
          event: "AmbientZtunnelRefused",
          reason: "port 15008 is in use",
          err: expect.objectContaining({
            message: expect.stringMatching(/events.*add the permission named here/) as string,
          }) as Error,
        },
      },
    ]);
    // granted meanwhile
    recorded.record(web, { reason: "AmbientZtunnelRefused", message: "port 15008 is in use" });
    await recorded.idle();
    expect(counts).toMatchObject({ forbidden: 1, written: 1 });
  });

  test("takes the refusal of a namespace that is being deleted for no missing right", async () => {
    const log = recordingLogger();
    const recorded = recorder({ log });
    const causes = [{ reason: "NamespaceTerminating", field: "metadata.namespace" }];
    kube.server.faults.failures.push({ status: 403, verb: "create", details: { causes }, times: 1 });
    recorded.record(web, { reason: "AmbientNotCaptured", message: "x" });
    await recorded.idle();
    expect(counts).toMatchObject({ failed: 1, forbidden: 0 });
    expect(log.lines.map(({ level }) => level)).toEqual(["debug"]);
  });

  test("keeps no more than 100 waiting for an API server that does not answer", async () => {
    const hang = (_path: string, _body: object, options?: { signal?: AbortSignal }): Promise<never> =>
      new Promise((_resolve, reject) => {
        options?.signal?.addEventListener("abort", () => reject(new Error("stopped")));
      });
    const recorded = recorder({ client: { create: hang, mergePatch: hang } });
    for (let i = 0; i < 5000; i++) {
      clock.advance(1000);
      recorded.record(web, { reason: "AmbientNotCaptured", message: `attempt ${i}` });
    }
    expect(counts.dropped).toBe(4900);
    recorded.stop();
  });

  test("cuts a message the API would refuse", async () => {
    const recorded = recorder();
    recorded.record(web, { reason: "AmbientNotCaptured", message: "é".repeat(5000) });
    await recorded.idle();
    expect(events()[0]?.message).toBe(`${"é".repeat(510)}…`);
  });
});
