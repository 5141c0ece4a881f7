// SPDX-License-Identifier: Apache-2.0
// What sidecar-states.test.ts does inside a node: a pod with a sidecar beside an ambient one and one of no mesh, hurt in the kernel while
// the agent answers and does not look, and then looked at.

import type { Command } from "../../src/cli/command.ts";
import { debugCommand } from "../../src/cli/debug-command.ts";
import { doctorCommand } from "../../src/cli/doctor-command.ts";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { stateClient } from "../../src/cli/state-client.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import { PodRules } from "../../src/dashboard/pod-rules.ts";
import type { PodRulesReport } from "../../src/dashboard/rules-report.ts";
import type { VerifyReport } from "../../src/diagnose/verify-node.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { brokenPod } from "../repair/broken-pod.ts";
import { untilCaptured } from "../support/node/capture-state.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";

/** Between two looks nobody repairs anything. */
const never = { RECONCILE_INTERVAL_SECONDS: "3600" };
const soon = { RECONCILE_INTERVAL_SECONDS: "1" };

const mesh = await MeshNode.start({ agentEnv: { ...never, ZTUNNEL_WAIT_SECONDS: "5" } });
mesh.kubelet.createNamespace("mesh", { "istio-injection": "enabled", "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
const web = await mesh.kubelet.runPod({
  namespace: "mesh",
  name: "web",
  labels: { app: "web" },
  ...injectedPod(),
});
const ambient = await mesh.kubelet.runPod({ namespace: "mesh", name: "ambient" });
await mesh.kubelet.runPod({ namespace: "plain", name: "outsider" });
await untilCaptured(ambient);
const saved = (await web.exec(["iptables-save"])).stdout;

const commands: Readonly<Record<string, Command>> = {
  verify: verifyCommand,
  status: statusCommand,
  doctor: doctorCommand,
  debug: debugCommand,
};

export async function command(
  name: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ code: number; out: string }> {
  const io = capturedIo({ ...commandEnv, ...env });
  const code = await (commands[name] as Command).run(args, io);
  return { code, out: io.out() + io.err() };
}

async function verified(): Promise<{ code: number; report: VerifyReport }> {
  const { code, out } = await command("verify", ["--json"]);
  return { code, report: JSON.parse(out) as VerifyReport };
}

async function restore(): Promise<void> {
  await web.exec(["nft", "flush", "ruleset"]);
  await web.exec(["iptables-restore"], { stdin: saved });
}

/** What is counted, who ztunnel has, and what the pod is annotated with. */
export async function counts(): Promise<{
  metrics: string;
  ztunnel: string[];
  annotation: string | undefined;
}> {
  const { workloads } = await mesh.ztunnel.stats();
  return {
    metrics: await mesh.agent.metrics(),
    ztunnel: Object.keys(workloads).map((uid) => (uid === ambient.uid ? "ambient" : uid)),
    annotation: mesh.kubelet.annotation(web, "ambient.istio.io/redirection"),
  };
}

/** What the page is told of the pod's rules. */
export async function pageRules(): Promise<{ rules: PodRulesReport | undefined }> {
  const config = loadCliConfig(commandEnv, () => false);
  const rules = new PodRules({ config, agent: stateClient(config.runDir) });
  return { rules: await rules.rules("mesh", "web") };
}

/** Takes something away, and asks. @param change table, and what iptables is told */
export async function hurt([table = "nat", ...change]: readonly string[]) {
  await web.exec(["iptables", "-t", table, ...change]);
  const found = await verified();
  const { out: status } = await command("status", ["mesh/web"]);
  await restore();
  return { ...found, status };
}

export async function flushed() {
  await web.exec(["nft", "flush", "ruleset"]);
  const found = await verified();
  const { out: debug } = await command("debug", ["web", "mesh"]);
  return { ...found, debug };
}

/** An ip rule and a route of ambient mode, in a namespace that is still without rules. */
export async function captured() {
  await web.exec(["ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"]);
  await web.exec(["ip", "route", "add", "local", "default", "dev", "lo", "table", "100"]);
  const found = await verified();
  await web.exec(["ip", "rule", "del", "pref", "32764"]);
  await web.exec(["ip", "route", "flush", "table", "100"]);
  return found;
}

async function restarted(env: Readonly<Record<string, string>>): Promise<void> {
  await mesh.agent.stop();
  await mesh.startAgent(env);
}

/** The next agent looks at once. */
export async function healed(): Promise<{
  repairs: Record<string, number>;
  code: number;
  status: string;
}> {
  await restarted(soon);
  const stateIs = (state: string) => async () =>
    (await mesh.agent.metrics()).includes(`ambient_cni_pods{state="${state}"} 1\n`);
  await waitFor("the sidecar's rules to be verified", stateIs("sidecar"));
  await untilCaptured(ambient);
  await waitFor("the Event", () => eventsOf("web").includes("Normal SidecarRepaired"));
  const metrics = await mesh.agent.metrics();
  const repairs = metrics.matchAll(/^ambient_cni_sidecar_repairs_total\{kind="([\w-]+)"\} (\d+)$/gm);
  const { code } = await verified();
  const { out: status } = await command("status", []);
  return {
    repairs: Object.fromEntries([...repairs].map(([, kind, count]) => [kind, Number(count)])),
    code,
    status,
  };
}

function eventsOf(name: string): string[] {
  const events = mesh.api.store.list("events");
  const isAbout = ({ involvedObject }: (typeof events)[number]) =>
    (involvedObject as { name: string }).name === name;
  return events.filter(isAbout).map(({ reason, type }) => `${type} ${reason}`);
}

/** A base chain of the pod's hangs elsewhere: nobody can know where its rules apply. */
export async function unreadable() {
  const nft = async (text: string) => void (await web.exec(["nft", "-f", "-"], { stdin: text }));
  const elsewhere = "add chain ip nat PREROUTING { type nat hook prerouting priority 7 ; }";
  await nft(`flush chain ip nat PREROUTING ; delete chain ip nat PREROUTING ; ${elsewhere}`);
  const isSaid = async () =>
    (await mesh.agent.metrics()).includes('ambient_cni_pods{state="unverified"} 1\n');
  await waitFor("the agent to say so", isSaid);
  await waitFor("the Event", () => eventsOf("web").includes("Warning SidecarCannotVerify"));
  const found = await verified();
  const { out: status } = await command("status", []);
  const metrics = await mesh.agent.metrics();
  await nft("flush chain ip nat PREROUTING ; delete chain ip nat PREROUTING");
  const isOver = async () => (await mesh.agent.metrics()).includes('ambient_cni_pods{state="sidecar"} 1\n');
  await waitFor("the pod to be right again", isOver);
  return { ...found, status, metrics };
}

/** As the kubelet leaves it that tries again and again. */
export async function malformed(): Promise<{ status: string; doctor: string }> {
  const annotations = { "traffic.sidecar.istio.io/includeInboundPorts": "80;443" };
  const broken = { namespace: "mesh", name: "broken", ...injectedPod({ annotations }) };
  await mesh.kubelet.runPod(broken).catch(() => {});
  const { out: status } = await command("status", []);
  const { out: doctor } = await command("doctor", []);
  return { status, doctor };
}

/** A pod that no plugin of ours made, with the rules that its check does not find; an agent without a repair, and one with it. */
export async function unserved() {
  const unplugged = new Kubelet({ api: mesh.api, runtime: mesh.plainPods, nodeName: "node-1" });
  const late = await unplugged.runPod({ namespace: "mesh", name: "late", ...injectedPod() });
  mesh.api.edit("pods", { namespace: "mesh", name: "late" }, (object) => {
    const failed = brokenPod("late").status as object;
    object.status = { ...object.status, ...failed, phase: "Pending" };
  });
  const isWaiting = async () => (await command("status", [])).out.match(/^mesh +late .*/m) !== null;
  await waitFor("the agent to hear of the pod", isWaiting);
  const doctor = (env: Readonly<Record<string, string>>) => command("doctor", [], env);
  const before = { status: (await command("status", [])).out, doctor: (await doctor({})).out };
  const repair = { REPAIR_REPAIR_PODS: "true", REPAIR_FIELD_SELECTORS: "metadata.name=late" };
  await restarted({ ...soon, ...repair });
  const isServed = async () => /^mesh +late +no +sidecar /m.test((await command("status", [])).out);
  await waitFor("the pod to be repaired", isServed);
  const during = (await doctor(repair)).out;
  const rules = async () => (await iptablesSave(late.netns, 4)).match(/^-A .*ISTIO.*$/gm)?.join("\n") ?? "";
  const whole = await rules();
  await late.exec(["iptables", "-t", "nat", "-F", "ISTIO_OUTPUT"]);
  const hurt = await rules();
  await waitFor("the repaired pod to be looked after", async () => (await rules()) === whole);
  const verify = await command("verify", ["mesh/late"]);
  return { before, during, isHurt: hurt !== whole, ruleCount: whole.split("\n").length, verify };
}

/** A pod of an agent that writes in another way, right and hurt. @param hurts a program that takes something away */
export async function inVariant(env: Readonly<Record<string, string>>, hurts: readonly string[]) {
  await restarted({ ...never, ...env });
  const name = `by-${hurts[0]}`;
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name, ...injectedPod() });
  const right = await command("verify", [`mesh/${name}`, "--json"]);
  await pod.exec(hurts);
  const hurt = await command("verify", [`mesh/${name}`, "--json"]);
  await mesh.kubelet.deletePod(pod);
  // of the host nobody says anything here
  const kinds = ({ out }: { out: string }) =>
    (JSON.parse(out) as VerifyReport).faults.filter((each) => each.pod !== null).map(({ kind }) => kind);
  return { right: kinds(right), hurt: kinds(hurt), code: hurt.code };
}
