// SPDX-License-Identifier: Apache-2.0
// The kubelet's part on a test node: pods in the API server follow their sandboxes, as far as an agent can tell.
import type { ApiServer } from "../api-server.ts";
import type { Pod, PodRuntime, PodSpec } from "./pod.ts";

/** Runs pods of one node and writes their objects. */
export class Kubelet {
  readonly #api: ApiServer;
  readonly #runtime: PodRuntime;
  readonly #nodeName: string;

  constructor(options: { api: ApiServer; runtime: PodRuntime; nodeName: string }) {
    this.#api = options.api;
    this.#runtime = options.runtime;
    this.#nodeName = options.nodeName;
  }

  /** Creates a namespace. */
  createNamespace(name: string, labels: Readonly<Record<string, string>> = {}): void {
    this.#api.put("namespaces", { metadata: { name, labels: { ...labels } }, status: { phase: "Active" } });
  }

  /** Sets labels of a namespace; null takes one away. */
  labelNamespace(name: string, labels: Readonly<Record<string, string | null>>): void {
    this.#api.edit("namespaces", { name }, (object) => {
      object.metadata.labels = changed(object.metadata.labels, labels);
    });
  }

  /** Sets labels of a pod; null takes one away. */
  labelPod(pod: Pod, labels: Readonly<Record<string, string | null>>): void {
    this.#api.edit("pods", nameOf(pod.spec), (object) => {
      object.metadata.labels = changed(object.metadata.labels, labels);
    });
  }

  /**
   * Creates a pod that is already scheduled here, runs its sandbox, and reports it as running.
   *
   * @throws PluginError as {@link PodRuntime.runPodSandbox}; the object then stays, pending, as in a real cluster.
   */
  async runPod(spec: PodSpec & { readonly uid?: string }): Promise<Pod> {
    const uid = spec.uid ?? crypto.randomUUID();
    this.#api.put("pods", {
      metadata: {
        name: spec.name,
        namespace: spec.namespace,
        uid,
        labels: { ...spec.labels },
        annotations: { ...spec.annotations },
      },
      spec: {
        nodeName: this.#nodeName,
        serviceAccountName: spec.serviceAccount ?? "default",
        containers: [{ name: "app", image: "app" }],
        ...spec.objectSpec,
      },
      status: { phase: "Pending" },
    });
    const pod = await this.#runtime.runPodSandbox({ ...spec, uid });
    this.#api.edit("pods", nameOf(spec), (object) => {
      object.status = {
        ...object.status,
        phase: "Running",
        podIP: pod.ips[0],
        podIPs: pod.ips.map((ip) => ({ ip })),
      };
    });
    return pod;
  }

  /** Deletes a pod as the kubelet does after its grace period: sandbox first, then the object. */
  async deletePod(pod: Pod): Promise<void> {
    this.terminate(pod);
    await pod.delete();
    this.#api.delete("pods", pod.spec.name, pod.spec.namespace);
  }

  /** Only says that it is to be deleted, which a kubelet hears before it stops the sandbox. */
  terminate(pod: Pod): void {
    this.#api.edit("pods", nameOf(pod.spec), (object) => {
      object.metadata.deletionTimestamp = new Date().toISOString();
    });
  }

  /** The value of an annotation of the pod's object. */
  annotation(pod: Pod, name: string): string | undefined {
    return this.#api.store.get("pods", pod.spec.name, pod.spec.namespace).metadata.annotations?.[name];
  }
}

function nameOf(spec: PodSpec): { name: string; namespace: string } {
  return { name: spec.name, namespace: spec.namespace };
}

function changed(
  labels: Readonly<Record<string, string>> | undefined,
  changes: Readonly<Record<string, string | null>>,
): Record<string, string> {
  const merged = Object.entries({ ...labels, ...changes });
  return Object.fromEntries(merged.filter((entry): entry is [string, string] => entry[1] !== null));
}
