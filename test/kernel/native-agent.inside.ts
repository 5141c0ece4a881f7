// SPDX-License-Identifier: Apache-2.0
// What native-agent.test.ts does inside a node: an agent with NATIVE_NFTABLES=true and not one program of iptables, ipset or nft.
import { renderRulesCommand } from "../../src/cli/rules-command.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import type { VerifyReport } from "../../src/diagnose/verify-node.ts";
import { renderNativeSidecarText } from "../../src/redirection/native-sidecar.ts";
import { defaultSidecarOptions } from "../../src/redirection/sidecar-options.ts";
import type { PodDetailReport, PodListReport, PodReport } from "../../src/status/state-report.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { ask } from "../status/state-client.ts";
import { AGENT_BUNDLE, AgentProcess } from "../support/node/agent-process.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { inNetns, ipRules, iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { allowWithoutPrograms, WITHOUT_PROGRAMS } from "../support/node/without-programs.ts";

const modeLabel = "istio.io/dataplane-mode";
const host = "/proc/1/ns/net";
const socketPath = "/var/run/istio-cni/state.sock";
const native = { NATIVE_NFTABLES: "true" };
const bare = { wrapper: WITHOUT_PROGRAMS };
const iptables = { NATIVE_NFTABLES: "false" };

await allowWithoutPrograms();
const mesh = await MeshNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
mesh.kubelet.createNamespace("mesh", { [modeLabel]: "ambient" });
mesh.kubelet.createNamespace("toggled");
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace("injected", { "istio-injection": "enabled" });
const server = await mesh.plainPods.runPodSandbox({ namespace: "plain", name: "server" });
const serverApp = await server.startApp();
await serverApp.call.serveHttp(8080);
await serverApp.call.serveEcho(8081);
const target = { host: server.ip4, port: 8080 };

/** Without iptables' programs, and told to choose between its variants. @returns what it says of its readiness, and in its log */
export async function withoutPrograms(): Promise<{ ready: string; output: string }> {
  const agent = await AgentProcess.start({
    nodeName: "node-1",
    kubeconfig: commandEnv.KUBECONFIG,
    wrapper: WITHOUT_PROGRAMS,
  });
  await agent.untilLine("to have tried twice", () => agent.text.split("cannot start").length > 2);
  const ready = await (await fetch("http://127.0.0.1:8000/readyz")).text();
  await agent.stop();
  return { ready, output: agent.text };
}

await mesh.startZtunnel();
let pod: Pod | undefined;

/** Everything that is said of a pod that is captured natively by ADD, and the rules in it. */
export async function captured() {
  await mesh.startAgent(native, bare);
  pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "web" });
  await waitFor("the pod to be verified", async () => (await detail("web")).observed !== null);
  const { state, observed, summary } = await detail("web");
  return {
    state,
    summary,
    fingerprints: observed?.families.map(
      ({ fingerprint, wantedFingerprint }) => fingerprint === wantedFingerprint,
    ),
    drift: observed?.families.flatMap(({ drift }) => drift),
    bypasses: observed?.bypasses,
    rules: await rulesIn(pod.netns),
    wanted: await asPrinted(renderRulesCommand(["--native"])),
    iptables: [
      await iptablesSave(pod.netns, 4, { variant: "nft" }),
      await iptablesSave(pod.netns, 6, { variant: "nft" }),
    ],
    host: await rulesIn(host),
    addresses: { v4: pod.ip4, uid: pod.uid },
    ipset: (await inNetns(host, ["ipset", "list", "-n"])).stdout,
    ways: await waysOf(pod),
    status: await output(statusCommand.run, []),
    verify: await verified(),
  };
}

let sidecarPod: Pod | undefined;
const wantedSidecar = await asPrinted(
  renderNativeSidecarText(
    defaultSidecarOptions({ mode: "TPROXY", dnsCapture: true, dropInvalid: true, dualStack: true }),
    [4, 6],
  ),
);

/** A pod with a sidecar: its rules when its ADD is answered, after somebody hurt them, and what was said of it. */
export async function sidecar() {
  sidecarPod = await mesh.kubelet.runPod({
    namespace: "injected",
    name: "sidecar",
    ...injectedPod({
      annotations: { "sidecar.istio.io/interceptionMode": "TPROXY" },
      env: { ISTIO_META_DNS_CAPTURE: "true", INVALID_DROP: "true", ISTIO_DUAL_STACK: "true" },
    }),
  });
  const { netns } = sidecarPod;
  const rules = await rulesIn(netns);
  const routes = (await ipRules(netns, 4)).filter((line) => line.includes("lookup 133"));
  await inNetns(netns, ["nft", "flush", "chain", "inet", "istio-proxy-nat", "istio-output"]);
  await inNetns(netns, ["nft", "delete", "table", "inet", "istio-proxy-mangle"]);
  const hurt = await rulesIn(netns);
  await waitFor("the rules to be right again", async () => (await rulesIn(netns)) === rules);
  return {
    rules,
    wanted: wantedSidecar,
    hurt,
    routes,
    iptables: await iptablesSave(netns, 4, { variant: "nft" }),
    wasSaid: mesh.agent.lines.some(({ text }) => text.includes("a sidecar's rules were changed")),
  };
}

