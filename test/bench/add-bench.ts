// SPDX-License-Identifier: Apache-2.0
// What our plugin adds to the start of a pod: in the mesh by ztunnel or by a sidecar, outside of it, and a chain without it.
import type { CniCall } from "../support/node/cni-runtime.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import { p50, percentile, timed } from "./samples.ts";

/** Milliseconds. `add…` is our plugin alone as the runtime waits for it, `chain…` everything from namespace to pause process. */
export interface AddCosts {
  readonly addMesh: number;
  readonly addMeshP99: number;
  readonly addSidecar: number;
  readonly addOther: number;
  readonly chainPlain: number;
  readonly chainMesh: number;
  readonly chainOther: number;
}

/** A proxy of both families that answers DNS as well: most of what a sidecar can ask for. */
const sidecar = injectedPod({ env: { ISTIO_DUAL_STACK: "true", ISTIO_META_DNS_CAPTURE: "true" } });
const kinds = ["inside", "sidecar", "outside"] as const;

/** Starts and deletes the kinds of pods in turn. @param calls grows with every plugin call of the node. */
export async function measureAdd(
  mesh: MeshNode,
  options: { samples: number; calls: CniCall[] },
): Promise<AddCosts> {
  const { samples, calls } = options;
  mesh.kubelet.createNamespace("inside", { "istio.io/dataplane-mode": "ambient" });
  mesh.kubelet.createNamespace("sidecar");
  mesh.kubelet.createNamespace("outside");
  const series = {
    inside: [] as number[],
    sidecar: [] as number[],
    outside: [] as number[],
    plain: [] as number[],
  };
  const added = { inside: [] as number[], sidecar: [] as number[], outside: [] as number[] };
  // the first pod makes the bridge, and wakes up whatever sleeps
  for (let i = -1; i < samples; i++) {
    for (const namespace of kinds) {
      calls.length = 0;
      const start = performance.now();
      const injected = namespace === "sidecar" ? sidecar : {};
      const pod = await mesh.kubelet.runPod({ namespace, name: `${namespace}-${i}`, ...injected });
      const ms = performance.now() - start;
      const captured = (await iptablesSave(pod.netns, 4, { variant: "nft" })).includes("ISTIO_OUTPUT");
      if (captured !== (namespace !== "outside"))
        throw new Error(`A pod of "${namespace}" has captured=${captured}`);
      const own = calls.find((call) => call.type === "ambient-cni" && call.verb === "ADD");
      if (own === undefined) throw new Error("our plugin was not called");
      if (i >= 0) {
        series[namespace].push(ms);
        added[namespace].push(own.ms);
      }
    }
    const ms = await timed(() => mesh.plainPods.runPodSandbox({ namespace: "outside", name: `plain-${i}` }));
    if (i >= 0) series.plain.push(ms);
    for (const pod of mesh.pods.pods) await mesh.kubelet.deletePod(pod);
    await mesh.plainPods.deleteAll();
  }
  return {
    addMesh: p50(added.inside),
    addMeshP99: percentile(added.inside, 99),
    addSidecar: p50(added.sidecar),
    addOther: p50(added.outside),
    chainPlain: p50(series.plain),
    chainMesh: p50(series.inside),
    chainOther: p50(series.outside),
  };
}
