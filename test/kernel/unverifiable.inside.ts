// SPDX-License-Identifier: Apache-2.0
// What unverifiable.test.ts does inside a node: one pod attacks its own rules, the kernel says what becomes of the others.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Command } from "../../src/cli/command.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import type { PodDetailReport } from "../../src/status/state-report.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { ask } from "../status/state-client.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { type Pod, PodRuntime } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { attacks } from "./rule-attacks.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const commands: Readonly<Record<string, Command>> = { verify: verifyCommand, status: statusCommand };

const mesh = await MeshNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
const server = await mesh.plainPods.runPodSandbox({ namespace: "plain", name: "server" });
const serverApp = await server.startApp();
await serverApp.call.serveHttp(8080);
const victim = await runPod("victim");
let count = 0;

async function runPod(name: string) {
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name });
  return { pod, app: await pod.startApp() };
}

type Running = Awaited<ReturnType<typeof runPod>>;

/** Whether a connection of the pod's goes through ztunnel, by what the other end sees of it. */
async function isCaptured({ app }: Running): Promise<boolean> {
  const { peer, own } = await app.call.get({ host: server.ip4, port: 8080, body: "x", timeoutMs: 3_000 });
  return peer.port !== own.port;
}

async function report({ pod }: Pick<Running, "pod">): Promise<PodDetailReport> {
  const answer = await ask({ socketPath }, `/api/v1/pods/mesh/${pod.spec.name}`);
  return answer.json() as unknown as PodDetailReport;
}

/** How long a fresh pod takes, all plugins of the chain included. */
async function timeAdd(): Promise<number> {
  const startMs = performance.now();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `fresh-${++count}` });
  const ms = performance.now() - startMs;
  await mesh.kubelet.deletePod(pod);
  return ms;
}

async function medianAdd(rounds: number): Promise<number> {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) times.push(await timeAdd());
  return times.sort((a, b) => a - b)[Math.floor(rounds / 2)] ?? 0;
}

/** ADD of a pod with nothing else going on, in ms. */
export async function quietAdd(): Promise<number> {
  await timeAdd();
  return await medianAdd(5);
}

function events(pod: Pod): string[] {
  return mesh.api.store.list("events").flatMap((event) => {
    const { reason, message, involvedObject } = event as unknown as Record<string, string> & {
      readonly involvedObject: { readonly uid: string };
    };
    return involvedObject.uid === pod.uid ? [`${reason}: ${message}`] : [];
  });
}

/** What came of an attack. */
export interface AttackOutcome {
  /** States in which the attacker's pod was seen while it went on, as they came. */
  readonly states: readonly string[];
  readonly annotation: string | null | undefined;
  readonly events: readonly string[];
  /** Exit code of `verify` at the attack's end. */
  readonly verifyCode: number;
  /** What `status` and `verify` print, and the Events, have characters that change a terminal. */
  readonly hasControls: boolean;
  readonly victim: { readonly isMended: boolean; readonly isCaptured: boolean; readonly state: string };
  /** Median of three, in ms. */
  readonly addMs: number;
  /** From the attack's end until the attacker's pod is enrolled and its traffic goes through ztunnel again, in ms. */
  readonly endedMs: number;
  /** Changes of state of the attacker's pod, oldest first. */
  readonly transitions: readonly string[];
  /** What the agent's log said of the attacker's pod. */
  readonly log: readonly string[];
}

/** Attacks from a pod of its own for some seconds, hurts the victim meanwhile, and ends. */
export async function attack(name: string): Promise<AttackOutcome> {
  const evil = await runPod(`evil-${++count}`);
  await waitFor("the attacker's pod to be captured", () => isCaptured(evil));
  const states = new Set<string>();
  const attacked = await (attacks[name] as NonNullable<(typeof attacks)[string]>)(evil.pod);
  const look = setInterval(() => {
    void report(evil).then(
      ({ state }) => states.add(state),
      () => {},
    );
  }, 50);
  try {
    await victim.pod.exec(["nft", "flush", "chain", "ip", "nat", "ISTIO_OUTPUT"]);
    const isMended = await waitFor("the victim to be mended", () => isCaptured(victim), {
      timeoutMs: 20_000,
      intervalMs: 50,
    }).catch(() => false);
    const addMs = await medianAdd(3);
    // its own look comes every second
    await delay(3_000);
    const verified = await command("verify", []);
    const status = await command("status", []);
    const seen = await report(evil);
    const told = events(evil.pod);
    states.add(seen.state);
    const outcome = {
      states: [...states],
      annotation: seen.annotation,
      events: told,
      verifyCode: verified.code,
      hasControls: hasControls([status.out, verified.out, ...told].join("\n")),
      victim: { isMended, isCaptured: await isCaptured(victim), state: (await report(victim)).state },
      addMs,
    };
    const endMs = performance.now();
    await attacked.end();
    await waitFor("the attack to leave no trace", () => isWell(evil), { timeoutMs: 60_000, intervalMs: 100 });
    const endedMs = performance.now() - endMs;
    const { transitions, log } = await report(evil);
    return {
      ...outcome,
      endedMs,
      transitions: transitions.map(({ from, to }) => `${from} -> ${to}`),
      log: log.map(({ message }) => message),
    };
  } finally {
    clearInterval(look);
    await attacked.end().catch(() => {});
    await mesh.kubelet.deletePod(evil.pod);
  }
}

async function isWell(evil: Running): Promise<boolean> {
  const { state, lastError } = await report(evil);
  return state === "enrolled" && lastError === null && (await isCaptured(evil));
}

async function command(name: string, args: readonly string[]): Promise<{ code: number; out: string }> {
  const io = capturedIo(commandEnv);
  const code = await (commands[name] as Command).run(args, io);
  return { code, out: io.out() + io.err() };
}

function hasControls(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return /[\u0000-\u0009\u000b-\u001f\u007f]/.test(text);
}

/** A plugin before ours in whose namespaces a base chain hangs nowhere. */
const spoiler = `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] && nsenter --net="$CNI_NETNS" nft 'add table ip nat; add chain ip nat OUTPUT' >/dev/null
exec python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin).get("prevResult", {})))'
`;

/** A fresh pod whose rules cannot be verified. @returns why its ADD failed; "" when it did not */
export async function addOfUnverifiable(): Promise<string> {
  const folder = "/run/node/spoiler";
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "spoiler"), spoiler, { mode: 0o755 });
  const { network } = mesh.pods;
  const ours = network.plugins.at(-1);
  const plugins = [
    ...network.plugins.slice(0, -1),
    { type: "spoiler" },
    ...(ours === undefined ? [] : [ours]),
  ];
  const kubelet = new Kubelet({
    api: mesh.api,
    runtime: new PodRuntime({
      cni: new CniRuntime({ binDirs: ["/usr/lib/cni", PLUGIN_DIR, folder] }),
      network: { ...network, plugins },
      cgroupFolder: mesh.node.cgroupFolder,
    }),
    nodeName: "node-1",
  });
  try {
    await kubelet.runPod({ namespace: "mesh", name: "spoilt" });
    return "";
  } catch (error) {
    return (error as Error).message;
  } finally {
    mesh.api.delete("pods", "spoilt", "mesh");
  }
}
