// SPDX-License-Identifier: Apache-2.0
// What the traffic runs in: pods that are in the mesh, outside of it, or come and go.
import { readFile } from "node:fs/promises";
import { iptablesSave } from "../support/node/kernel.ts";
import type { Pod } from "../support/node/pod.ts";

/** What decides whether a pod is in the mesh: `pod` and `namespace` can be changed, and say yes at first. */
export type Place = "mesh" | "outside" | "pod" | "namespace";

/** A node whose pods can be brought into the mesh and out of it. */
export interface ToggleWorld {
  /** Runs a pod; it may not be in the mesh yet. */
  runPod(name: string, place: Place): Promise<Pod>;
  /** Changes what decides. It is done when {@link isSettled} says so. */
  change(pods: readonly Pod[], place: "pod" | "namespace", isInMesh: boolean): void;
  /** Whether the pod is in the mesh, or out of it, for everybody: itself, its ztunnel and its peers. */
  isSettled(pod: Pod, isInMesh: boolean): Promise<boolean>;
  deletePod(pod: Pod): Promise<void>;
}

const inboundHbonePort = 15008;
const tcpListen = "0A";

/** Whether the kernel has everything, or nothing, of what a captured pod has. */
export async function hasCapture(pod: Pod, isInMesh: boolean): Promise<boolean> {
  if ((await hasZtunnel(pod)) !== isInMesh) return false;
  const saves = await Promise.all(([4, 6] as const).map((family) => iptablesSave(pod.netns, family)));
  return saves.every((save) => save.includes("ISTIO") === isInMesh);
}

/** Whether ztunnel listens in the pod; asked often, so without a process. Source: proc(5), /proc/net/tcp6. */
async function hasZtunnel(pod: Pod): Promise<boolean> {
  const port = inboundHbonePort.toString(16).toUpperCase();
  const table = await readFile(`/proc/${pod.pid}/net/tcp6`, "latin1");
  return new RegExp(`^ *\\d+: [0-9A-F]{32}:${port} \\S+ ${tcpListen} `, "m").test(table);
}
