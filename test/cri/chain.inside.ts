// SPDX-License-Identifier: Apache-2.0
// What chain.test.ts does inside a node: a runtime whose network configuration two programs fight over, or whose installer dies.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured } from "../support/node/capture-state.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { conflistPath } from "./support/chain.ts";
import { CriNode, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";

const ourChain = ["bridge", "portmap", "ambient-cni"];
const primaryChain = ["bridge", "portmap"];
const installer = join(import.meta.dirname, "support/chain-installer.ts");

let node: CriNode;
let primary = "";

export async function start(): Promise<void> {
  node = await CriNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
  await node.startMesh();
  primary = await readFile(conflistPath(node.chains.bareConfDir), "utf8");
}

function startInstaller(action: "keep" | "loop"): ManagedProcess {
  return new ManagedProcess([process.execPath, installer, action, node.chains.confDir], {
    name: "installer",
  });
}

/** What a fight did to the pods that were born in it. */
export interface FightReport {
  readonly pods: number;
  /** Pods that ran before they were captured, and for how long, in milliseconds. */
  readonly uncapturedMs: number[];
  readonly repairs: number;
  readonly fights: string[];
}

/** Another program rewrites the configuration again and again, while pods come and go. */
export async function fight(rewrites: number): Promise<FightReport> {
  await writeFile(conflistPath(node.chains.confDir), primary);
  await node.containerd.waitForChain(primaryChain);
  const keeper = startInstaller("keep");
  await node.containerd.waitForChain(ourChain);
  const rewriter = new ManagedProcess(["/bin/sh", "-c", rewriterScript(rewrites)], { name: "rewriter" });
  const uncapturedMs: number[] = [];
  let pods = 0;
  const churn = async (): Promise<void> => {
    while (rewriter.running) {
      pods += 1;
      const ms = await uncapturedTime();
      if (ms > 0) uncapturedMs.push(ms);
    }
  };
  await Promise.all([churn(), churn()]);
  assert.equal(await rewriter.exited, 0, rewriter.text);
  await node.containerd.waitForChain(ourChain);
  const { plugins } = JSON.parse(await readFile(conflistPath(node.chains.confDir), "utf8")) as {
    plugins: { type: string }[];
  };
  assert.deepEqual(
    plugins.map(({ type }) => type),
    ourChain,
  );
  assert.equal(await uncapturedTime(), 0, "a pod of the repaired chain was not captured by its ADD");
  await waitForNothing(node);
  await keeper.stop();
  const said = (key: string): string[] =>
    keeper.lines
      .map(({ json }) => json?.[key])
      .flatMap((value) => (value === undefined ? [] : [String(value)]));
  return { pods, uncapturedMs, repairs: said("repaired").length, fights: said("fight") };
}

/** By rename and in place, as programs do. */
function rewriterScript(count: number): string {
  const path = conflistPath(node.chains.confDir);
  const own = conflistPath(node.chains.bareConfDir);
  return `n=0
while [ $n -lt ${count} ]; do
  if [ $((n % 2)) = 0 ]; then cp ${own} ${path}.theirs && mv ${path}.theirs ${path}; else cat ${own} >${path}; fi
  n=$((n + 1))
  sleep 0.0$((n % 9 + 1))
done`;
}

/**
 * Does it again while the runtime has read half a file of the other program, as the kubelet would; nothing else may fail.
 */
async function despiteHalfFiles<T>(action: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!(error as Error).message.includes("cni plugin not initialized")) throw error;
      await delay(20);
    }
  }
}

/** Runs and deletes a pod of the mesh. Returns for how long it ran without being captured, 0 for never. */
async function uncapturedTime(): Promise<number> {
  const spec = node.createPod(meshNamespace);
  const pod = await despiteHalfFiles(() => node.runPod(spec));
  const began = performance.now();
  const isHeld = async (): Promise<boolean> => pod.spec.uid in (await node.ztunnel.stats()).workloads;
  const atOnce = await isHeld();
  if (!atOnce) await waitFor(`${pod.spec.name} to be captured`, isHeld, { timeoutMs: 20_000 });
  const ms = performance.now() - began;
  await claimCaptured({ netns: pod.netns, spec: pod.spec });
  await despiteHalfFiles(() => node.deletePod(pod));
  return atOnce ? 0 : ms;
}

/** Which chain the runtime had after each death of an installer, and what was left in the folder at the end. */
export interface DeathReport {
  readonly chains: string[];
  readonly files: string[];
}

/** Installers die at random points of installing and leaving; a pod is run and deleted after each death. */
export async function deaths(count: number): Promise<DeathReport> {
  await writeFile(conflistPath(node.chains.confDir), primary);
  await node.containerd.waitForChain(primaryChain);
  const chains: string[] = [];
  for (let death = 0; death < count; death += 1) {
    const victim = startInstaller("loop");
    await victim.untilLine("to begin", ({ json }) => json?.begun === true, { timeoutMs: 20_000 });
    // a few of its turns, then anywhere in one
    await delay(randomInt(3, 60));
    await victim.kill();
    const text = await readFile(conflistPath(node.chains.confDir), "utf8");
    const { plugins } = JSON.parse(text) as { plugins: { type: string }[] };
    const types = plugins.map(({ type }) => type);
    await node.containerd.waitForChain(types);
    chains.push(types.join(" "));
    if (!types.includes("ambient-cni"))
      assert.equal(text, primary, "the original was not put back byte for byte");
    await node.deletePod(await node.runPod(node.createPod(plainNamespace)));
  }
  const last = startInstaller("keep");
  await last.untilLine("to begin", ({ json }) => json?.begun === true, { timeoutMs: 20_000 });
  await node.containerd.waitForChain(ourChain);
  await last.stop();
  await waitForNothing(node);
  return { chains, files: await readdir(node.chains.confDir) };
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
