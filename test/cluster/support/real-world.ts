// SPDX-License-Identifier: Apache-2.0
// A real API server as the common suite of test/kube wants to see it, and the objects it works on.
import type { KubeWorld, WorldPod } from "../../kube/behaviours.ts";
import type { KubeAdmin } from "./kube-admin.ts";
import type { PrivateApiServer } from "./private-api-server.ts";

/** The world of the common suite on a real server. */
export async function realWorld(server: PrivateApiServer): Promise<KubeWorld> {
  const { admin, relay } = server;
  const client = await server.client({ limits: { watchOpenMs: 1000, headersMs: 1000 } });
  return {
    client,
    // it comes 2 s before the end. Source: kubernetes apiserver pkg/storage/cacher/cacher.go, nextBookmarkTime
    bookmarkedWatchSeconds: 3,
    createNamespace: (name, labels) => createNamespace(admin, name, labels),
    createPod: (pod) => createPod(admin, pod),
    deletePod: (namespace, name) => admin.delete(`/api/v1/namespaces/${namespace}/pods/${name}`),
    label: async ({ namespace, name }, labels) => {
      const path = namespace === undefined ? name : `${namespace}/pods/${name}`;
      await admin.patch(`/api/v1/namespaces/${path}`, { metadata: { labels } });
    },
    annotationsOf: async (namespace, name) =>
      (await admin.get(`/api/v1/namespaces/${namespace}/pods/${name}`)).metadata.annotations ?? {},
    cut: () => relay.cut(),
    refuse: () => relay.refuse(),
    silence: () => {
      relay.silent = true;
    },
    heal: async () => {
      relay.silent = false;
      await relay.listen();
    },
    forgetHistory: async () => {
      // the API server keeps recent events in memory, whatever etcd forgets
      await server.compact();
      await server.kill();
      await server.restart();
    },
  };
}

/** Creates a namespace. */
export async function createNamespace(
  admin: KubeAdmin,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<void> {
  await admin.create("/api/v1/namespaces", { metadata: { name, labels } });
}

/** Creates a pod that is bound to a node already; returns its UID. */
export async function createPod(admin: KubeAdmin, pod: WorldPod): Promise<string> {
  const { namespace, name, nodeName = "n1", labels = {}, annotations = {} } = pod;
  const created = await admin.create(`/api/v1/namespaces/${namespace}/pods`, {
    metadata: { name, labels, annotations },
    spec: { nodeName, containers: [{ name: "app", image: "app" }] },
  });
  return created.metadata.uid;
}
