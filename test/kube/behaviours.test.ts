// SPDX-License-Identifier: Apache-2.0
// The common suite against the stub API server; test/cluster/api-server runs it against the real one.
import { randomUUID } from "node:crypto";
import { afterAll } from "vitest";
import type { KubeObject } from "../support/api-server/objects.ts";
import { describeKubeBehaviours, type KubeWorld } from "./behaviours.ts";
import { type KubeFixture, startKube } from "./kube-fixture.ts";

let kube: KubeFixture | undefined;
afterAll(async () => {
  await kube?.[Symbol.asyncDispose]();
});

describeKubeBehaviours(async (): Promise<KubeWorld> => {
  kube = await startKube({ bookmarkMs: 300, limits: { watchOpenMs: 1000, headersMs: 1000 } });
  const { server, client } = kube;
  let refusing = false;
  return {
    client,
    bookmarkedWatchSeconds: 1,
    createNamespace: async (name, labels = {}) => {
      server.put("namespaces", { metadata: { name, labels }, spec: { finalizers: ["kubernetes"] } });
    },
    createPod: async ({ namespace, name, nodeName = "n1", labels = {}, annotations = {} }) => {
      const uid = randomUUID();
      const metadata = { name, namespace, uid, labels, annotations };
      server.put("pods", { metadata, spec: { nodeName }, status: { phase: "Pending" } });
      return uid;
    },
    deletePod: async (namespace, name) => server.delete("pods", name, namespace),
    label: async ({ namespace, name }, labels) => {
      const change = (object: KubeObject) => {
        object.metadata.labels = { ...object.metadata.labels, ...labels };
      };
      if (namespace === undefined) server.edit("namespaces", { name }, change);
      else server.edit("pods", { name, namespace }, change);
    },
    annotationsOf: async (namespace, name) =>
      server.store.get("pods", name, namespace).metadata.annotations ?? {},
    cut: () => server.dropWatches(),
    refuse: async () => {
      refusing = true;
      await server.refuse();
    },
    silence: () => {
      server.faults.hang = true;
    },
    heal: async () => {
      server.faults.hang = false;
      if (refusing) await server.listenAgain();
      refusing = false;
    },
    forgetHistory: async () => server.store.compact(),
  };
});
