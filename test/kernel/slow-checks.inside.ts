// SPDX-License-Identifier: Apache-2.0
// What slow-checks.test.ts does inside a node: pods make each look at them as slow as they can, others' ADDs are timed.
import { setTimeout as delay } from "node:timers/promises";
import type { PodDetailReport } from "../../src/status/state-report.ts";
import { ask } from "../status/state-client.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const mesh = await MeshNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1", KERNEL_NOTICES: "false" } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
let count = 0;
let evil: Pod | undefined;

const times = <T>(length: number, of: (index: number) => T): T[] =>
  Array.from({ length }, (_, index) => of(index));

/** Ways in which a pod's own state, which it made once, makes each look at it cost more. */
const burdens: Readonly<Record<string, (pod: Pod) => Promise<unknown>>> = {
  addresses: (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: times(
        20_000,
        (i) => `address add 10.${100 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}/32 dev lo`,
      ).join("\n"),
      timeoutMs: 60_000,
    }),
  rules: (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: times(
        20_000,
        (i) => `rule add pref ${1 + (i % 30_000)} from 10.0.${(i >> 8) & 255}.${i & 255} lookup 77`,
      ).join("\n"),
      timeoutMs: 60_000,
    }),
  routes: (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: times(
        20_000,
        (i) => `route add local 11.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 dev lo table 100`,
      ).join("\n"),
      timeoutMs: 60_000,
    }),
  nft: (pod) =>
    pod.exec(["nft", "-f", "-"], {
      stdin: `table ip nat {\n chain evil {\n${"ip saddr 10.1.2.3 counter\n".repeat(100_000)} }\n}\n`,
      timeoutMs: 60_000,
    }),
  legacy: (pod) =>
    pod.exec(["iptables-legacy-restore", "--noflush"], {
      stdin: `*nat\n:EVIL -\n${"-A EVIL -s 10.1.2.3 -j RETURN\n".repeat(100_000)}COMMIT\n`,
      timeoutMs: 60_000,
    }),
};

async function report({ spec }: Pod): Promise<PodDetailReport> {
  const answer = await ask({ socketPath }, `/api/v1/pods/${spec.namespace}/${spec.name}`);
  return answer.json() as unknown as PodDetailReport;
}

/** How long a fresh pod of another tenant takes, all plugins of the chain included, in ms: the median. */
export async function addMs(rounds: number): Promise<number> {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const startMs = performance.now();
    const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `fresh-${++count}` });
    times.push(performance.now() - startMs);
    await mesh.kubelet.deletePod(pod);
  }
  return times.sort((a, b) => a - b)[Math.floor(rounds / 2)] ?? 0;
}

async function metric(): Promise<string> {
  const answer = await fetch("http://127.0.0.1:15014/metrics");
  return (
    (await answer.text()).split("\n").find((line) => line.startsWith("ambient_cni_pods_slow ")) ?? "none"
  );
}

/** What is said of a pod that made itself slow to look at. */
export interface SlowPod {
  readonly state: string;
  readonly slowLookMs: number | null | undefined;
  readonly summary: string;
  readonly metric: string;
  readonly log: readonly string[];
  /** Looks at it in five seconds, and at a pod that is as others. */
  readonly looks: number;
  readonly usualLooks: number;
}

/** Makes a captured pod as slow to look at as it can. @returns what is said of it */
export async function burden(): Promise<SlowPod> {
  const usual = await mesh.kubelet.runPod({ namespace: "mesh", name: "usual" });
  evil = await mesh.kubelet.runPod({ namespace: "mesh", name: "evil" });
  for (const each of Object.values(burdens)) await each(evil);
  await waitFor("the pod to be known as slow", async () => (await metric()) === "ambient_cni_pods_slow 1", {
    timeoutMs: 30_000,
  });
  const [looks, usualLooks] = await Promise.all([countLooks(evil), countLooks(usual)]);
  const { state, slowLookMs, summary, log } = await report(evil);
  return {
    ...{ state, slowLookMs, summary, looks, usualLooks },
    metric: await metric(),
    log: log.map(({ message }) => message),
  };
}

/** By the time of the last one, in what the agent remembers. */
async function countLooks(pod: Pod): Promise<number> {
  const seen = new Set<string>();
  const endMs = performance.now() + 5_000;
  while (performance.now() < endMs) {
    const answer = await ask({ socketPath }, "/api/v1/pods");
    const { pods } = answer.json() as { pods: readonly { uid: string; observed: { at: string } | null }[] };
    const at = pods.find(({ uid }) => uid === pod.uid)?.observed?.at;
    if (at !== undefined) seen.add(at);
    await delay(100);
  }
  return seen.size;
}
