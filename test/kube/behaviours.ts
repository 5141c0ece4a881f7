// SPDX-License-Identifier: Apache-2.0
// How src/kube gets on with an API server: one suite, run against the stub here and against a real kube-apiserver in
// test/cluster, so that the stub cannot drift away from what it stands for.
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { AnnotationWriter } from "../../src/kube/annotation-writer.ts";
import { type ApiClient, podPath } from "../../src/kube/api-client.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import { NodeState } from "../../src/kube/node-state.ts";
import { type PodFacts, podAnnotations, sameFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import type { ReflectorOptions } from "../../src/kube/reflector-options.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { deletePod, hasChanged, labelPod } from "../../src/repair/repair-controller.ts";
import { type SuspectPod, toSuspectPod } from "../../src/repair/suspect-pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { recordingLogger } from "./kube-fixture.ts";

/** A pod to be created; nothing runs it. */
export interface WorldPod {
  readonly namespace: string;
  readonly name: string;
  /** Default "n1". */
  readonly nodeName?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** An API server, the client under test, and a hand on both. Writes go past the faults. */
export interface KubeWorld {
  readonly client: ApiClient;
  /** Shortest watch in which the server sends a bookmark. */
  readonly bookmarkedWatchSeconds: number;
  createNamespace(name: string, labels?: Readonly<Record<string, string>>): Promise<void>;
  /** Returns the UID. */
  createPod(pod: WorldPod): Promise<string>;
  /** Removes a pod without a grace period. */
  deletePod(namespace: string, name: string): Promise<void>;
  label(
    what: { readonly namespace?: string; readonly name: string },
    labels: Readonly<Record<string, string>>,
  ): Promise<void>;
  annotationsOf(namespace: string, name: string): Promise<Readonly<Record<string, string>>>;
  /** Breaks all connections of the client. */
  cut(): void;
  /** Refuses the client's connections until `heal`. */
  refuse(): Promise<void>;
  /** Lets connections stay open and silent until `heal`. */
  silence(): void;
  /** Ends all faults; does nothing where there are none. */
  heal(): Promise<void>;
  /** Makes the server unable to resume a watch from any version before now. */
  forgetHistory(): Promise<void>;
}

/** Faults on the real server cost seconds. */
const patienceMs = 20_000;

/** Runs the suite; `start` is called once, and whoever made the world ends it. */
export function describeKubeBehaviours(start: () => Promise<KubeWorld>): void {
  let world: KubeWorld;
  let namespaces = 0;
  const cleanups: (() => unknown)[] = [];
  beforeAll(async () => {
    world = await start();
  });
  afterEach(async () => {
    await world.heal();
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });

  /** A namespace of its own for each test, and a label that selects its pods. */
  async function newNamespace(labels: Readonly<Record<string, string>> = {}): Promise<string> {
    namespaces += 1;
    const name = `behaviour-${namespaces}`;
    await world.createNamespace(name, labels);
    return name;
  }

  async function watching(
    namespace: string,
    options: Partial<ReflectorOptions<PodFacts>> = {},
  ): Promise<{ reflector: Reflector<PodFacts>; changes: string[] }> {
    const reflector = new Reflector<PodFacts>({
      client: world.client,
      what: "pods",
      path: `/api/v1/namespaces/${namespace}/pods`,
      query: { fieldSelector: "spec.nodeName=n1" },
      convert: toPodFacts,
      same: sameFacts,
      log: recordingLogger(),
      backoff: new Backoff({ baseMs: 20, capMs: 200 }),
      ...options,
    });
    const changes: string[] = [];
    reflector.subscribe((change) => {
      // a real server tells of a deletion twice: first that it has begun
      if (change.current?.deletionTimestamp === true) return;
      changes.push(`${change.type} ${(change.current ?? change.previous).name}`);
    });
    reflector.start();
    cleanups.push(() => reflector.stop());
    await reflector.waitForSync();
    await until("the watch is open", () => reflector.isFresh(60_000));
    return { reflector, changes };
  }

  const until = (what: string, probe: () => boolean) => waitFor(what, probe, { timeoutMs: patienceMs });
  const untilChanges = async (changes: readonly string[], count: number): Promise<void> => {
    await until(`${count} changes`, () => changes.length >= count).catch((error: Error) => {
      throw new Error(`${error.message}; there were: ${changes.join(", ")}`, { cause: error });
    });
  };
  const namesOf = (reflector: Reflector<PodFacts>) => [...reflector.values()].map(({ name }) => name).sort();

  function newWriter(): AnnotationWriter {
    const writer = new AnnotationWriter({
      client: world.client,
      lookup: () => undefined,
      log: recordingLogger(),
      backoff: { baseMs: 20, capMs: 100 },
    });
    cleanups.push(() => writer.stop());
    return writer;
  }

  describe("watch", () => {
    test("brings what is on the node, then every change of it, and nothing of other nodes", async () => {
      const namespace = await newNamespace();
      await world.createPod({ namespace, name: "a" });
      await world.createPod({ namespace, name: "b" });
      const { reflector, changes } = await watching(namespace);
      // a list from the server's memory comes in any order
      expect(changes.sort()).toEqual(["set a", "set b"]);
      await world.createPod({ namespace, name: "elsewhere", nodeName: "n2" });
      await world.createPod({ namespace, name: "c", labels: { x: "1" } });
      await world.label({ namespace, name: "a" }, { x: "2" });
      await world.deletePod(namespace, "b");
      await untilChanges(changes, 5);
      expect(changes.slice(2)).toEqual(["set c", "set a", "delete b"]);
      expect(namesOf(reflector)).toEqual(["a", "c"]);
      expect([...reflector.values()].map(({ labels }) => labels)).toEqual([{ x: "2" }, { x: "1" }]);
      expect(reflector.counts).toMatchObject({ lists: 1, failures: 0, ignoredEvents: 0 });
    });

    test("is resumed without a list when the server ends it, and gets bookmarks meanwhile", async () => {
      const namespace = await newNamespace();
      await world.createPod({ namespace, name: "a" });
      const { reflector, changes } = await watching(namespace, {
        watchSeconds: world.bookmarkedWatchSeconds,
        random: () => 0,
      });
      // a server has something to say in a bookmark only after writes that the watch does not select
      await world.createPod({ namespace, name: "elsewhere", nodeName: "n2" });
      await until("a bookmark has come", () => reflector.counts.events >= 1);
      await until("a third watch is open", () => reflector.counts.watches === 3);
      expect(reflector.counts).toMatchObject({ lists: 1, failures: 0, ignoredEvents: 0 });
      await world.createPod({ namespace, name: "b" });
      await until("the new pod is known", () => changes.includes("set b"));
      expect(changes).toEqual(["set a", "set b"]);
    });

    test("that is cut loses nothing and needs no list", async () => {
      const namespace = await newNamespace();
      await world.createPod({ namespace, name: "a" });
      await world.createPod({ namespace, name: "b" });
      const { reflector, changes } = await watching(namespace);
      world.cut();
      await world.deletePod(namespace, "a");
      await world.createPod({ namespace, name: "c" });
      await untilChanges(changes, 4);
      expect(changes.slice(2)).toEqual(["delete a", "set c"]);
      expect(reflector.counts.lists).toBe(1);
    });

    test("catches up after a time of refused connections, a replaced pod included", async () => {
      const namespace = await newNamespace();
      const first = await world.createPod({ namespace, name: "a" });
      const { reflector, changes } = await watching(namespace);
      await world.refuse();
      await until("the break is noticed", () => !reflector.isFresh(60_000));
      await world.deletePod(namespace, "a");
      const second = await world.createPod({ namespace, name: "a" });
      await world.heal();
      await untilChanges(changes, 3);
      expect(changes).toEqual(["set a", "delete a", "set a"]);
      expect([...reflector.values()].map(({ uid }) => uid)).toEqual([second]);
      expect(second).not.toBe(first);
      expect(reflector.counts.lists).toBe(1);
    });

    test("that has gone silent is replaced", async () => {
      const namespace = await newNamespace();
      const { reflector, changes } = await watching(namespace, { watchSeconds: 1, graceMs: 300 });
      world.silence();
      await world.createPod({ namespace, name: "a" });
      await until("the silence is noticed", () => !reflector.isFresh(60_000));
      expect(changes).toEqual([]);
      await world.heal();
      await until("the new pod is known", () => changes.includes("set a"));
      expect(reflector.counts.lists).toBe(1);
    });

    test("lists anew when the server has forgotten, and tells exactly what is different", async () => {
      const namespace = await newNamespace();
      for (const name of ["a", "b", "c", "d"]) await world.createPod({ namespace, name });
      const { reflector, changes } = await watching(namespace);
      await world.refuse();
      await world.deletePod(namespace, "b");
      await world.deletePod(namespace, "d");
      await world.createPod({ namespace, name: "e" });
      await world.label({ namespace, name: "c" }, { x: "1" });
      await world.forgetHistory();
      await world.heal();
      await untilChanges(changes, 8);
      expect(changes.slice(4).sort()).toEqual(["delete b", "delete d", "set c", "set e"]);
      expect(namesOf(reflector)).toEqual(["a", "c", "e"]);
      expect(reflector.counts.lists).toBe(2);
    });
  });

  describe("list", () => {
    test("of namespaces carries metadata alone", async () => {
      const name = await newNamespace({ "istio.io/dataplane-mode": "ambient" });
      const seen: Record<string, unknown>[] = [];
      const { resourceVersion } = await world.client.list(
        "/api/v1/namespaces",
        {},
        {
          metadataOnly: true,
          convert: (raw) => {
            seen.push(raw as Record<string, unknown>);
            return undefined;
          },
        },
      );
      expect(resourceVersion).toMatch(/^\d+$/);
      const mine = seen.find((raw) => (raw.metadata as { name: string }).name === name);
      expect(mine).toMatchObject({ metadata: { labels: { "istio.io/dataplane-mode": "ambient" } } });
      expect(
        seen.flatMap((raw) => Object.keys(raw)).filter((key) => key === "spec" || key === "status"),
      ).toEqual([]);
    });
  });

  describe("state of the node", () => {
    test("knows pods and namespaces, tells changes of labels, and asks live for what it does not know", async () => {
      const namespace = await newNamespace({ team: "a" });
      const uid = await world.createPod({ namespace, name: "a", labels: { app: "web" } });
      await world.createPod({ namespace, name: "far", nodeName: "n2" });
      const state = new NodeState({ client: world.client, nodeName: "n1", log: recordingLogger() });
      cleanups.push(() => state.stop());
      state.start();
      await state.waitForSync();
      await until("both watches are open", () => state.isFresh());
      expect(state.pod(uid)).toMatchObject({ name: "a", namespace, nodeName: "n1", labels: { app: "web" } });
      expect(state.podByName(namespace, "far")).toBeUndefined();
      expect(state.namespace(namespace)?.labels).toMatchObject({ team: "a" });
      const told: string[] = [];
      state.onNamespaceChange(({ current }) => told.push(current?.labels.team ?? ""));
      await world.label({ name: namespace }, { team: "b" });
      await until("the label is told", () => told.includes("b"));
      expect(await state.findPod({ namespace, name: "a" })).toMatchObject({
        source: "cache",
        facts: { uid },
      });
      expect(await state.findPod({ namespace, name: "far" })).toMatchObject({
        source: "live",
        facts: { nodeName: "n2" },
      });
      expect(await state.findPod({ namespace, name: "none" })).toEqual({ source: "live", facts: undefined });
      expect(await state.findNamespace("none")).toEqual({ source: "live", facts: undefined });
    });
  });

  describe("annotation", () => {
    const redirection = podAnnotations.redirection;

    test("is written, changed and taken away through the status, others stay", async () => {
      const namespace = await newNamespace();
      const uid = await world.createPod({ namespace, name: "a", annotations: { other: "1" } });
      const writer = newWriter();
      for (const [value, expected] of [
        ["pending", { other: "1", [redirection]: "pending" }],
        ["enabled", { other: "1", [redirection]: "enabled" }],
        [null, { other: "1" }],
      ] as const) {
        writer.set({ uid, namespace, name: "a" }, value);
        await writer.idle();
        expect(await world.annotationsOf(namespace, "a")).toEqual(expected);
      }
      expect(writer.counts).toEqual({ written: 3, skipped: 0, retried: 0, gone: 0 });
    });

    test("never lands on another pod of the same name", async () => {
      const namespace = await newNamespace();
      await world.createPod({ namespace, name: "a" });
      const stranger = "11111111-2222-3333-4444-555555555555";
      const patch = { metadata: { uid: stranger, annotations: { [redirection]: "enabled" } } };
      const error = await world.client.mergePatch(podPath(namespace, "a", "status"), patch).then(
        () => undefined,
        (failure: unknown) => failure as ApiError,
      );
      expect(error).toBeInstanceOf(ApiError);
      expect(error?.status, error?.message).toSatisfy((status) => status === 409 || status === 422);
      const writer = newWriter();
      writer.set({ uid: stranger, namespace, name: "a" }, "enabled");
      await writer.idle();
      expect(writer.counts, error?.message).toMatchObject({ gone: 1, written: 0, retried: 0 });
      expect(await world.annotationsOf(namespace, "a")).toEqual({});
    });

    test("of a pod that is gone is given up", async () => {
      const namespace = await newNamespace();
      const uid = await world.createPod({ namespace, name: "a" });
      await world.deletePod(namespace, "a");
      const writer = newWriter();
      writer.set({ uid, namespace, name: "a" }, "enabled");
      await writer.idle();
      expect(writer.counts).toMatchObject({ gone: 1, written: 0, retried: 0 });
    });

    test("is written once the server can be reached again", async () => {
      const namespace = await newNamespace();
      const uid = await world.createPod({ namespace, name: "a" });
      const writer = newWriter();
      await world.refuse();
      writer.set({ uid, namespace, name: "a" }, "enabled");
      await until("it has been tried twice", () => writer.counts.retried >= 2);
      await world.heal();
      await writer.idle();
      expect(await world.annotationsOf(namespace, "a")).toEqual({ [redirection]: "enabled" });
    });
  });

  describe("a broken pod", () => {
    const label = { labelKey: "cni.istio.io/uninitialized", labelValue: "true" };
    const signal = new AbortController().signal;

    /** As the repair has looked at it. */
    async function look(namespace: string, name: string): Promise<SuspectPod> {
      const sought = { nodeName: "n1", sidecarAnnotation: "", initContainerName: "", ...label };
      const pod = toSuspectPod(await world.client.getPod(namespace, name), sought);
      if (pod === undefined) throw new Error("the pod is not read");
      return pod;
    }

    const actions = [
      ["deleted", (pod: SuspectPod) => deletePod(pod, { client: world.client, signal })],
      ["labelled", (pod: SuspectPod) => labelPod(pod, { client: world.client, label, signal })],
    ] as const;

    test.each(actions)(
      "is %s as it was looked at, and not once it has changed or another has its name",
      async (_, act) => {
        const namespace = await newNamespace();
        await world.createPod({ namespace, name: "a" });
        const before = await look(namespace, "a");
        await world.label({ namespace, name: "a" }, { x: "1" });
        const now = await look(namespace, "a");
        const stranger = { ...now, uid: "11111111-2222-3333-4444-555555555555" };
        for (const pod of [before, stranger]) {
          const error = await act(pod).then(
            () => undefined,
            (failure: unknown) => failure as ApiError,
          );
          expect(error && hasChanged(error), error?.message).toBe(true);
          expect(await look(namespace, "a")).toEqual(now);
        }
        await act(now);
        const after = await look(namespace, "a").catch((error: ApiError) => error.status);
        // nothing runs it: a server may take it away at once
        const isDone = typeof after === "number" ? after === 404 : after.isOver || after.hasLabel;
        expect(isDone).toBe(true);
      },
    );

    test.each(actions)("that is gone is not %s, and that is no fault", async (_, act) => {
      const namespace = await newNamespace();
      await world.createPod({ namespace, name: "a" });
      const pod = await look(namespace, "a");
      await world.deletePod(namespace, "a");
      const error = await act(pod).then(
        () => undefined,
        (failure: unknown) => failure,
      );
      expect(hasChanged(error), String(error)).toBe(true);
    });
  });
}