/** What the rules are after each label. */
export async function labelled(): Promise<{ off: string; on: string; again: string; ways: boolean[] }> {
  const toggled = await mesh.kubelet.runPod({ namespace: "toggled", name: "toggled" });
  const off = await rulesIn(toggled.netns);
  mesh.kubelet.labelNamespace("toggled", { [modeLabel]: "ambient" });
  await waitFor("the pod to be captured", async () => (await detail("toggled")).state === "enrolled", {
    timeoutMs: 10_000,
  });
  const on = await rulesIn(toggled.netns);
  const ways = await waysOf(toggled);
  mesh.kubelet.labelNamespace("toggled", { [modeLabel]: null });
  await waitFor("the pod to be free", async () => (await rulesIn(toggled.netns)) === "", {
    timeoutMs: 10_000,
  });
  await waitFor("the ip rule to go", async () => !(await ipRules(toggled.netns, 4)).join().includes("0x111"));
  const again = await rulesIn(toggled.netns);
  return { off, on, again, ways };
}

/** Rule changes that a new agent makes, in a pod and on the host, until it has looked at the pod twice. */
export async function restarted(): Promise<{ pod: number; host: number }> {
  const { netns } = web();
  const before = [await ruleGeneration(netns), await ruleGeneration(host)] as const;
  await mesh.agent.stop();
  await mesh.startAgent(native, bare);
  await looks(2);
  return { pod: (await ruleGeneration(netns)) - before[0], host: (await ruleGeneration(host)) - before[1] };
}

/** What `verify` says while nobody repairs, and the Event when somebody does. */
export async function damaged(): Promise<{
  verify: string[];
  event: string;
  whole: boolean;
  after: string[];
}> {
  const { netns } = web();
  const whole = await rulesIn(netns);
  await mesh.agent.kill();
  await inNetns(netns, ["nft", "flush", "chain", "inet", "istio-ambient-mangle", "istio-prerouting"]);
  await inNetns(netns, [
    "nft",
    "insert",
    "rule",
    "inet",
    "istio-ambient-nat",
    "istio-output",
    "counter",
    "accept",
  ]);
  await inNetns(host, ["nft", "flush", "chain", "inet", "istio-ambient-nat", "postrouting"]);
  const verify = await verified();
  await mesh.startAgent(native, bare);
  await waitFor("the pod to be repaired", async () => (await rulesIn(netns)) === whole, {
    timeoutMs: 10_000,
  });
  await waitFor("the host to be repaired", async () => (await rulesIn(host)).includes("snat ip to"), {
    timeoutMs: 10_000,
  });
  await inNetns(netns, ["nft", "delete", "table", "inet", "istio-ambient-raw"]);
  const reasons = () => eventsOf(web()).filter(({ reason }) => reason === "AmbientRepaired");
  await waitFor("the Event", () => reasons().some(({ message }) => message.includes("istio-output")), {
    timeoutMs: 15_000,
  });
  await looks(1);
  return {
    verify,
    event: reasons()
      .map(({ message }) => message)
      .join("\n"),
    whole: (await rulesIn(netns)) === whole,
    after: await verified(),
  };
}

/** Changes the node's mode under traffic, twice. Each request has a connection of its own. */
export async function switched() {
  const { netns } = web();
  const app = await appOf(web());
  const { stream, peer, own } = await app.call.openStream({ host: server.ip4, port: 8081 });
  const counts = { sent: 0, past: 0, failed: [] as string[] };
  const abort = new AbortController();
  const asking = (async () => {
    while (!abort.signal.aborted) {
      counts.sent++;
      try {
        const answer = await app.call.get(target);
        if (answer.peer.port === answer.own.port) counts.past++;
      } catch (error) {
        counts.failed.push((error as Error).message);
      }
    }
  })();
  const states = [];
  for (const [env, options] of [
    [iptables, {}],
    [native, bare],
  ] as const) {
    const sent = counts.sent;
    await mesh.agent.stop();
    await mesh.startAgent(env, options);
    await looks(2);
    const sidecarNetns = sidecarPod?.netns ?? "";
    const isIptables = env === iptables;
    await waitFor(
      "the sidecar's rules to be this mode's alone",
      async () =>
        ((await rulesIn(sidecarNetns)) === "") === isIptables &&
        (await iptablesSave(sidecarNetns, 4, { variant: "nft" })).includes("ISTIO") === isIptables,
      { timeoutMs: 10_000 },
    );
    states.push({
      sidecar: await rulesIn(sidecarNetns),
      rules: await rulesIn(netns),
      iptables: await iptablesSave(netns, 4, { variant: "nft" }),
      host: await rulesIn(host),
      hostIptables: await iptablesSave(host, 4, { variant: "nft" }),
      ipset: (await inNetns(host, ["ipset", "list"])).stdout,
      sent: counts.sent - sent,
      isOpen: (await app.call.exchange(stream, "still there")) === "still there",
    });
  }
  abort.abort();
  await asking;
  return {
    ...counts,
    states,
    wanted: await asPrinted(renderRulesCommand(["--native"])),
    wantedSidecar,
    wasCarried: peer.port !== own.port,
    verify: await verified(),
  };
}

