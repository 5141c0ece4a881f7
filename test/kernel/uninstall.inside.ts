// SPDX-License-Identifier: Apache-2.0
// What uninstall.test.ts does inside a node: an installed agent with captured pods dies, and the command cleans up after it.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { silentLogger } from "../../src/log/logger.ts";
import { type UninstallOptions, type UninstallReport, uninstallNode } from "../../src/uninstall/uninstall.ts";
import { isServed } from "../../src/uninstall/uninstall-calls.ts";
import { AGENT_BUNDLE } from "../support/node/agent-process.ts";
import { execPlugin } from "../support/node/cni-exec.ts";
import { nativeHostRules, nativePodRules } from "../support/node/istio-native.ts";
import { inNetns, iptablesSave } from "../support/node/kernel.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const modeLabel = "istio.io/dataplane-mode";
const binDir = "/run/node/bin";
const netDir = "/run/node/net.d";
const runDir = "/var/run/istio-cni";
const socket = `${runDir}/pluginevent.sock`;
const conflist = `${netDir}/10-podnet.conflist`;
const original = `{\n\t"cniVersion": "1.0.0", "name": "podnet",\n\t"plugins": [\n\t\t{"type": "bridge"}\n\t]\n}\n`;
const host = "/proc/1/ns/net";
const cache = "/var/lib/cni/results";
const env = {
  HOST_ROOT: "/",
  MOUNTED_CNI_NET_DIR: netDir,
  MOUNTED_CNI_BIN_DIR: binDir,
  CNI_AGENT_RUN_DIR: runDir,
};

// the machine's own may name other tests' plugins
await run(["mount", "-t", "tmpfs", "none", "/var/lib"]);
mkdirSync(cache, { recursive: true });
mkdirSync(binDir, { recursive: true });
mkdirSync(netDir, { recursive: true });
const mesh = await MeshNode.start({
  agentEnv: { ...env, INSTALL_CNI_PLUGIN: "true", RECONCILE_INTERVAL_SECONDS: "1" },
});
mesh.kubelet.createNamespace("mesh");
mesh.kubelet.createNamespace("plain");
let counter = 0;

/** The run of a command. */
export interface Run {
  readonly code: number;
  readonly output: string;
}

/** Runs `ambient-cni uninstall` as an operator does: no NODE_NAME, no API server. */
export async function uninstall(args: readonly string[] = []): Promise<Run> {
  const { code, stdout, stderr } = await run(
    [process.execPath, AGENT_BUNDLE, "uninstall", "--quiet-seconds", "0", ...args],
    { env: cleanEnv(env), mayFail: true, timeoutMs: 60_000 },
  );
  return { code, output: stdout + stderr };
}

interface Scene {
  readonly pods: readonly Pod[];
  /** Everything of everybody else, before an agent captured anything. */
  readonly before: Readonly<Record<string, string>>;
  /** Namespaces without a process, as between ADD and the first process. */
  readonly bare: readonly string[];
}

