// SPDX-License-Identifier: Apache-2.0
// What other-sandboxes.test.ts does inside a node: a pod that is not as most are, from its ADD to its leaving, and found without one.
import { get } from "node:http";
import { claimCaptured, untilUntouched } from "../support/node/capture-state.ts";
import { ipRules } from "../support/node/kernel.ts";
import { MeshNode, type MeshNodeOptions } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const statusAnnotation = "ambient.istio.io/redirection";
const label = "istio.io/dataplane-mode";
const port = 8080;
let mesh: MeshNode;
let counter = 0;

/** Once in this node. */
export async function start(options: Pick<MeshNodeOptions, "network" | "ownUsers">): Promise<void> {
  mesh = await MeshNode.start({ ...options, agentEnv: { LOG_LEVEL: "debug" } });
  mesh.kubelet.createNamespace("mesh", { [label]: "ambient" });
  mesh.kubelet.createNamespace("plain");
}

/** What was seen on the way; everything else is claimed. */
export interface Seen {
  readonly ips: readonly string[];
  /** Addresses of the host's sets, without the pods' names. */
  readonly sets: Readonly<Record<string, readonly string[]>>;
  /** Whom the application saw when the host asked it, by family. */
  readonly probes: Readonly<Record<string, string>>;
  /** Transactions in the pod's rules over an agent that was killed. */
  readonly writes: number;
  readonly annotation: string | undefined;
}

/** @param env of the agent */
export async function walk(env: Readonly<Record<string, string>>): Promise<Seen> {
  await mesh.startAgent(env);
  await mesh.startZtunnel({ maxBackoffMs: 100 });
  await mesh.ztunnel.waitForReady(20_000);
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `web-${++counter}` });
  await captured(pod, env);
  await waitFor("the annotation", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  const app = await pod.startApp();
  await app.call.serveHttp(port);
  const probes: Record<string, string> = {};
  for (const ip of pod.ips)
    await waitFor(`an answer of ${ip}`, async () => {
      probes[ip.includes(":") ? "6" : "4"] = await peerOf(ip);
      return true;
    });
  const sets = await setsOfHost();

  const before = await ruleGeneration(pod.netns);
  await mesh.agent.kill();
  await mesh.startAgent(env);
  await mesh.ztunnel.waitForReady(20_000);
  const enrolled = `"uid":"${pod.uid}","outcome":"enrolled"`;
  await waitFor("the next agent to look", () => mesh.agent.text.includes(enrolled));
  await captured(pod, env);
  const writes = (await ruleGeneration(pod.netns)) - before;

  await pod.exec(["ip", "rule", "del", "pref", "32764"]);
  await pod.exec(["ip", "-6", "rule", "del", "pref", "32764"]);
  await waitFor("the rule of both families", async () => {
    const rules = [...(await ipRules(pod.netns, 4)), ...(await ipRules(pod.netns, 6))];
    return rules.filter((rule) => rule.includes("0x111")).length === 2;
  });
  mesh.kubelet.labelPod(pod, { [label]: "none" });
  await untilUntouched(pod);
  mesh.kubelet.labelPod(pod, { [label]: null });
  await untilCaptured(pod, env);
  await waitFor("the annotation", () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled");
  const annotation = mesh.kubelet.annotation(pod, statusAnnotation);
  const { ips } = pod;
  await mesh.kubelet.deletePod(pod);
  await waitFor("the sets to be empty", async () => Object.values(await setsOfHost()).flat().length === 0);

  const found = await mesh.kubelet.runPod({ namespace: "plain", name: `found-${counter}` });
  await mesh.agent.kill();
  mesh.kubelet.labelPod(found, { [label]: "ambient" });
  await mesh.startAgent(env);
  await untilCaptured(found, env);
  await mesh.kubelet.deletePod(found);
  await mesh.agent.stop();
  return { ips, sets, probes, writes, annotation };
}

async function captured(pod: Pod, env: Readonly<Record<string, string>>): Promise<void> {
  await claimCaptured(pod, { variant: env.FORCE_IPTABLES_BINARY === "legacy" ? "legacy" : "nft" });
}

async function untilCaptured(pod: Pod, env: Readonly<Record<string, string>>): Promise<void> {
  await waitFor(`"${pod.spec.name}" to be captured`, () => captured(pod, env).then(() => true));
}

async function setsOfHost(): Promise<Record<string, string[]>> {
  const { stdout } = await run(["ipset", "save"]);
  const sets: Record<string, string[]> = {};
  for (const [, name = "", address = ""] of stdout.matchAll(/^add (\S+) (\S+)/gm))
    sets[name] = [...(sets[name] ?? []), address];
  return sets;
}

/** Asks as the kubelet does: from a process of the host. Over IPv6 a new bridge has no address to ask from for a second or two. */
async function peerOf(host: string): Promise<string> {
  const text = await new Promise<string>((resolve, reject) => {
    get({ host, port, agent: false, signal: AbortSignal.timeout(500) }, (response) => {
      response.setEncoding("utf8").once("data", resolve);
    }).once("error", reject);
  });
  return (JSON.parse(text) as { peer: { address: string } }).peer.address;
}
