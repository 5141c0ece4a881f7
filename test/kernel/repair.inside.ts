// SPDX-License-Identifier: Apache-2.0
// What repair.test.ts does inside a node: the agent as users get it, beside sidecar pods that started without their rules.
import { makeGround, makeReadiness } from "../../src/agent/ground.ts";
import { makeRepair } from "../../src/agent/repair.ts";
import { loadConfig } from "../../src/config.ts";
import { SandboxFinder } from "../../src/enrolment/sandbox-finder.ts";
import type { Sidecars } from "../../src/enrolment/sidecars.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { openNetnsCount } from "../../src/linux/netns.ts";
import { createLoggers } from "../../src/log/logger.ts";
import { type BrokenPodOptions, brokenPod } from "../repair/broken-pod.ts";
import { claimUntouched } from "../support/node/capture-state.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";

const mesh = await MeshNode.start();
mesh.kubelet.createNamespace("shop");

/** A sidecar pod with a network namespace of its own and no rules in it, as a node without the plugin leaves it. */
const unplugged = new Kubelet({ api: mesh.api, runtime: mesh.plainPods, nodeName: "node-1" });
const web = await unplugged.runPod({ namespace: "shop", name: "web", ...injectedPod() });
mesh.api.edit("pods", { namespace: "shop", name: "web" }, (object) => {
  object.status = { ...object.status, ...(brokenPod("web").status as object), phase: "Pending" };
});

const onNode = (name: string, options: BrokenPodOptions = {}) =>
  mesh.api.put("pods", brokenPod(name, { nodeName: "node-1", ...options }));
onNode("broken");
onNode("sound", { state: { terminated: { exitCode: 0, reason: "Completed" } } });
onNode("elsewhere", { nodeName: "node-2" });

/** What an agent did about the pods. */
export interface Outcome {
  /** Of each pod: "deleted", its labels, or "as it was". */
  readonly pods: Readonly<Record<string, string>>;
  /** POD REASON of each Event on a pod, sorted. */
  readonly events: readonly string[];
  /** Lines of the repair's counter that are not 0. */
  readonly counted: readonly string[];
  /** Warnings of the repair, without doubles. */
  readonly warned: readonly string[];
  /** What of the pods the agent asked lists of, by field. */
  readonly listed: readonly string[];
}

/** Replaces the agent by one with these settings, and waits until it has done something, or for its readiness alone. */
export async function withAgent(
  env: Record<string, string>,
  { acts, writes = false }: { acts: number; writes?: boolean },
): Promise<Outcome> {
  const requestsBefore = mesh.api.requests.length;
  for (const { metadata } of mesh.api.store.list("events"))
    mesh.api.delete("events", metadata.name, metadata.namespace);
  const agent = await mesh.startAgent(env);
  let counted: string[] = [];
  await waitFor(
    `${acts} pods to be seen to`,
    async () => {
      counted = (await agent.metrics())
        .split("\n")
        .filter((line) => line.startsWith("istio_cni_repair_pods_repaired_total{") && !line.endsWith(" 0"));
      const sum = counted.reduce((total, line) => total + Number(line.split(" ").at(-1)), 0);
      return sum >= acts && mesh.api.store.list("events").length >= acts;
    },
    { timeoutMs: 15_000, intervalMs: 20 },
  );
  const selected = mesh.api.requests
    .slice(requestsBefore)
    .filter(({ verb, resource }) => verb === "list" && resource === "pods")
    .map(({ query }) => query.fieldSelector ?? "");
  const outcome: Outcome = {
    pods: Object.fromEntries(["web", "broken", "sound", "elsewhere"].map((name) => [name, fateOf(name)])),
    events: mesh.api.store
      .list("events")
      .map(({ reason, involvedObject }) => `${(involvedObject as { name: string }).name} ${String(reason)}`)
      .sort(),
    counted,
    warned: [
      ...new Set(
        agent.lines
          .filter(({ json }) => json?.scope === "repair" && json.level === "warn")
          .map(({ json }) => String(json?.msg)),
      ),
    ],
    listed: selected.sort(),
  };
  if (!writes) await claimUntouched(web);
  await agent.stop();
  return outcome;
}

/** What the pod's own namespace has of a sidecar's chains, as iptables prints them in both families. */
export async function rulesOfWeb(): Promise<string[]> {
  const saved = [await iptablesSave(web.netns, 4), await iptablesSave(web.netns, 6)];
  return saved.map((text) => (text.match(/^-A ISTIO_(IN_)?REDIRECT .*$/gm) ?? []).join("; "));
}

/** Starts an agent whose settings cannot be followed. @returns what its readiness says once nothing else is missing */
export async function readinessWith(env: Record<string, string>): Promise<{ ready: string; broken: string }> {
  // it never becomes ready: what is waited for below says more
  mesh.startAgent(env).catch(() => {});
  let ready = "";
  await waitFor(
    "readiness to name nothing but the settings",
    async () => {
      ready = await fetch("http://127.0.0.1:8000/readyz").then(
        (response) => response.text(),
        (error: Error) => error.message,
      );
      return /^not ready: settings: [^;]*;[^;]*$/.test(ready);
    },
    { timeoutMs: 15_000, intervalMs: 20 },
  );
  await mesh.agent.stop();
  return { ready, broken: fateOf("broken") };
}

function fateOf(name: string): string {
  const { metadata } = mesh.api.store.get("pods", name, "shop");
  if (metadata.deletionTimestamp !== undefined) return "deleted";
  return Object.keys(metadata.labels ?? {}).length > 0 ? JSON.stringify(metadata.labels) : "as it was";
}

/** Lets a function of the test's own write rules. @returns which namespaces it was lent for which pods, and how many stayed open */
export async function lentInPlace(): Promise<{
  readonly lent: readonly { readonly pod: string; readonly isItsOwn: boolean }[];
  readonly leftOpen: number;
}> {
  const env = {
    NODE_NAME: "node-1",
    KUBECONFIG: "/run/node/kubeconfig",
    HOST_ROOT: "/",
    REPAIR_REPAIR_PODS: "true",
    REPAIR_FIELD_SELECTORS: "metadata.name=web",
  };
  const config = loadConfig({ env, args: [] });
  const loggers = createLoggers({ level: "none", scopes: {} });
  const ground = await makeGround(config, { loggers, readiness: makeReadiness(config) });
  const lent: { pod: string; isItsOwn: boolean }[] = [];
  const own = netnsKeyAt(web.netns);
  const sidecars: Pick<Sidecars, "awaitsRules" | "apply"> = {
    awaitsRules: () => true,
    apply: async ({ namespace, name }, netns) => {
      lent.push({ pod: `${namespace}/${name}`, isItsOwn: netns.key === own });
      return { repaired: [], families: [] };
    },
  };
  const finder = new SandboxFinder({
    hostRoot: config.hostRoot,
    hostNetns: ground.hostNetns,
    log: loggers.scope("netns"),
  });
  const repair = makeRepair(ground, { sidecars, finder });
  const openBefore = openNetnsCount();
  ground.node.start();
  await ground.node.waitForSync();
  repair?.start();
  await waitFor("a namespace to be lent", () => lent.length > 0, { timeoutMs: 10_000, intervalMs: 10 });
  await repair?.stop();
  await ground.node.stop();
  ground.events.stop();
  ground.client.close();
  return { lent, leftOpen: openNetnsCount() - openBefore };
}