/** Pods and a host with rules of others, then captured, then without an agent. */
async function captureAndDie(variant: "nft" | "legacy"): Promise<Scene> {
  mesh.kubelet.labelNamespace("mesh", { [modeLabel]: null });
  writeFileSync(conflist, original, { mode: 0o640 });
  await mesh.startAgent({ FORCE_IPTABLES_BINARY: variant });
  await mesh.startZtunnel();
  const names = ["web", "db", "sidecar"].map((name) => `${name}-${++counter}`);
  const pods = await Promise.all(
    names.map((name) =>
      mesh.kubelet.runPod({ namespace: name.startsWith("sidecar") ? "plain" : "mesh", name }),
    ),
  );
  for (const pod of pods.slice(0, 2)) await addForeignRules(pod.netns);
  await addForeignRules(host);
  await addSidecarRules(pods[2]?.netns ?? "");
  const bare = await Promise.all([mesh.pods.cni.createNetns(), mesh.pods.cni.createNetns()]);
  for (const netns of bare) await inNetns(netns, ["ip", "link", "set", "lo", "up"]);
  const now = await othersOf(pods, bare);
  // the agent is at work on the host already; what is found at the end is not filtered
  const others = (text: string) => text.split("\n").filter((line) => !/ISTIO_POSTRT|istio-inpod/.test(line));
  const before = { ...now, host: others(now.host ?? "").join("\n") };
  mesh.kubelet.labelNamespace("mesh", { [modeLabel]: "ambient" });
  const isCaptured = async (pod: Pod) =>
    (await iptablesSave(pod.netns, 6, { variant })).includes("15001") &&
    mesh.kubelet.annotation(pod, "ambient.istio.io/redirection") === "enabled";
  for (const pod of pods.slice(0, 2))
    await waitFor("the pod to be captured", () => isCaptured(pod), { timeoutMs: 20_000 });
  await waitFor("the host's rule", async () =>
    (await iptablesSave(host, 4, { variant })).includes("ISTIO_POSTRT"),
  );
  await waitFor("our entry", () => readFileSync(conflist, "utf8").includes('"ambient-cni"'));
  await mesh.agent.kill();
  // as an agent that died at its first steps leaves it
  await inNetns(bare[0], ["ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"]);
  // as somebody leaves a pod who flushed the ip rules, but not ours
  await inNetns(pods[1]?.netns ?? "", ["ip", "rule", "del", "pref", "32764"]);
  await inNetns(pods[1]?.netns ?? "", ["ip", "-6", "rule", "del", "pref", "32764"]);
  await inNetns(pods[1]?.netns ?? "", ["ip", "route", "flush", "table", "100"]);
  await inNetns(pods[1]?.netns ?? "", ["ip", "-6", "route", "flush", "table", "100"]);
  // as an istio-cni with NATIVE_NFTABLES leaves them, which our agent would have removed
  await addNativeTables(bare[1], nativePodRules);
  await addNativeTables(host, nativeHostRules);
  // a set that an agent was about to exchange
  await inNetns(host, ["ipset", "create", "-exist", "istio-inpod-probes-v4-new", "hash:ip", "comment"]);
  assert.match(await everything(pods, bare), /ISTIO_PRERT/);
  return { pods, before, bare };
}

async function addNativeTables(netns: string, text: string): Promise<void> {
  const file = "/run/node/native.nft";
  writeFileSync(file, text);
  await inNetns(netns, ["nft", "-f", file]);
}

