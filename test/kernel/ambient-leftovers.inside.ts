// SPDX-License-Identifier: Apache-2.0
// What ambient-leftovers.test.ts does inside a node: an agent of ambient mode with a captured pod, and then one that serves sidecars alone.
import type { Command } from "../../src/cli/command.ts";
import { doctorCommand } from "../../src/cli/doctor-command.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { untilCaptured } from "../support/node/capture-state.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { inNetns, iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";

const host = "/proc/self/ns/net";
const mesh = await MeshNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
mesh.kubelet.createNamespace("mesh", { "istio-injection": "enabled", "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
const ztunnel = await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
const web = await mesh.kubelet.runPod({ namespace: "mesh", name: "web" });
await untilCaptured(web);
const isAnnotated = () => mesh.kubelet.annotation(web, "ambient.istio.io/redirection") === "enabled";
await waitFor("the annotation", isAnnotated);
const served = await mesh.kubelet.runPod({ namespace: "mesh", name: "served", ...injectedPod() });
const itsRules = await iptablesSave(served.netns, 4);
// what is not in the API server's list nobody takes out of the mesh
const stray = await mesh.plainPods.runPodSandbox({ namespace: "plain", name: "stray" });
const route = ["local", "default", "dev", "lo", "table", "100"];
await stray.exec(["ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"]);
await stray.exec(["ip", "route", "add", ...route]);
// of others, beside ours
await inNetns(host, ["ipset", "create", "somebodys", "hash:ip"]);
await inNetns(host, ["iptables", "-t", "nat", "-A", "POSTROUTING", "-d", "192.0.2.1", "-j", "ACCEPT"]);
await mesh.agent.stop();
await ztunnel.stop();

const commands: Readonly<Record<string, Command>> = {
  verify: verifyCommand,
  status: statusCommand,
  doctor: doctorCommand,
};

async function command(name: string): Promise<{ code: number; out: string }> {
  const io = capturedIo({ ...commandEnv, AMBIENT_ENABLED: "false" });
  const code = await (commands[name] as Command).run([], io);
  return { code, out: io.out() + io.err() };
}

async function setNames(): Promise<string[]> {
  return (await inNetns(host, ["ipset", "list", "-n"])).stdout.split("\n");
}

/** What of ours the host has. */
export async function ofTheHost(): Promise<string[]> {
  const sets = await setNames();
  const chains = await Promise.all(
    ([4, 6] as const).map(async (family) =>
      (await iptablesSave(host, family)).includes("ISTIO_POSTRT") ? [`chain v${family}`] : [],
    ),
  );
  const ours = ["v4", "v6"].filter((family) => sets.includes(`istio-inpod-probes-${family}`));
  return [...chains.flat(), ...ours.map((family) => `set ${family}`)];
}

/** The next agent serves sidecars alone. */
export async function withStray() {
  await mesh.startAgent({ AMBIENT_ENABLED: "false" });
  const says = async () => (await command("status")).out.includes("network namespaces are still captured");
  await waitFor("the agent to have looked", says);
  await waitFor("the captured pod to leave", async () => !(await captured()).rules);
  const status = (await command("status")).out;
  const doctor = (await command("doctor")).out;
  return { host: await ofTheHost(), status, doctor, verify: await command("verify") };
}

export async function captured(): Promise<{ rules: boolean; annotation: string | undefined }> {
  return {
    rules: (await iptablesSave(web.netns, 4)).includes("ISTIO"),
    annotation: mesh.kubelet.annotation(web, "ambient.istio.io/redirection"),
  };
}

export async function withoutStray() {
  await stray.exec(["ip", "rule", "del", "pref", "32764"]);
  await stray.exec(["ip", "route", "del", ...route]);
  await waitFor("the host to be free", async () => (await ofTheHost()).length === 0);
  const isSaid = async () => !(await command("status")).out.includes("ambient mode is off");
  await waitFor("the agent to say so", isSaid);
  return {
    host: await ofTheHost(),
    others: {
      rule: (await iptablesSave(host, 4)).includes("-A POSTROUTING -d 192.0.2.1/32 -j ACCEPT"),
      set: (await setNames()).includes("somebodys"),
    },
    sidecar: itsRules.includes("ISTIO_REDIRECT") && (await iptablesSave(served.netns, 4)) === itsRules,
    verify: await command("verify"),
    status: (await command("status")).out,
  };
}
