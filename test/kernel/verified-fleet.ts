// SPDX-License-Identifier: Apache-2.0
// Many cheap pods: a namespace with one address, a pause process in the pod's cgroup and an object, without a CNI chain.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { joinCgroup } from "../support/node/cgroup.ts";
import { requireNode } from "../support/node/inside.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import { cleanEnv } from "../support/node/run.ts";

/** A pod that runs but was never attached by a chain: an agent finds it in /proc. */
export interface FleetPod {
  readonly uid: string;
  readonly name: string;
  readonly ip: string;
  readonly pid: number;
  /** /proc/PID/ns/net */
  readonly netns: string;
}

const podsAtOnce = 4;

/** Starts pods of one namespace and reports them as running; they end with the node. */
export async function startFleet(mesh: MeshNode, namespace: string, count: number): Promise<FleetPod[]> {
  const pods: FleetPod[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) pods.push(await startPod(mesh, namespace, next++));
  };
  await Promise.all(Array.from({ length: podsAtOnce }, worker));
  return pods;
}

async function startPod(mesh: MeshNode, namespace: string, index: number): Promise<FleetPod> {
  const name = `fleet-${index}`;
  const uid = crypto.randomUUID();
  const ip = `10.99.${index >> 8}.${index & 0xff}`;
  const script = `ip link set lo up && ip addr add ${ip}/32 dev lo && echo ready && exec sleep infinity`;
  const pause = spawn("unshare", ["--net", "sh", "-c", script], {
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  await firstOutput(pause);
  const pid = pause.pid as number;
  const folder = join(requireNode().cgroupFolder, "kubepods/burstable", `pod${uid}`, "a".repeat(64));
  await joinCgroup(folder, pid);
  mesh.api.put("pods", {
    metadata: { name, namespace, uid },
    spec: { nodeName: "node-1", serviceAccountName: "default", containers: [{ name: "app", image: "app" }] },
    status: { phase: "Running", podIP: ip, podIPs: [{ ip }] },
  });
  return { uid, name, ip, pid, netns: `/proc/${pid}/ns/net` };
}

async function firstOutput(child: ChildProcess): Promise<void> {
  if (child.stdout === null) throw new TypeError("the child has no stdout");
  const ended = once(child, "exit").then(() => {
    throw new Error("Cannot start a pod: its process ended");
  });
  ended.catch(() => {});
  await Promise.race([once(child.stdout, "data"), ended]);
}