async function addForeignRules(netns: string): Promise<void> {
  for (const tool of ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"]) {
    const wait = tool.endsWith("legacy") ? ["-w"] : [];
    await inNetns(
      netns,
      [tool, ...wait, "-t", "nat", "-C", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT"],
      true,
    ).then(async ({ code }) => {
      if (code === 0) return;
      await inNetns(netns, [
        tool,
        ...wait,
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "--dport",
        "9",
        "-j",
        "ACCEPT",
      ]);
      await inNetns(netns, [tool, ...wait, "-t", "mangle", "-N", "FOREIGN"]);
      await inNetns(netns, [
        tool,
        ...wait,
        "-t",
        "mangle",
        "-A",
        "PREROUTING",
        "-m",
        "mark",
        "--mark",
        "0x7",
        "-j",
        "FOREIGN",
      ]);
      await inNetns(netns, [
        tool,
        ...wait,
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-m",
        "mark",
        "--mark",
        "0x8",
        "-j",
        "ACCEPT",
      ]);
    });
  }
  await inNetns(netns, ["ip", "rule", "add", "fwmark", "0x5", "pref", "100", "lookup", "77"], true);
  await inNetns(netns, ["ipset", "create", "-exist", "foreign", "hash:ip"]);
}

/** A sidecar's chain has the name of one of ours. */
async function addSidecarRules(netns: string): Promise<void> {
  const commands = [
    "-N ISTIO_REDIRECT",
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    "-N ISTIO_OUTPUT",
  ];
  for (const command of [...commands, "-A OUTPUT -p tcp -j ISTIO_OUTPUT", "-A ISTIO_OUTPUT -o lo -j RETURN"])
    await inNetns(netns, ["iptables-nft", "-t", "nat", ...command.split(" ")]);
}

/** What belongs to others: rules and chains (not empty tables), ip rules, routes, sets. */
async function othersOf(pods: readonly Pod[], bare: readonly string[]): Promise<Record<string, string>> {
  const all: Record<string, string> = {};
  for (const [name, netns] of [
    ["host", host],
    ...bare.map((netns, index) => [`bare ${index}`, netns]),
    ...pods.map((pod) => [pod.spec.name, pod.netns]),
  ]) {
    all[String(name)] = await stateOf(String(netns));
  }
  return all;
}

async function stateOf(netns: string): Promise<string> {
  const lines: string[] = [];
  for (const variant of ["nft", "legacy"] as const) {
    for (const family of [4, 6] as const) {
      let table = "";
      for (const line of (await iptablesSave(netns, family, { variant })).split("\n")) {
        if (line.startsWith("*")) table = line;
        // built-in chains have a policy; an empty table that is left is nothing
        const isRule = line.startsWith("-") || (line.startsWith(":") && line.includes(" - "));
        if (isRule) lines.push(`${variant} ${family} ${table} ${line}`);
      }
    }
  }
  for (const family of ["-4", "-6"]) {
    lines.push((await inNetns(netns, ["ip", family, "rule", "show"])).stdout);
    const routes = (await inNetns(netns, ["ip", family, "route", "show", "table", "all"], true)).stdout;
    // the kernel adds and removes these by itself, as links and their peers come and go
    lines.push(...routes.split("\n").filter((line) => !/table local|fe80:|veth/.test(line)));
  }
  lines.push(
    (await inNetns(netns, ["ipset", "save"])).stdout.replaceAll(/ (hashsize|bucketsize|initval) \S+/g, ""),
  );
  lines.push((await inNetns(netns, ["nft", "list", "tables", "inet"])).stdout);
  return lines.join("\n");
}

async function everything(pods: readonly Pod[], bare: readonly string[]): Promise<string> {
  return Object.values(await othersOf(pods, bare)).join("\n");
}

/** Nothing of ours, all of the others', and pods that reach each other without any proxy. */
async function claimClean({ pods, before, bare }: Scene): Promise<void> {
  assert.deepEqual(await othersOf(pods, bare), before);
  assert.equal(readFileSync(conflist, "utf8"), original);
  assert.deepEqual(readdirSync(netDir), ["10-podnet.conflist"]);
  assert.deepEqual(readdirSync(binDir), []);
  assert.deepEqual(readdirSync(runDir), []);
  assert.equal(existsSync("/var/run/ztunnel/ztunnel.sock"), false);
  // what a proxy carried would fail from here on
  await mesh.ztunnel.kill();
  const [server, client] = [await pods[0]?.startApp(), await pods[1]?.startApp()];
  if (server === undefined || client === undefined) throw new Error("no pods");
  await server.call.serveHttp(8080);
  for (const address of [pods[0]?.ip4, pods[0]?.ip6]) {
    const answer = await client.call.get({ host: String(address), port: 8080 });
    assert.ok(pods[1]?.ips.includes(answer.peer.address), `the server saw ${answer.peer.address}`);
  }
}

async function endScene({ pods, bare }: Scene): Promise<void> {
  mesh.kubelet.labelNamespace("mesh", { [modeLabel]: null });
  for (const pod of pods) {
    mesh.api.delete("pods", pod.spec.name, pod.spec.namespace);
    await pod.delete();
  }
  for (const netns of bare) await mesh.pods.cni.removeNetns(netns);
}

/** The whole way with one backend: nothing changes in a dry run, everything goes, a second run has nothing to do. */
export async function wholeWay(variant: "nft" | "legacy"): Promise<{ dry: Run; first: Run; second: Run }> {
  const scene = await captureAndDie(variant);
  const seen = await everything(scene.pods, scene.bare);
  const files = [...readdirSync(runDir), ...readdirSync(binDir), readFileSync(conflist, "utf8")];
  const dry = await uninstall(["--dry-run"]);
  assert.equal(await everything(scene.pods, scene.bare), seen, "the dry run changed something");
  assert.deepEqual([...readdirSync(runDir), ...readdirSync(binDir), readFileSync(conflist, "utf8")], files);
  const first = await uninstall();
  assert.equal(first.code, 0, first.output);
  await claimClean(scene);
  const second = await uninstall();
  await endScene(scene);
  return { dry, first, second };
}

/** With an API server to tell istiod by: how it refuses, or that it does not. */
export async function withApi(
  refusal: number | undefined,
): Promise<Run & { captured: boolean; annotation: string }> {
  mesh.kubelet.labelNamespace("mesh", { [modeLabel]: "ambient" });
  writeFileSync(conflist, original);
  await mesh.startAgent();
  await mesh.startZtunnel();
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: `told-${++counter}` });
  const annotation = () => mesh.kubelet.annotation(pod, "ambient.istio.io/redirection") ?? "none";
  await waitFor("the annotation", () => annotation() === "enabled");
  await mesh.agent.kill();
  if (refusal !== undefined) mesh.api.faults.failures.push({ status: refusal });
  const { code, stdout, stderr } = await run(
    [process.execPath, AGENT_BUNDLE, "uninstall", "--quiet-seconds", "0"],
    { env: cleanEnv({ ...env, KUBECONFIG: "/run/node/kubeconfig" }), mayFail: true, timeoutMs: 60_000 },
  );
  mesh.api.faults.failures.length = 0;
  const captured = (await iptablesSave(pod.netns, 4, { variant: "nft" })).includes("ISTIO_PRERT");
  const seen = { code, output: stdout + stderr, captured, annotation: annotation() };
  mesh.kubelet.labelNamespace("mesh", { [modeLabel]: null });
  await mesh.ztunnel.kill();
  mesh.api.delete("pods", pod.spec.name, pod.spec.namespace);
  await pod.delete();
  return seen;
}

