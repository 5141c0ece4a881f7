// SPDX-License-Identifier: Apache-2.0
// src/kube against a real etcd and kube-apiserver: the common suite, the agent's role, its token, and restarts of the server.
import { writeFile } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { AnnotationWriter } from "../../../src/kube/annotation-writer.ts";
import { type ApiClient, podPath } from "../../../src/kube/api-client.ts";
import type { ApiError } from "../../../src/kube/api-error.ts";
import { EventRecorder } from "../../../src/kube/event-recorder.ts";
import { NodeState } from "../../../src/kube/node-state.ts";
import { labelPod } from "../../../src/repair/repair-controller.ts";
import { type SuspectPod, toSuspectPod } from "../../../src/repair/suspect-pod.ts";
import { describeKubeBehaviours, type KubeWorld } from "../../kube/behaviours.ts";
import { recordingLogger } from "../../kube/kube-fixture.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { grantAgentRole, requestToken } from "../support/agent-role.ts";
import { clusterMeans, saySkipped } from "../support/cluster-means.ts";
import { PrivateApiServer } from "../support/private-api-server.ts";
import { createNamespace, createPod, realWorld } from "../support/real-world.ts";

const means = await clusterMeans({ apiServerOnly: true });
saySkipped("test/cluster/api-server", means);
let server: PrivateApiServer;
const patience = { timeoutMs: 20_000 };

