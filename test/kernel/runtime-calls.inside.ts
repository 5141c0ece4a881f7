// SPDX-License-Identifier: Apache-2.0
// What runtime-calls.test.ts does inside a node: calls of runtimes and meta plugins, read from data, are played against the launcher.
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import type { CniResult } from "../support/node/cni-runtime.ts";
import { ambientPlugin } from "../support/node/conflist.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type BareSandbox, makeBareSandbox, removeBareSandbox } from "./bare-sandbox.ts";
import { type AgentStep, argsOf, type CallStep, type Play, plays } from "./runtime-calls.ts";

const agentWaitSeconds = 3;
/** As a DaemonSet's agent writes it: such an entry names who starts without the agent. */
const entry = ambientPlugin({ agentWaitSeconds, exempt: ["istio-system/ambient-cni-node-"] });

const mesh = await MeshNode.start({ plugin: { agentWaitSeconds } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 50 });
await mesh.ztunnel.waitForReady();

/** Plays it to its end. @throws Error naming the step that did not go as the data has it */
export async function play(name: string, cniVersion: string): Promise<void> {
  const found = plays.find((each) => each.name === name);
  assert.ok(found !== undefined, `no play is called "${name}"`);
  // one that failed may have ended without it
  if (!mesh.agent.running) await changeAgent({ agent: "started" });
  const players = new Map<string, BareSandbox>();
  try {
    for (const [key, namespace] of Object.entries(found.pods))
      players.set(key, await makePlayer(namespace, cniVersion));
    for (const [index, step] of found.steps.entries()) {
      const what = `step ${index + 1} (${"agent" in step ? `agent ${step.agent}` : step.verb}) of "${name}"`;
      await take(step, { play: found, players, cniVersion }).catch((error: Error) => {
        throw new Error(`${what}, CNI ${cniVersion}: ${error.message}`, { cause: error });
      });
    }
  } finally {
    for (const player of players.values()) await removeBareSandbox(mesh, player);
  }
  await waitFor("nothing to be held", async () => {
    const { workloads, pending } = await mesh.ztunnel.stats();
    const kept = await readdir("/var/run/istio-cni/sandboxes");
    return Object.keys(workloads).length + pending.length + kept.length === 0;
  });
}

interface Stage {
  readonly play: Play;
  readonly players: ReadonlyMap<string, BareSandbox>;
  readonly cniVersion: string;
}

async function take(step: AgentStep | CallStep, stage: Stage): Promise<void> {
  return await ("agent" in step ? changeAgent(step) : makeCall(step, stage));
}

async function changeAgent({ agent }: AgentStep): Promise<void> {
  if (agent === "killed") return await mesh.agent.kill();
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady();
}

async function makeCall(step: CallStep, stage: Stage): Promise<void> {
  const player = step.pod === undefined ? undefined : (stage.players.get(step.pod) as BareSandbox);
  const began = performance.now();
  const { code, stdout } = await call(step, stage, player);
  const ms = performance.now() - began;
  if (step.fails !== undefined) {
    assert.notEqual(code, 0, "succeeded");
    assert.match((JSON.parse(stdout) as { msg: string }).msg, new RegExp(step.fails));
  } else {
    assert.equal(code, 0, `failed: ${stdout}`);
    assert.ok(ms < agentWaitSeconds * 1000, `took ${ms} ms`);
    if (step.answers === undefined) assert.equal(stdout, "");
    else assert.deepEqual(JSON.parse(stdout), fill(step.answers, stage));
  }
  if (player === undefined) return;
  const { netns, sandbox } = player;
  const named = { netns, spec: sandbox };
  // what is said holds when it is answered, but for the end of a capture, which takes its time
  if (step.then === "captured") await claimCaptured(named);
  else if (step.verb !== "DEL") await claimUntouched(named);
  else await waitFor("the pod to be let go", () => claimUntouched(named).then(() => true));
}

async function call(
  { verb, ifname, netns, config }: CallStep,
  stage: Stage,
  player: BareSandbox | undefined,
): Promise<{ readonly code: number; readonly stdout: string }> {
  const { sandbox } = player ?? {};
  const args = argsOf[stage.play.args];
  const ofPod = {
    CNI_CONTAINERID: sandbox?.id ?? "",
    CNI_IFNAME: ifname ?? "",
    CNI_NETNS: netns ?? player?.netns ?? "",
    CNI_ARGS: args.replace(/\{(\w+)\}/g, (_, name: string) =>
      String(name === "container" ? sandbox?.id : sandbox?.[name as "name"]),
    ),
  };
  const env = cleanEnv({ CNI_COMMAND: verb, CNI_PATH: PLUGIN_DIR, ...(player === undefined ? {} : ofPod) });
  const filled = fill(config, stage) as Readonly<Record<string, unknown>>;
  const stdin = JSON.stringify({ cniVersion: stage.cniVersion, ...entry, ...filled });
  return await run([join(PLUGIN_DIR, "ambient-cni")], { env, stdin, mayFail: true });
}

/** Puts values in the places of `{a.container}`, `{a.result}`, `{version}` and `{empty}`, the result of a chain without one. */
function fill(value: unknown, stage: Stage): unknown {
  if (typeof value === "string") return placed(value, stage);
  if (Array.isArray(value)) return value.map((each) => fill(each, stage));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, fill(each, stage)]));
}

function placed(text: string, { players, cniVersion }: Stage): unknown {
  if (text === "{version}") return cniVersion;
  if (text === "{empty}") return { cniVersion, interfaces: [], ips: [], routes: [], dns: {} };
  const [, key = "", part] = /^\{(\w+)\.(container|result)\}$/.exec(text) ?? [];
  const player = players.get(key);
  if (player === undefined) return text;
  return part === "container" ? player.sandbox.id : player.result;
}

async function makePlayer(namespace: string, cniVersion: string): Promise<BareSandbox> {
  const { result, ...rest } = await makeBareSandbox(mesh, namespace);
  return { ...rest, result: inVersion(result, cniVersion) };
}

/** Debian's plugins answer in 1.0.0. Source: CNI specification 0.4.0, "Result": each address says its family. */
function inVersion(result: CniResult, cniVersion: string): CniResult {
  const isOld = cniVersion.startsWith("0.");
  const ips = (result.ips ?? []).map((ip) =>
    isOld ? { version: ip.address.includes(":") ? "6" : "4", ...ip } : ip,
  );
  return { ...result, cniVersion, ips };
}

/** The agent's last lines, for a failure that needs them. */
export function logs(): string {
  return mesh.agent.lines
    .slice(-15)
    .map(({ text }) => text.slice(0, 500))
    .join("\n");
}
