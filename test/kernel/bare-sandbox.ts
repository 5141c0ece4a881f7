// SPDX-License-Identifier: Apache-2.0
// A pod's object without an address, and its sandbox without a process of which we were not told: as both are when a runtime's calls begin.
import { randomBytes, randomUUID } from "node:crypto";
import type { CniResult, SandboxIdentity } from "../support/node/cni-runtime.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";

/** A sandbox with its address, and what the plugins before ours have answered. */
export interface BareSandbox {
  readonly sandbox: SandboxIdentity;
  readonly netns: string;
  readonly result: CniResult;
}

let counter = 0;

/** Makes one, and the object unless there is one. @param of an earlier sandbox of the same pod */
export async function makeBareSandbox(
  mesh: MeshNode,
  namespace: string,
  of?: BareSandbox,
): Promise<BareSandbox> {
  counter += 1;
  const { uid = randomUUID(), name = `pod-${counter}` } = of?.sandbox ?? {};
  const sandbox = { id: randomBytes(32).toString("hex"), uid, namespace, name };
  if (of === undefined)
    mesh.api.put("pods", {
      metadata: { uid, namespace, name },
      spec: {
        nodeName: "node-1",
        serviceAccountName: "default",
        containers: [{ name: "app", image: "app" }],
      },
      status: { phase: "Pending" },
    });
  const { cni, network } = mesh.plainPods;
  const netns = await cni.createNetns();
  return { sandbox, netns, result: await cni.setUp(network, sandbox, netns) };
}

/** The plugins before ours take it down, and its namespace goes. */
export async function endBareSandbox(mesh: MeshNode, { sandbox, netns }: BareSandbox): Promise<void> {
  const { cni, network } = mesh.plainPods;
  await cni.tearDown(network, sandbox, netns);
  await cni.removeNetns(netns);
}

/** The same, and the object goes. */
export async function removeBareSandbox(mesh: MeshNode, bare: BareSandbox): Promise<void> {
  await endBareSandbox(mesh, bare);
  mesh.api.delete("pods", bare.sandbox.name, bare.sandbox.namespace);
}
