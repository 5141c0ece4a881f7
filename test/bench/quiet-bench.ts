// SPDX-License-Identifier: Apache-2.0
// What an agent costs while nothing happens, and how soon it sees that something did.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { iptablesSave } from "../support/node/kernel.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { forEachLimited, p50, percentile } from "./samples.ts";

/** Of a node whose pods are captured and left alone. */
export interface QuietCosts {
  /** Seconds of processor time in a minute: of the agent, and of a Node that only listens to the same namespaces. */
  readonly idleCpuSeconds: number;
  readonly idleFloorSeconds: number;
  /** Of the agent then, in bytes: resident, all of it counted as its own (the tests' Nodes share their program with it), and anonymous. */
  readonly pssBytes: number;
  readonly anonymousBytes: number;
  /** From the end of what somebody did to a pod's rules until they were right again, in ms. */
  readonly driftP50: number;
  readonly driftP99: number;
}

const NAMESPACE = "quiet";
/** What comes after a start: the last look without a reason, what V8 compiles, and the two times (at 100 and at 200 s) that it tidies up. */
const SETTLE_MS = 240_000;
/** As long as the clock takes to come to each pod once, more or less. */
const IDLE_MS = 300_000;
const DRIFTED_PODS = 20;
/** A pod that is changed more often than that is looked at less often. */
const DRIFT_PAUSE_MS = 2_000;

/** Starts the pods, leaves them alone, breaks some of them again and again, and deletes them. */
export async function measureQuiet(
  mesh: MeshNode,
  { pods: count, drifts, say }: { pods: number; drifts: number; say: (line: string) => void },
): Promise<QuietCosts> {
  mesh.kubelet.createNamespace(NAMESPACE, { "istio.io/dataplane-mode": "ambient" });
  const pods: Pod[] = [];
  await forEachLimited(
    Array.from({ length: count }, (_, i) => `quiet-${i}`),
    3,
    async (name) => pods.push(await mesh.kubelet.runPod({ namespace: NAMESPACE, name })),
  );
  say(`${count} captured pods, left alone for ${(SETTLE_MS + IDLE_MS) / 1000} s`);
  const floorPath = join(import.meta.dirname, "idle-floor.ts");
  const floor = new ManagedProcess([process.execPath, floorPath, ...pods.map(({ netns }) => netns)], {
    name: "floor",
  });
  await floor.untilLine("to listen", ({ text }) => text === "listening");
  await delay(SETTLE_MS);
  const before = [cpuSeconds(mesh.agent.pid), cpuSeconds(floor.pid)] as const;
  await delay(IDLE_MS);
  const perMinute = (pid: number, from: number) => ((cpuSeconds(pid) - from) * 60_000) / IDLE_MS;
  const idleCpuSeconds = perMinute(mesh.agent.pid, before[0]);
  const idleFloorSeconds = perMinute(floor.pid, before[1]);
  await floor.kill();
  say(
    `idle: ${idleCpuSeconds.toFixed(3)} s a minute, ${idleFloorSeconds.toFixed(3)} s without the agent's work`,
  );
  const pssBytes = memoryOf(mesh.agent.pid, "Rss");
  const anonymousBytes = memoryOf(mesh.agent.pid, "Anonymous");
  const took = await breakOften(pods.slice(0, DRIFTED_PODS), drifts);
  say(`drift: mended after ${p50(took).toFixed()} ms, 99 of 100 within ${percentile(took, 99).toFixed()} ms`);
  for (const pod of pods) await mesh.kubelet.deletePod(pod);
  const [driftP50, driftP99] = [p50(took), percentile(took, 99)];
  return { idleCpuSeconds, idleFloorSeconds, pssBytes, anonymousBytes, driftP50, driftP99 };
}

async function breakOften(pods: readonly Pod[], times: number): Promise<number[]> {
  const took: number[] = [];
  const rounds = Array.from({ length: Math.ceil(times / pods.length) });
  const each = async (pod: Pod): Promise<void> => {
    for (const _ of rounds) {
      await pod.exec(["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
      const startMs = performance.now();
      const isRight = async () =>
        (await iptablesSave(pod.netns, 4, { variant: "nft" })).includes("--to-ports 15001");
      await waitFor("a pod to be right again", isRight, { timeoutMs: 60_000, intervalMs: 20 });
      took.push(performance.now() - startMs);
      await delay(DRIFT_PAUSE_MS);
    }
  };
  // each in its own time: few of them at the same
  await Promise.all(
    pods.map(async (pod, i) => {
      await delay((i * DRIFT_PAUSE_MS) / pods.length);
      await each(pod);
    }),
  );
  return took;
}

/** Of all threads that live, to the nanosecond. Source: linux Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat */
function cpuSeconds(pid: number): number {
  const folder = `/proc/${pid}/task`;
  return readdirSync(folder).reduce((sum, thread) => {
    const [ns] = readFileSync(join(folder, thread, "schedstat"), "utf8").split(" ");
    return sum + Number(ns) / 1e9;
  }, 0);
}

/** In bytes. Source: linux Documentation/filesystems/proc.rst, smaps_rollup */
function memoryOf(pid: number, field: "Rss" | "Anonymous"): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const [, kilobytes] = new RegExp(`^${field}: +(\\d+) kB$`, "m").exec(text) ?? [];
  if (kilobytes === undefined) throw new Error(`Cannot measure memory: the kernel does not say ${field}`);
  return Number(kilobytes) * 1024;
}