/** Killed at many moments, then run to its end. @returns at how many of them it was still at work */
export async function killed(delaysMs: readonly number[]): Promise<number> {
  const scene = await captureAndDie("nft");
  let atWork = 0;
  for (const delayMs of delaysMs) {
    const command = new ManagedProcess(
      [process.execPath, AGENT_BUNDLE, "uninstall", "--quiet-seconds", "1"],
      { name: "uninstall", env: cleanEnv(env) },
    );
    // not a wait for anything: another moment each time
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    if (command.running) atWork++;
    await command.kill();
    // the chain never names a launcher that is not there
    const isNamed = readFileSync(conflist, "utf8").includes('"ambient-cni"');
    assert.ok(!isNamed || readdirSync(binDir).includes("ambient-cni"), `after ${delayMs} ms`);
  }
  const last = await uninstall();
  assert.equal(last.code, 0, last.output);
  await claimClean(scene);
  await endScene(scene);
  return atWork;
}

/** An agent that runs keeps its node. */
export async function liveAgent(): Promise<Run> {
  writeFileSync(conflist, original);
  await mesh.startAgent();
  const answer = await uninstall();
  assert.match(readFileSync(conflist, "utf8"), /"ambient-cni"/);
  await mesh.agent.kill();
  const { code, output } = await uninstall();
  assert.equal(code, 0, output);
  return answer;
}

/** Calls of the launcher while the node is being left. */
export async function callsMeanwhile(): Promise<{ del: string; add: string; exempt: string; run: Run }> {
  writeFileSync(conflist, original);
  await mesh.startAgent();
  await mesh.agent.kill();
  const launcher = "/run/node/launcher";
  mkdirSync(launcher);
  await run(["cp", `${binDir}/ambient-cni`, launcher]);
  const leaving = run([process.execPath, AGENT_BUNDLE, "uninstall", "--quiet-seconds", "2"], {
    env: cleanEnv(env),
    mayFail: true,
    timeoutMs: 30_000,
  });
  await waitFor("somebody at the socket", () => isServed(socket));
  const call = async (verb: "ADD" | "DEL"): Promise<string> => {
    const stdin = JSON.stringify({
      cniVersion: "1.0.0",
      name: "podnet",
      type: "ambient-cni",
      cni_agent_run_dir: runDir,
      exempt: ["kube-system"],
      prevResult: { cniVersion: "1.0.0", ips: [] },
    });
    const namespace = exemptNow ? "kube-system" : "mesh";
    return await execPlugin({
      type: "ambient-cni",
      binDirs: [launcher],
      stdin,
      timeoutMs: 9_000,
      env: {
        CNI_COMMAND: verb,
        CNI_CONTAINERID: "a".repeat(64),
        CNI_NETNS: "/run/netns/none",
        CNI_IFNAME: "eth0",
        CNI_PATH: launcher,
        CNI_ARGS: `K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=p`,
      },
    }).catch((error: Error) => error.message);
  };
  let exemptNow = false;
  const del = await call("DEL");
  const add = await call("ADD");
  exemptNow = true;
  const exempt = await call("ADD");
  const { code, stdout, stderr } = await leaving;
  await run(["rm", "-r", launcher]);
  return { del, add, exempt, run: { code, output: stdout + stderr } };
}