/** What is left after `uninstall` without a program, and what it said. */
export async function uninstalled() {
  const { netns } = web();
  await mesh.agent.kill();
  const { code, stdout, stderr } = await run(
    [...WITHOUT_PROGRAMS, process.execPath, AGENT_BUNDLE, "uninstall", "--quiet-seconds", "0"],
    { env: cleanEnv(commandEnv), mayFail: true, timeoutMs: 60_000 },
  );
  return {
    code,
    output: stdout + stderr,
    pod: await rulesIn(netns),
    routing: (await ipRules(netns, 4)).join(),
    host: await rulesIn(host),
    isDirect: !(await waysOf(web())).includes(true),
  };
}

function web(): Pod {
  if (pod === undefined) throw new Error("no pod was captured");
  return pod;
}

/** Native rules as nft lists them. */
async function rulesIn(netns: string): Promise<string> {
  const { stdout } = await inNetns(netns, ["nft", "--stateless", "list", "tables", "inet"]);
  const texts = [];
  for (const [, table = ""] of stdout.matchAll(/^table inet (\S+)$/gm))
    texts.push((await inNetns(netns, ["nft", "--stateless", "list", "table", "inet", table])).stdout);
  return byName(texts.join(""));
}

/** Tables in the order of their names. */
function byName(text: string): string {
  return text
    .split(/^(?=table )/m)
    .sort()
    .join("");
}

/** A text of rules as this machine's nft prints them once the kernel has them: each version has words of its own. */
async function asPrinted(text: string): Promise<string> {
  const argv = ["unshare", "--net", "--", "sh", "-c", "nft --file - && nft --stateless list ruleset"];
  return byName((await run(argv, { stdin: text })).stdout);
}

const apps = new Map<Pod, ReturnType<Pod["startApp"]>>();

function appOf(of: Pod): ReturnType<Pod["startApp"]> {
  const app = apps.get(of) ?? of.startApp();
  apps.set(of, app);
  return app;
}

/** Of some requests, whether ztunnel carried them. */
async function waysOf(from: Pod): Promise<boolean[]> {
  const app = await appOf(from);
  const answers = [await app.call.get(target), await app.call.get(target)];
  return answers.map(({ peer, own }) => peer.port !== own.port);
}

async function looks(count: number): Promise<void> {
  const at = async () => (await listed("web"))?.observed?.at ?? "";
  for (let seen = 0, last = await at(); seen < count; seen++)
    last = await waitFor(
      "another look",
      async () => {
        const next = await at();
        return next !== last && next;
      },
      { timeoutMs: 15_000 },
    );
}

/** From the agent's memory. */
async function listed(name: string): Promise<PodReport | undefined> {
  const { pods } = (await ask({ socketPath }, "/api/v1/pods")).json() as unknown as PodListReport;
  return pods.find((each) => each.name === name);
}

/** From the kernel. */
async function detail(name: string): Promise<PodDetailReport> {
  const ns = name === "web" ? "mesh" : "toggled";
  return (await ask({ socketPath }, `/api/v1/pods/${ns}/${name}`)).json() as unknown as PodDetailReport;
}

async function verified(): Promise<string[]> {
  const { faults, unverified, unseen } = JSON.parse(
    await output(verifyCommand.run, ["--json"]),
  ) as VerifyReport;
  return [...[...faults, ...unverified].map(({ kind, what }) => `${kind}: ${what}`), ...unseen];
}

async function output(run: typeof verifyCommand.run, args: readonly string[]): Promise<string> {
  const io = capturedIo({ ...commandEnv, ...native });
  await run(args, io);
  return io.out();
}

function eventsOf({ uid }: Pod): { reason: string; message: string }[] {
  type Event = { involvedObject: { uid: string }; reason: string; message: string };
  const events = mesh.api.store.list("events") as unknown as Event[];
  return events.filter(({ involvedObject }) => involvedObject.uid === uid);
}
