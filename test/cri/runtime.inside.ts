// SPDX-License-Identifier: Apache-2.0
// What runtime.test.ts does inside a node: what this runtime asks of a chain, and what it makes of the answers.
import assert from "node:assert/strict";
import { readFile, rename, writeFile } from "node:fs/promises";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { chainVersion, conflistPath, ourChain } from "./support/chain.ts";
import type { NetworkCondition } from "./support/cri-client.ts";
import { CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";

let node: CriNode;
const named = (pod: CriPod) => ({ netns: pod.netns, spec: pod.spec });

/** Returns name and version of the runtime, and the version of its chain. */
export async function start(): Promise<{ readonly runtime: string; readonly chain: string }> {
  node = await CriNode.start({ agentEnv: { LOG_LEVEL: "debug", AGENT_WAIT_SECONDS: "1" } });
  await node.startMesh();
  const { cniVersion } = await readChain();
  return { runtime: await node.cri.version(), chain: cniVersion };
}

/** One call of the chain. */
export interface Call {
  readonly verb: string;
  /** Whether it named a namespace. */
  readonly netns: boolean;
}

/** What was asked of the plugin before ours, and of our agent. */
export interface Calls {
  readonly plugin: readonly Call[];
  /** Verbs; of calls that were answered. */
  readonly agent: readonly string[];
}

/** A mesh pod comes and goes. */
export async function life(): Promise<Calls> {
  const mark = await Mark.now();
  const pod = await node.runPod(node.createPod(meshNamespace));
  await claimCaptured(named(pod));
  await node.deletePod(pod);
  await waitForNothing(node);
  return await mark.calls(pod.id);
}

/** The kubelet asks so often how the runtime is. */
export async function ask(
  times: number,
): Promise<{ readonly calls: Calls; readonly last: NetworkCondition | undefined }> {
  const mark = await Mark.now();
  let last: NetworkCondition | undefined;
  for (let count = 0; count < times; count += 1) last = await node.cri.networkCondition();
  return { calls: await mark.calls(), last };
}

/** What a node does without its agent. */
export interface AwayReport {
  readonly network: NetworkCondition;
  /** What RunPodSandbox of a pod of the mesh said. */
  readonly held: string;
}

/**
 * The agent is killed; a pod outside the mesh comes and goes, one of the mesh is held, one that ran goes.
 *
 * @param spares whether our entry names who starts without the agent, as a DaemonSet's does
 */
export async function away(spares: boolean): Promise<AwayReport> {
  const old = await node.runPod(node.createPod(meshNamespace));
  await node.agent.kill();
  if (!spares) await writeEntry({ exempt: [] });
  const network = await node.cri.networkCondition();
  const outside = await node.runPod(node.createPod(plainNamespace));
  await claimUntouched(named(outside));
  await node.deletePod(outside);
  await node.deletePod(old);
  const spec = node.createPod(meshNamespace);
  const held = await node.runPod(spec).then(
    () => "",
    (error: Error) => error.message,
  );
  node.api.delete("pods", spec.name, spec.namespace);
  return { network, held };
}

/** The agent comes back: the network is ready by itself, and pods of the mesh start. */
export async function back(): Promise<void> {
  await node.startAgent();
  await node.agent.waitReady();
  await node.ztunnel.waitForReady();
  await waitFor("the network to be ready", async () => (await node.cri.networkCondition()).ready);
  await life();
}

/** The runtime is renewed, in order or by SIGKILL, beside pods that run. Returns what it asked of the chain meanwhile. */
export async function renewRuntime(how: "stop" | "kill"): Promise<Calls> {
  const pod = await node.runPod(node.createPod(meshNamespace));
  const before = await ruleGeneration(pod.netns);
  const mark = await Mark.now();
  if (how === "kill") await node.containerd.process.kill();
  await node.restartContainerd();
  await node.containerd.waitForChain(ourChain);
  const calls = await mark.calls(pod.id);
  await claimCaptured(named(pod));
  assert.equal(await ruleGeneration(pod.netns), before, "rules of a pod that ran were written");
  await node.deletePod(pod);
  await waitForNothing(node);
  await life();
  return calls;
}

/** Where the logs of calls were at some moment. */
class Mark {
  readonly #plugin: number;
  readonly #agent: number;

  private constructor(plugin: number, agent: number) {
    this.#plugin = plugin;
    this.#agent = agent;
  }

  static async now(): Promise<Mark> {
    return new Mark((await pluginLines()).length, node.agent.lines.length);
  }

  /** Calls since then: of one sandbox and of none, or all. */
  async calls(container?: string): Promise<Calls> {
    const lines = (await pluginLines()).slice(this.#plugin).map((line) => line.split(" "));
    const ofIt = (id: unknown): boolean => container === undefined || !id || id === container;
    const plugin = lines
      .filter(([, id]) => ofIt(id === "-" ? "" : id))
      .map(([verb = "", , netns]) => ({ verb, netns: netns !== "none" }));
    const agent = node.agent.lines
      .slice(this.#agent)
      .filter(({ json }) => json?.msg === "CNI call done" && ofIt(json.container))
      .map(({ json }) => String(json?.verb));
    return { plugin, agent };
  }
}

async function pluginLines(): Promise<string[]> {
  return (await readFile(node.chains.callLog, "utf8")).split("\n").filter(Boolean);
}

interface Chain {
  readonly cniVersion: string;
  readonly plugins: readonly { readonly type: string }[];
}

async function readChain(): Promise<Chain> {
  return JSON.parse(await readFile(conflistPath(node.chains.confDir), "utf8")) as Chain;
}

/** Changes our entry, by rename as an installer does; the runtime has it when this returns. */
async function writeEntry(fields: Readonly<Record<string, unknown>>): Promise<void> {
  const chain = await readChain();
  assert.equal(chain.cniVersion, chainVersion);
  const plugins = chain.plugins.map((each) =>
    each.type === ourChain.at(-1) ? { ...each, ...fields } : each,
  );
  const path = conflistPath(node.chains.confDir);
  await writeFile(`${path}.new`, JSON.stringify({ ...chain, plugins }));
  await rename(`${path}.new`, path);
  const wanted = JSON.stringify(fields).slice(1, -1);
  await waitFor("the runtime to load the entry", async () =>
    (await node.cri.loadedText()).replace(/[\s\\]/g, "").includes(wanted),
  );
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
