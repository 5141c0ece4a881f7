// SPDX-License-Identifier: Apache-2.0
// What sidecar-pods.test.ts does inside a node: the real agent and launcher, pods as the injector leaves them, a stub API server.
import { ask } from "../status/state-client.ts";
import { untilCaptured } from "../support/node/capture-state.ts";
import { type Injection, injectedPod } from "../support/node/injected-pod.ts";
import { ipRules, iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const mesh = await MeshNode.start({
  plugin: { agentWaitSeconds: 1 },
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "1", ZTUNNEL_WAIT_SECONDS: "2", EXCLUDE_NAMESPACES: "excluded" },
});
for (const name of ["mesh", "excluded"])
  mesh.kubelet.createNamespace(name, { "istio-injection": "enabled", "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
let counter = 0;

/** Resolves right after the ADD was answered. */
function run(injection: Injection = {}, namespace = "mesh"): Promise<Pod> {
  counter += 1;
  return mesh.kubelet.runPod({ namespace, name: `pod-${counter}`, ...injectedPod(injection) });
}

/** Both families' rules, one after the other. */
async function rulesOf(pod: Pod): Promise<string> {
  return (await iptablesSave(pod.netns, 4)) + (await iptablesSave(pod.netns, 6));
}

async function refusal(injection: Injection): Promise<string> {
  try {
    await run(injection);
  } catch (error) {
    return (error as Error).message;
  }
  return "no error";
}

/** What a pod has once its ADD is answered. */
async function addOf(injection: Injection, namespace?: string) {
  const pod = await run(injection, namespace);
  const rules = await rulesOf(pod);
  const announced = mesh.kubelet.annotation(pod, "ambient.istio.io/redirection");
  await mesh.kubelet.deletePod(pod);
  return { rules, announced };
}

export async function injected(): Promise<{ rules: string; native: string; announced: string | undefined }> {
  const { rules, announced } = await addOf({ env: { ISTIO_DUAL_STACK: "true" } });
  const { rules: native } = await addOf({ isNative: true, env: { ISTIO_DUAL_STACK: "true" } });
  return { rules, native, announced };
}

export async function options(): Promise<{ rules: string; rule: boolean }> {
  const pod = await run({
    annotations: {
      "sidecar.istio.io/interceptionMode": "TPROXY",
      "traffic.sidecar.istio.io/excludeOutboundIPRanges": "192.0.2.7/24",
    },
    env: { ISTIO_META_DNS_CAPTURE: "true" },
    securityContext: { runAsUser: 4242, runAsGroup: 4243 },
  });
  const rule = (await ipRules(pod.netns, 4)).some((line) => line.includes("fwmark 0x539 lookup 133"));
  const rules = await rulesOf(pod);
  await mesh.kubelet.deletePod(pod);
  return { rules, rule };
}

/** Pods that have nothing to get from us. */
export async function others(): Promise<Record<string, string>> {
  const inits = await addOf({ hasInit: true });
  const excluded = await addOf({}, "excluded");
  const off = await addOf({ annotations: { "sidecar.istio.io/inject": "false" } });
  return { inits: inits.rules, excluded: excluded.rules, off: off.rules };
}

export function malformed(): Promise<string> {
  return refusal({ annotations: { "traffic.sidecar.istio.io/includeInboundPorts": "80;443" } });
}

/** Resolves after the next look of the agent at a pod's rules: what is said of it has the time of the last one. */
async function untilLookedAt({ spec: { namespace, name } }: Pod): Promise<void> {
  const saidOf = async () => (await ask({ socketPath }, `/api/v1/pods/${namespace}/${name}`)).json().summary;
  const before = await saidOf();
  await waitFor("a look at the pod", async () => (await saidOf()) !== before);
}

/** ztunnel hears of the ambient pod beside it alone; the sidecar's rules stay over looks of the agent. */
export async function besideAmbient(): Promise<{ held: string[]; before: string; after: string }> {
  await mesh.startZtunnel();
  await mesh.ztunnel.waitForReady();
  const sidecar = await run();
  const before = await rulesOf(sidecar);
  counter += 1;
  const ambient = await mesh.kubelet.runPod({ namespace: "mesh", name: `pod-${counter}` });
  await untilCaptured(ambient);
  for (let looks = 0; looks < 2; looks++) await untilLookedAt(sidecar);
  const held = Object.keys((await mesh.ztunnel.stats()).workloads).map((uid) =>
    uid === ambient.uid ? "ambient" : uid === sidecar.uid ? "sidecar" : "somebody",
  );
  const after = await rulesOf(sidecar);
  await mesh.kubelet.deletePod(sidecar);
  await mesh.kubelet.deletePod(ambient);
  return { held, before, after };
}

/** The API server is away, and then the agent. */
export async function withoutAnswers(): Promise<{ api: string; agent: string }> {
  await mesh.api.refuse();
  const api = await refusal({});
  await mesh.api.listenAgain();
  await mesh.agent.stop();
  const agent = await refusal({});
  await mesh.startAgent();
  return { agent, api };
}

/** Rules of a pod before and after somebody took them away, and what was said of it. */
export async function hurt(): Promise<{ before: string; hurt: string; after: string; said: boolean }> {
  const pod = await run();
  const before = await rulesOf(pod);
  await pod.exec(["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
  await pod.exec(["iptables", "-t", "nat", "-D", "PREROUTING", "-j", "ISTIO_INBOUND"]);
  // that it was hurt shows in what the look says: rules are put right while they are read here
  await waitFor("the rules to be right again", async () => (await rulesOf(pod)) === before);
  const said = await waitFor("the agent to say so", () =>
    mesh.agent.lines.some(({ text }) => text.includes("a sidecar's rules were changed")),
  );
  // an agent that comes later knows it from what its ADD left
  await mesh.agent.stop();
  await pod.exec(["iptables", "-t", "nat", "-F", "ISTIO_REDIRECT"]);
  const hurt = await rulesOf(pod);
  await mesh.startAgent();
  await waitFor("the rules to be right again", async () => (await rulesOf(pod)) === before);
  const after = await rulesOf(pod);
  await mesh.kubelet.deletePod(pod);
  return { before, hurt, after, said };
}

export async function sidecarsOnly(): Promise<{ rules: string; ambient: string }> {
  await mesh.agent.stop();
  await mesh.startAgent({ AMBIENT_ENABLED: "false" });
  const { rules } = await addOf({});
  counter += 1;
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `pod-${counter}` });
  const ambient = await rulesOf(pod);
  await mesh.kubelet.deletePod(pod);
  return { rules, ambient };
}
