// SPDX-License-Identifier: Apache-2.0
// The world of a running agent: labels are changed in the API server, the rest is the agent's.
import type { KubeObject } from "../support/api-server/objects.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { type MeshPod, MeshView, tellStandIn } from "./mesh-view.ts";
import { hasCapture, type Place, type ToggleWorld } from "./toggle-world.ts";

const modeLabel = "istio.io/dataplane-mode";
const statusAnnotation = "ambient.istio.io/redirection";
const namespaces = {
  mesh: "traffic-mesh",
  outside: "traffic-outside",
  pod: "traffic-by-pod",
  namespace: "traffic-by-namespace",
};

/** Pods of a {@link MeshNode} with its agent; peers learn from the annotation who is in the mesh. */
export class AgentWorld implements ToggleWorld {
  readonly #mesh: MeshNode;
  readonly #view: MeshView;

  /** @param push tells ztunnel; default the stand-in of the node */
  constructor(
    mesh: MeshNode,
    push = (pods: readonly MeshPod[]): Promise<void> => tellStandIn(mesh.ztunnel, pods),
  ) {
    this.#mesh = mesh;
    this.#view = new MeshView({ read: () => this.#read(), push });
    for (const name of Object.values(namespaces)) mesh.kubelet.createNamespace(name);
    for (const name of [namespaces.mesh, namespaces.namespace])
      mesh.kubelet.labelNamespace(name, { [modeLabel]: "ambient" });
    mesh.api.store.subscribe(({ resource, object, previous }) => {
      if (resource === "pods" && (previous === undefined || isTold(previous) !== isTold(object)))
        this.#view.changed();
    });
  }

  runPod(name: string, place: Place): Promise<Pod> {
    const labels = place === "pod" ? { [modeLabel]: "ambient" } : {};
    return this.#mesh.kubelet.runPod({ namespace: namespaces[place], name, labels });
  }

  change(pods: readonly Pod[], place: "pod" | "namespace", isInMesh: boolean): void {
    const labels = { [modeLabel]: isInMesh ? "ambient" : null };
    const { kubelet } = this.#mesh;
    if (place === "namespace") kubelet.labelNamespace(namespaces.namespace, labels);
    else for (const pod of pods) kubelet.labelPod(pod, labels);
  }

  async isSettled(pod: Pod, isInMesh: boolean): Promise<boolean> {
    const status = this.#mesh.kubelet.annotation(pod, statusAnnotation);
    if ((status === "enabled") !== isInMesh) return false;
    return (await hasCapture(pod, isInMesh)) && (await this.#view.isSettled());
  }

  deletePod(pod: Pod): Promise<void> {
    return this.#mesh.kubelet.deletePod(pod);
  }

  #read(): MeshPod[] {
    return this.#mesh.api.store.list("pods").flatMap((object) => {
      const { uid = "", name, namespace = "", annotations } = object.metadata;
      const addresses = podIps(object);
      if (addresses.length === 0) return [];
      const isInMesh = annotations?.[statusAnnotation] === "enabled";
      return [{ uid, name, namespace, serviceAccount: "default", addresses, isInMesh }];
    });
  }
}

/** What of a pod is told to ztunnels. */
function isTold(object: KubeObject): string {
  return JSON.stringify([object.metadata.annotations?.[statusAnnotation], podIps(object)]);
}

function podIps({ status }: KubeObject): string[] {
  const { podIPs = [] } = (status ?? {}) as { podIPs?: readonly { readonly ip: string }[] };
  return podIPs.map(({ ip }) => ip);
}