describe.skipIf(means.lacks !== undefined)("a real API server", () => {
  const cleanups: (() => unknown)[] = [];
  beforeAll(async () => {
    const startMs = performance.now();
    server = await PrivateApiServer.start(means.binDir ?? "");
    const ms = Math.round(performance.now() - startMs);
    process.stderr.write(`etcd and kube-apiserver ready in ${ms} ms\n`);
  });
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
  });

  describe("and the suite it shares with the stub:", () => {
    describeKubeBehaviours((): Promise<KubeWorld> => realWorld(server));
  });

  describe("that is killed and started again", () => {
    test("costs the copies nothing: every change is told, nothing twice", async () => {
      const { admin } = server;
      await createNamespace(admin, "restart", { team: "a" });
      const staying = await createPod(admin, { namespace: "restart", name: "staying" });
      await createPod(admin, { namespace: "restart", name: "leaving" });
      const state = new NodeState({
        client: await server.client(),
        nodeName: "n1",
        log: recordingLogger(),
        backoff: { baseMs: 50, capMs: 300 },
      });
      cleanups.push(() => state.stop());
      state.start();
      await state.waitForSync();
      await waitFor("both watches are open", () => state.isFresh(), patience);
      const told: string[] = [];
      state.onPodChange((change) => {
        if (change.current?.deletionTimestamp === true) return;
        const { namespace, name } = change.current ?? change.previous;
        if (namespace === "restart") told.push(`${change.type} ${name}`);
      });
      state.onNamespaceChange(({ current }) => {
        if (current?.name === "restart") told.push(`namespace ${current.labels.team}`);
      });
      await server.kill();
      const isNoticed = () => !state.pods.isFresh(60_000) && !state.namespaces.isFresh(60_000);
      await waitFor("the break of both watches is noticed", isNoticed, patience);
      await expect(state.findPod({ namespace: "restart", name: "staying" })).rejects.toMatchObject({
        name: "ApiError",
      });
      await server.restart();
      await admin.delete("/api/v1/namespaces/restart/pods/leaving");
      await createPod(admin, { namespace: "restart", name: "new" });
      await admin.patch("/api/v1/namespaces/restart", { metadata: { labels: { team: "b" } } });
      await waitFor("all is told", () => told.length === 3 && state.isFresh(), patience);
      expect(told.sort()).toEqual(["delete leaving", "namespace b", "set new"]);
      expect(state.pod(staying)?.name).toBe("staying");
    });
  });

  describe("with the agent's own role", () => {
    let client: ApiClient;
    beforeAll(async () => {
      await grantAgentRole(server.admin, "kube-system");
      const tokenFile = await server.keep("agent-token", await requestToken(server.admin, "kube-system"));
      client = await server.client({ tokenFile });
      await createNamespace(server.admin, "role");
    });

    test("lists, watches, writes the annotation and Events", async () => {
      const uid = await createPod(server.admin, { namespace: "role", name: "a" });
      const pod = { uid, namespace: "role", name: "a" };
      const logger = recordingLogger();
      const state = new NodeState({ client, nodeName: "n1", log: logger });
      cleanups.push(() => state.stop());
      state.start();
      await state.waitForSync();
      await waitFor("both watches are open", () => state.isFresh(), patience);
      const writer = new AnnotationWriter({ client, lookup: (key) => state.pod(key), log: logger });
      writer.set(pod, "enabled");
      await writer.idle();
      expect(writer.counts).toMatchObject({ written: 1, retried: 0 });
      const results: string[] = [];
      const onresult = (result: string) => void results.push(result);
      const recorder = new EventRecorder({ client, nodeName: "n1", log: logger, repeatMs: 0, onresult });
      recorder.record(pod, { reason: "AmbientNotCaptured", message: "for a test" });
      recorder.record(pod, { reason: "AmbientNotCaptured", message: "for a test" });
      await recorder.idle();
      expect(logger.lines.filter(({ message }) => message.includes("Event"))).toEqual([]);
      expect(results).toEqual(["written", "repeated"]);
      const events = await server.admin.list("/api/v1/namespaces/role/events");
      expect(events).toMatchObject([{ reason: "AmbientNotCaptured", count: 2, involvedObject: { uid } }]);
    });

    test("may ask whether the server is ready, with which a refusal is weighed", async () => {
      expect(await client.isReady()).toBe(true);
    });

    test.each<[string, (client: ApiClient) => Promise<unknown>]>([
      ["change a pod", (c) => c.mergePatch(podPath("role", "a"), { metadata: { labels: { x: "1" } } })],
      ["create a pod", (c) => c.create("/api/v1/namespaces/role/pods", { metadata: { name: "x" } })],
      ["change a namespace", (c) => c.mergePatch("/api/v1/namespaces/role", { metadata: { labels: {} } })],
      ["delete a pod", (c) => c.delete(podPath("role", "a"), { uid: "x", resourceVersion: "1" })],
      ["read secrets", (c) => c.list("/api/v1/secrets", {}, { convert: () => undefined })],
      ["read nodes", (c) => c.list("/api/v1/nodes", {}, { convert: () => undefined })],
    ])("may not %s", async (_, attempt) => {
      await expect(attempt(client)).rejects.toMatchObject({ status: 403, isRefused: true });
    });

    test("labels a broken pod, and needs no right more for that", async () => {
      await createPod(server.admin, { namespace: "role", name: "broken" });
      const label = { labelKey: "cni.istio.io/uninitialized", labelValue: "true" };
      const sought = { nodeName: "n1", sidecarAnnotation: "", initContainerName: "", ...label };
      const pod = toSuspectPod(await client.getPod("role", "broken"), sought) as SuspectPod;
      await labelPod(pod, { client, label, signal: AbortSignal.timeout(10_000) });
      const { metadata } = await server.admin.get("/api/v1/namespaces/role/pods/broken");
      expect(metadata.labels).toEqual({ "cni.istio.io/uninitialized": "true" });
    });

    test("goes on with its new token when the old one ends, without an error", async () => {
      const { admin } = server;
      const secrets = "/api/v1/namespaces/kube-system/secrets";
      const secret = await admin.create(secrets, { metadata: { name: "binding" } });
      const bound = { kind: "Secret", apiVersion: "v1", name: "binding", uid: secret.metadata.uid };
      const old = await requestToken(admin, "kube-system", bound);
      const tokenFile = await server.keep("rotated-token", old);
      const rotated = await server.client({ tokenFile });
      await rotated.getNamespace("role");
      await admin.delete(`${secrets}/binding`);
      // the server remembers a token it has accepted for 10 s
      await waitFor(
        "the old token to be refused",
        async () => (await admin.statusWithToken("/api/v1/namespaces/role", old)) === 401,
        { timeoutMs: 30_000, intervalMs: 200 },
      );
      await expect(rotated.getNamespace("role")).rejects.toMatchObject({ status: 401, isRefused: true });
      await writeFile(tokenFile, await requestToken(admin, "kube-system"));
      expect(await rotated.getNamespace("role")).toMatchObject({ metadata: { name: "role" } });
    });
  });

  test("refuses a patch that names another pod's UID in a way the annotation writer knows", async () => {
    await createNamespace(server.admin, "identity");
    await createPod(server.admin, { namespace: "identity", name: "a" });
    const patch = {
      metadata: { uid: "someone-else", annotations: { "ambient.istio.io/redirection": "enabled" } },
    };
    const refused = (await server.client()).mergePatch(podPath("identity", "a", "status"), patch);
    const error = await refused.then(
      () => undefined,
      (failure: ApiError) => failure,
    );
    // Kubernetes 1.20 finds fault with the field, later ones check the UID first
    if (error?.status === 422) expect(error.fields).toContain("metadata.uid");
    else expect(error).toMatchObject({ status: 409, message: expect.stringMatching(/precondition.*uid/i) });
  });

  test.each([
    "/apis/apps/v1/namespaces/kube-system/daemonsets/none",
    "/apis/apps/v1/namespaces/none/daemonsets/none",
    "/api/v1/namespaces/none",
    "/api/v1/namespaces/none/pods/none",
  ])("says in its own words that there is no %s", async (path) => {
    await expect((await server.client()).get(path)).rejects.toMatchObject({ status: 404, isNotFound: true });
  });

  test("gives a list of more than one page whole", async () => {
    await createNamespace(server.admin, "pages");
    const names = Array.from({ length: 510 }, (_, index) => `pod-${index}`);
    for (let from = 0; from < names.length; from += 30) {
      const some = names.slice(from, from + 30);
      await Promise.all(
        some.map((name) => createPod(server.admin, { namespace: "pages", name, nodeName: "n3" })),
      );
    }
    const { items } = await (await server.client()).list(
      "/api/v1/namespaces/pages/pods",
      {},
      { convert: (raw) => (raw as { metadata: { name: string } }).metadata.name },
    );
    expect(items.sort()).toEqual(names.sort());
  });
});
