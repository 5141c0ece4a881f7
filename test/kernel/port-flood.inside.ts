// SPDX-License-Identifier: Apache-2.0
// What port-flood.test.ts does inside a node: a pod floods the agent's ports, and others are served meanwhile.
import { readdirSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { halfOpenPorts } from "./port-flood.ts";

/** Of the process, which Node takes up to its hard limit. */
const nofile = { soft: 256, hard: 4096 };
const healthPort = 8000;
const monitoringPort = 15014;

const mesh = await MeshNode.start();
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
const agent = await mesh.startAgent(
  {},
  { wrapper: ["prlimit", `--nofile=${nofile.soft}:${nofile.hard}`, "--"] },
);
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
const attacker = await mesh.plainPods.runPodSandbox({ namespace: "plain", name: "attacker" });
const { first, last } = halfOpenPorts;
const handshake = ["-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK", "--dport", `${first}:${last}`];
await attacker.exec(["iptables-nft", "-A", "INPUT", ...handshake, "-j", "DROP"]);
const nodeAddress = "10.210.0.1";

/** What the agent's process takes. */
export interface Footprint {
  readonly descriptors: number;
  readonly rssMb: number;
  readonly lines: number;
}

/** How the agent does at a moment: the two slowest of ten answers per question, in ms, and a pod's coming and going. */
export interface Service {
  readonly slowMs: Readonly<Record<string, number>>;
  readonly slowestMs: Readonly<Record<string, number>>;
  readonly add: string;
  readonly addMs: number;
  readonly footprint: Footprint;
}

/** What was found before, during and after. */
export interface FloodEffects {
  /** Of open files, of the agent's process. */
  readonly softLimit: number;
  readonly before: Service;
  readonly during: Service;
  readonly after: Footprint;
  readonly peak: Footprint;
  /** Connections that the pod tried. */
  readonly attempts: number;
  /** Of them, those whose handshake the kernel still waits for. */
  readonly halfOpen: number;
}

/** Floods both ports for so long. */
export async function floodPorts(options: {
  perKind: number;
  pauseMs: number;
  holdMs: number;
}): Promise<FloodEffects> {
  const before = await service();
  const module = await attacker.startModule<typeof import("./port-flood.ts")>(
    join(import.meta.dirname, "port-flood.ts"),
  );
  const samples: Footprint[] = [];
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      samples.push(footprint());
      await delay(50);
    }
  })();
  const { holdMs, ...rest } = options;
  await module.call.flood({ host: nodeAddress, ports: [healthPort, monitoringPort], ...rest });
  await delay(holdMs / 2);
  const during = await service();
  await delay(holdMs / 2);
  const halfOpen = await inState("syn-recv");
  const { attempts } = await module.call.tally();
  await module.call.end();
  isOver = true;
  await watching;
  process.kill(module.pid, "SIGKILL");
  const isBack = (): boolean => footprint().descriptors <= before.footprint.descriptors;
  await waitFor("the agent's descriptors to be as before", isBack, { timeoutMs: 15_000 });
  const peak = {
    descriptors: Math.max(...samples.map(({ descriptors }) => descriptors)),
    rssMb: Math.max(...samples.map(({ rssMb }) => rssMb)),
    lines: Math.max(...samples.map(({ lines }) => lines)),
  };
  const limits = readFileSync(`/proc/${agent.pid}/limits`, "utf8");
  const softLimit = Number(/^Max open files +(\d+)/m.exec(limits)?.[1]);
  return { softLimit, before, during, after: footprint(), peak, attempts, halfOpen };
}

async function service(): Promise<Service> {
  const tookMs: Record<string, number[]> = {};
  for (let round = 0; round < 10; round++)
    for (const host of ["127.0.0.1", nodeAddress])
      for (const [port, path] of [
        [healthPort, "/readyz"],
        [monitoringPort, "/metrics"],
      ] as const) {
        const key = `${host}${path}`;
        tookMs[key] = [...(tookMs[key] ?? []), await ask(host, port, path)].sort((a, b) => b - a);
      }
  const nth = (index: number) =>
    Object.fromEntries(Object.entries(tookMs).map(([key, all]) => [key, all[index] ?? Number.NaN]));
  const beginMs = performance.now();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `pod-${Math.round(beginMs)}` });
  const addMs = Math.round(performance.now() - beginMs);
  const add = await state(pod);
  await mesh.kubelet.deletePod(pod);
  return { slowMs: nth(1), slowestMs: nth(0), add, addMs, footprint: footprint() };
}

async function state(pod: Pod): Promise<string> {
  const { stdout } = await pod.exec(["iptables-nft", "-t", "nat", "-S"]);
  return stdout.includes("ISTIO_OUTPUT") ? "captured" : "not captured";
}

/** @returns ms until the whole answer; Infinity when it is none, or no success */
function ask(host: string, port: number, path: string): Promise<number> {
  const beginMs = performance.now();
  const { promise, resolve } = Promise.withResolvers<number>();
  const fail = (): void => resolve(Number.POSITIVE_INFINITY);
  const asked = get({ host, port, path, agent: false, timeout: 5_000 }, (answer) => {
    answer.resume();
    answer.once("end", () =>
      answer.statusCode === 200 ? resolve(Math.round(performance.now() - beginMs)) : fail(),
    );
  });
  asked.once("error", fail);
  asked.once("timeout", () => asked.destroy(new Error("no answer")));
  return promise;
}

function footprint(): Footprint {
  const status = readFileSync(`/proc/${agent.pid}/status`, "utf8");
  const rssKb = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]);
  return {
    descriptors: readdirSync(`/proc/${agent.pid}/fd`).length,
    rssMb: Math.round(rssKb / 1024),
    lines: agent.lines.length,
  };
}

async function inState(name: string): Promise<number> {
  const { stdout } = await run(["ss", "-Htn", "state", name]);
  return stdout.split("\n").filter((line) => line !== "").length;
}