/** With a runtime that keeps each pod's chain the launcher stays until the pods are gone. */
export async function keptChains(): Promise<{ kept: Run; afterwards: Run }> {
  writeFileSync(conflist, original);
  await mesh.startAgent();
  await mesh.agent.kill();
  // as libcni writes it; no containerd runs here
  const config = readFileSync(conflist).toString("base64");
  const cached = { kind: "cniCacheV1", containerId: "a", config, ifName: "eth0", networkName: "podnet" };
  writeFileSync(`${cache}/podnet-a-eth0`, JSON.stringify(cached));
  const kept = await uninstall();
  assert.deepEqual(readdirSync(binDir), ["ambient-cni"]);
  await run(["rm", `${cache}/podnet-a-eth0`]);
  const afterwards = await uninstall();
  assert.deepEqual(readdirSync(binDir), []);
  return { kept, afterwards };
}

/** After a reboot the run dir is gone; what is on disk is removed all the same. */
export async function afterReboot(): Promise<Run> {
  writeFileSync(conflist, original);
  await mesh.startAgent();
  await mesh.agent.kill();
  await run(["rm", "-r", runDir]);
  const answer = await uninstall();
  assert.equal(existsSync(runDir), false);
  assert.equal(readFileSync(conflist, "utf8"), original);
  assert.deepEqual(readdirSync(binDir), []);
  return answer;
}

/** A chain that cannot be written keeps its launcher, and the list of whom that lets start; the rest goes. */
export async function chainReadOnly(): Promise<{ stuck: Run; afterwards: Run }> {
  writeFileSync(conflist, original);
  await mesh.startAgent();
  await mesh.agent.kill();
  await run(["mount", "--bind", netDir, netDir]);
  await run(["mount", "-o", "remount,bind,ro", netDir]);
  const stuck = await uninstall();
  assert.deepEqual(readdirSync(binDir), ["ambient-cni", "ambient-cni.exempt-namespaces"]);
  await run(["umount", netDir]);
  const afterwards = await uninstall();
  assert.deepEqual(readdirSync(binDir), []);
  return { stuck, afterwards };
}

/** A socket that somebody serves is not ours to remove, unless it is our own agent that leaves. */
export async function servedSocket(): Promise<{ command: Run; agent: UninstallReport }> {
  const server = await serve(`${runDir}/state.sock`);
  const command = await uninstall();
  assert.deepEqual(readdirSync(runDir), ["state.sock"]);
  const agent = await uninstallNode(asAgent);
  assert.deepEqual(readdirSync(runDir), []);
  await new Promise((resolve) => server.close(resolve));
  return { command, agent };
}

/** An agent that leaves finds another one in its place. */
export async function successor(): Promise<UninstallReport> {
  writeFileSync(
    conflist,
    original.replace('{"type": "bridge"}', '{"type": "bridge"}, {"type": "ambient-cni"}'),
  );
  const server = await serve(socket);
  const report = await uninstallNode(asAgent);
  assert.match(readFileSync(conflist, "utf8"), /ambient-cni/);
  await new Promise((resolve) => server.close(resolve));
  await uninstall();
  return report;
}

const asAgent: UninstallOptions = {
  hostRoot: "/",
  runDir,
  netDir,
  binDir,
  pluginSocketPath: socket,
  ztunnelSocketPath: "/var/run/ztunnel/ztunnel.sock",
  ownedFileName: undefined,
  hostNetnsPath: "/proc/self/ns/net",
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
  quietMs: 0,
  isAgent: true,
  log: silentLogger,
};

async function serve(path: string): Promise<Server> {
  mkdirSync(runDir, { recursive: true });
  // reads and says nothing
  const server = createServer((socket) => socket.on("error", () => {}).resume());
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}
