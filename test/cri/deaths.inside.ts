// SPDX-License-Identifier: Apache-2.0
// What deaths.test.ts and its slow sister do inside a node: agents that die while they start, and uninstalls that die.
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { untilCaptured } from "../support/node/capture-state.ts";
import { PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { conflistPath, ourChain, primaryChain } from "./support/chain.ts";
import { CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { waitForNothing } from "./support/holdings.ts";
import { runUntilItRuns } from "./support/impatient-kubelet.ts";
import { dieSomewhere } from "./support/random-death.ts";

/** One death and what it left. */
export interface Death {
  readonly victim: "agent" | "uninstall";
  readonly afterMs: number;
  /** Our entry was in the chain. */
  readonly chained: boolean;
  readonly launcher: boolean;
  /** Files that were being written. */
  readonly halves: number;
  /** RunPodSandbox of a pod that needs no agent, and its Stop and Remove, in milliseconds. */
  readonly runMs: number;
  readonly deleteMs: number;
}

/** All deaths, and how long things took that nobody killed. */
export interface DeathReport {
  readonly deaths: Death[];
  readonly installMs: number;
  readonly uninstallMs: number;
}

/** A pod of the mesh that was asked for while no agent was there. */
interface Waiting {
  readonly pod: Promise<CriPod>;
  isRunning: boolean;
}

const runDir = "/var/run/istio-cni";
/** The least that `uninstall` accepts and that still lets calls under way come to their end. */
const uninstallArgs = ["--quiet-seconds", "1"];

let node: CriNode;
let primary = "";

export async function start(): Promise<void> {
  // pods of other namespaces need no agent
  node = await CriNode.start();
  primary = await readFile(conflistPath(node.chains.confDir), "utf8");
  await node.startMesh();
}

/** Agents and uninstalls die in turns, each from the state in which it has all of its work before it. */
export async function deaths(count: number): Promise<DeathReport> {
  await node.agent.stop();
  const uninstallMs = await timed(leave);
  const installMs = await timed(() => node.install());
  await node.agent.stop();
  await leave();
  const { binDir, confDir } = node.chains;
  const folders = [binDir, confDir];
  const found: Death[] = [];
  while (found.length < count) {
    const agent = await node.startAgent();
    const agentMs = await dieSomewhere(agent, { spanMs: installMs, folders });
    const first = await survive({ victim: "agent", afterMs: agentMs });
    found.push(first.death);
    const old = await agentComesBack(first);
    await node.agent.stop();
    if (found.length === count) {
      await node.deletePod(old);
      break;
    }

    const afterMs = await dieSomewhere(node.startUninstall(uninstallArgs), { spanMs: uninstallMs, folders });
    const second = await survive({ victim: "uninstall", afterMs });
    found.push(second.death);
    // one that the uninstall may have been working on
    await node.deletePod(old);
    if (found.length % 4 === 0) {
      const pod = await agentComesBack(second);
      await node.agent.kill();
      await leave();
      await node.deletePod(pod);
    } else {
      await leave();
      await node.deletePod(await second.waiting.pod);
    }
  }
  await node.install();
  await node.ztunnel.waitForReady(20_000);
  await waitForNothing(node);
  return { deaths: found, installMs, uninstallMs };
}

/** The runtime can run and delete a pod at once, and a pod of the mesh waits exactly where our entry is in the chain. */
async function survive(
  killed: Pick<Death, "victim" | "afterMs">,
): Promise<{ death: Death; waiting: Waiting; types: readonly string[] }> {
  const { types, launcher, halves } = await lookAtFiles();
  await node.containerd.waitForChain(types);
  const waiting: Waiting = {
    pod: runUntilItRuns(node, node.createPod(meshNamespace), { attempts: [] }),
    isRunning: false,
  };
  waiting.pod.then(
    () => {
      waiting.isRunning = true;
    },
    // told to whoever waits for the pod
    () => {},
  );
  const plain = await node.runPod(node.createPod(plainNamespace));
  const deleteMs = await timed(() => node.deletePod(plain));
  const chained = types.includes("ambient-cni");
  if (chained) assert.ok(!waiting.isRunning, "a pod of the mesh has started without the agent");
  else await waiting.pod;
  return { death: { ...killed, chained, launcher, halves, runMs: plain.runMs, deleteMs }, waiting, types };
}

/** Chain and launcher, each of which is there whole or not at all; there is no entry without a launcher. */
async function lookAtFiles(): Promise<{ types: readonly string[]; launcher: boolean; halves: number }> {
  const { binDir, confDir } = node.chains;
  const text = await readFile(conflistPath(confDir), "utf8");
  const { plugins } = JSON.parse(text) as { plugins: { type: string }[] };
  const types = plugins.map(({ type }) => type);
  if (types.length === primaryChain.length) assert.equal(text, primary, "the original is not as it was");
  else assert.deepEqual(types, ourChain);
  const [bin, conf] = [await readdir(binDir), await readdir(confDir)];
  const launcher = bin.includes("ambient-cni");
  assert.ok(launcher || types.length === primaryChain.length, "the chain names a launcher that is not there");
  if (launcher) {
    const wanted = await readFile(join(PLUGIN_DIR, "ambient-cni"));
    assert.ok(wanted.equals(await readFile(join(binDir, "ambient-cni"))), "half a launcher");
  }
  return { types, launcher, halves: [...bin, ...conf].filter((name) => name.startsWith(".")).length };
}

/** An agent puts everything in order; the pod that waited, or ran without the mesh, is in it. */
async function agentComesBack({ waiting }: { waiting: Waiting }): Promise<CriPod> {
  await node.install();
  const pod = await waiting.pod;
  await untilCaptured({ netns: pod.netns, spec: pod.spec }, { timeoutMs: 10_000 });
  return pod;
}

/** An uninstall that nobody kills: the node is as it was before the first agent. */
async function leave(): Promise<void> {
  const uninstall = node.startUninstall(uninstallArgs);
  assert.equal(await uninstall.exited, 0, uninstall.text);
  const { binDir, confDir } = node.chains;
  assert.equal(await readFile(conflistPath(confDir), "utf8"), primary);
  assert.deepEqual(await readdir(confDir), ["10-podnet.conflist"]);
  const ours = (await readdir(binDir)).filter((name) => name.includes("ambient-cni"));
  assert.deepEqual([...ours, ...(await readdir(runDir))], []);
  await node.containerd.waitForChain(primaryChain);
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await action();
  return performance.now() - began;
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
