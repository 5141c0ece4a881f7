// SPDX-License-Identifier: Apache-2.0
// What probes.test.ts does inside a node: pods behind a stand-in ztunnel that refuses all inbound traffic, and real packets.
import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { Netns, openNetnsCount } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";
import type { HostProbesOptions } from "../../src/probes/host-probes-options.ts";
import { checkProbePath, type ProbePathResult } from "../../src/probes/probe-path-check.ts";
import {
  type ProbedPod,
  type ProbePathReport,
  type ProbePathState,
  ProbePathWatch,
  type ProbePathWatchOptions,
} from "../../src/probes/probe-path-watch.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import { ZdsServer } from "../../src/ztunnel/zds-server.ts";
import { joinCgroup, removeCgroup } from "../support/node/cgroup.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { bridgeConflist } from "../support/node/conflist.ts";
import { requireNode } from "../support/node/inside.ts";
import { patience } from "../support/node/patience.ts";
import { type Pod, type PodApp, PodRuntime } from "../support/node/pod.ts";
import { get } from "../support/node/pod-app.ts";
import { RemoteModule } from "../support/node/remote-module.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { StandIn } from "../support/ztunnel/stand-in.ts";

type Family = 4 | 6;

const node = requireNode();
const probeSnat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;
const serviceAddress = { 4: "10.96.0.10", 6: "fd10:96::10" } as const;
const appPort = 8080;
const servicePort = 80;
const hostNetnsPath = "/proc/self/ns/net";
const moduleHost = join(import.meta.dirname, "../support/node/module-host.ts");

const cni = new CniRuntime();
function network(name: string, subnet: number): PodRuntime {
  const subnets = { subnetV4: `10.${subnet}.0.0/16`, subnetV6: `fd10:${subnet}::/64` };
  const conflist = bridgeConflist({ name, bridge: `${name}0`, leaseDir: `${node.scratch}/ipam`, ...subnets });
  return new PodRuntime({ cni, network: conflist, cgroupFolder: node.cgroupFolder });
}
const here = network("here", 210);
const elsewhere = network("elsewhere", 211);

const host = Netns.open(hostNetnsPath);
const backend = await chooseBackend({ variant: "nft", runDir: node.scratch, hostProcess: "/proc/self" });
const redirection = new PodRedirection({ backend, hostNetns: new Set([host.key]), ipv6: true });
const zdsPath = `${node.scratch}/zds.sock`;
const server = new ZdsServer({ path: zdsPath, log: silentLogger });
server.listen();
const ztunnel = await StandIn.start({
  socket: zdsPath,
  depth: "sockets",
  refuseInbound: true,
});
await ztunnel.waitForReady();

const warnings: string[] = [];
let probes = newProbes();
await probes.start();

interface Enrolled {
  readonly pod: Pod;
  readonly app: PodApp;
  readonly netns: Netns;
}

function newProbes(options: Partial<HostProbesOptions> = {}): HostProbes {
  return new HostProbes({
    hostNetnsPath,
    backend,
    probeSnatV4: probeSnat[4],
    probeSnatV6: probeSnat[6],
    ipv6: true,
    log: { ...silentLogger, warn: (_fields, message) => void warnings.push(message) },
    onstate: () => {},
    ...options,
  });
}

let podCount = 0;
const made: Enrolled[] = [];

async function runApp(runtime = here): Promise<Enrolled> {
  const pod = await runtime.runPodSandbox({ namespace: "shop", name: `pod-${podCount++}` });
  const app = await pod.startApp();
  await app.call.serveHttp(appPort);
  const entry = { pod, app, netns: Netns.open(pod.netns) };
  made.push(entry);
  return entry;
}

/** Captures a pod as the enrolment does, but for the probes. */
async function capture({ pod, netns }: Enrolled): Promise<void> {
  const options = { dnsCapture: true, ingressMode: false, virtualInterfaces: [] };
  const snat = { probeSnatV4: probeSnat[4], probeSnatV6: probeSnat[6] };
  await redirection.apply(netns, { ...options, ...snat });
  const workload = { name: pod.spec.name, namespace: "shop", serviceAccount: "default" };
  await server.add({ uid: pod.uid, netns, workload });
}

async function release({ pod, netns }: Enrolled): Promise<void> {
  await server.remove(pod.uid);
  netns.close();
  await pod.delete();
}

function address({ pod }: Enrolled, family: Family): string {
  return family === 4 ? pod.ip4 : pod.ip6;
}

/** The source address the pod saw, or the code of the failure. */
async function ask(request: Promise<{ peer: { address: string } }>): Promise<string> {
  return await request.then(
    ({ peer }) => peer.address,
    (error: NodeJS.ErrnoException) =>
      error.code ?? /ECONN\w+|socket hang up|no answer/.exec(error.message)?.[0] ?? error.message,
  );
}

function fromHost(to: Enrolled, family: Family): Promise<string> {
  return ask(get({ host: address(to, family), port: appPort, timeoutMs: 1500 }));
}

/** Connections the stand-in has seen on its plaintext port. */
async function refusedBy(pod: Enrolled): Promise<number> {
  const { workloads } = await ztunnel.stats();
  return workloads[pod.pod.uid]?.ports["15006"]?.connections ?? 0;
}

/** Takes everything down between two tests. */
export async function reset(): Promise<void> {
  for (const entry of made.splice(0)) await release(entry);
  await probes.stop();
  for (const tool of ["iptables", "ip6tables"]) await run([tool, "-t", "nat", "-F"]);
  probes = newProbes();
  await probes.start();
  warnings.length = 0;
}

/** HTTP from a host process before capture, captured, and captured with the host's side in place. */
export async function httpProbe(family: Family): Promise<Record<string, string | number>> {
  const app = await runApp();
  const before = await fromHost(app, family);
  await capture(app);
  const captured = await fromHost(app, family);
  const refused = await refusedBy(app);
  await probes.set(app.pod.uid, app.pod.ips);
  const passing = await fromHost(app, family);
  const refusedLater = await refusedBy(app);
  await probes.remove(app.pod.uid);
  const removed = await fromHost(app, family);
  return { before, captured, refused, passing, refusedLater, removed };
}

/** A bare TCP connection, as a tcpSocket probe makes it, to a port where the app listens and to one where it does not. */
export async function tcpProbe(family: Family): Promise<{ open: string; closed: string; refused: number }> {
  const app = await runApp();
  await capture(app);
  await probes.set(app.pod.uid, app.pod.ips);
  const open = await dial(address(app, family), appPort);
  const closed = await dial(address(app, family), appPort + 1);
  return { open, closed, refused: await refusedBy(app) };
}

function dial(to: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: to, port });
    socket.on("connect", () => {
      // one that ztunnel accepted is reset a moment later
      socket.write("GET / HTTP/1.0\r\n\r\n");
    });
    socket.on("data", () => {
      socket.destroy();
      resolve("connected");
    });
    socket.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? ""));
  });
}

/** A command in the pod that asks the app, as an exec probe does. */
export async function execProbe(): Promise<string[]> {
  const app = await runApp();
  await capture(app);
  await probes.set(app.pod.uid, app.pod.ips);
  const script = `require("http").get(process.argv[1], (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on("error", () => process.exit(2))`;
  const codes: string[] = [];
  for (const target of ["127.0.0.1", "[::1]", app.pod.ip4, `[${app.pod.ip6}]`]) {
    const { code } = await app.pod.exec([process.execPath, "-e", script, `http://${target}:${appPort}/`], {
      mayFail: true,
    });
    codes.push(`${target.startsWith("[") ? 6 : 4} ${code}`);
  }
  return codes;
}

/**
 * Connections through a DNAT on the host as kube-proxy makes it, from a pod of the same bridge and from one behind
 * another: before the target is captured (the DNAT works) and after (it must be ztunnel's).
 */
export async function forwarded(family: Family): Promise<Record<string, string[]>> {
  const target = await runApp();
  const clients = [await runApp(here), await runApp(elsewhere)];
  const tool = family === 4 ? "iptables" : "ip6tables";
  const to = family === 4 ? `${target.pod.ip4}:${appPort}` : `[${target.pod.ip6}]:${appPort}`;
  const service = serviceAddress[family];
  const dnat = [
    "-d",
    service,
    "-p",
    "tcp",
    "--dport",
    String(servicePort),
    "-j",
    "DNAT",
    "--to-destination",
    to,
  ];
  await run([tool, "-t", "nat", "-A", "PREROUTING", ...dnat]);
  const viaService = () =>
    Promise.all(
      clients.map((client) =>
        ask(client.app.call.get({ host: service, port: servicePort, timeoutMs: 1500 })),
      ),
    );
  const direct = () =>
    Promise.all(
      clients.map((client) =>
        ask(client.app.call.get({ host: address(target, family), port: appPort, timeoutMs: 1500 })),
      ),
    );
  const sources = clients.map((client) => address(client, family));
  const [plainService, plainDirect] = [await viaService(), await direct()];
  assert.equal(plainService.length, 2);
  await capture(target);
  await probes.set(target.pod.uid, target.pod.ips);
  const refusedBefore = await refusedBy(target);
  const [service2, direct2] = [await viaService(), await direct()];
  const refused = (await refusedBy(target)) - refusedBefore;
  return {
    sources,
    plainService,
    plainDirect,
    service: service2,
    direct: direct2,
    host: [await fromHost(target, family)],
    refused: [String(refused)],
  };
}

/** The same from the node's point of view when somebody masquerades everything that is forwarded. */
export async function masqueraded(): Promise<string[]> {
  const target = await runApp();
  const client = await runApp(elsewhere);
  await run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-d", target.pod.ip4, "-j", "MASQUERADE"]);
  await capture(target);
  await probes.set(target.pod.uid, target.pod.ips);
  const fromClient = await ask(client.app.call.get({ host: target.pod.ip4, port: appPort, timeoutMs: 1500 }));
  return [fromClient, await fromHost(target, 4)];
}

/** How long after a disturbance a probe passes again, by default with the timer as it is. */
export async function healed(
  command: readonly string[],
  options: { intervalMs?: number } = {},
): Promise<{ broken: string; afterMs: number }> {
  await probes.stop();
  probes = newProbes(options);
  const app = await runApp();
  await capture(app);
  await probes.set(app.pod.uid, app.pod.ips);
  assert.equal(await fromHost(app, 4), probeSnat[4]);
  await run(command, { mayFail: true });
  const startMs = performance.now();
  const broken = await fromHost(app, 4);
  await waitFor("a probe to pass", async () => (await fromHost(app, 4)) === probeSnat[4], {
    timeoutMs: 10_000,
    intervalMs: 50,
  });
  const afterMs = performance.now() - startMs;
  await waitFor("an IPv6 probe to pass", async () => (await fromHost(app, 6)) === probeSnat[6]);
  return { broken, afterMs };
}

/** Which hosts' processes pass with PROBE_MATCH=kubelet, and what happens when the kubelet is restarted. */
export async function kubeletOnly(): Promise<Record<string, string>> {
  await probes.stop();
  const app = await runApp();
  await capture(app);
  const folder = join(node.cgroupFolder, "kubelet.service");
  let kubelet = await startKubelet(folder);
  probes = newProbes({ match: "kubelet" });
  await probes.start();
  await probes.set(app.pod.uid, app.pod.ips);
  const match = await matchWritten();
  const results: Record<string, string> = {
    match,
    kubelet: await probeAs(kubelet, app),
    other: await fromHost(app, 4),
  };
  results.unprivileged = await asUser(app.pod.ip4);
  if (match === "cgroup") {
    await kubelet.end();
    await removeCgroup(folder);
    kubelet = await startKubelet(folder);
    results.stale = await probeAs(kubelet, app);
    const later = await waitFor(
      "a probe of the new kubelet to pass",
      async () => (await probeAs(kubelet, app)) === probeSnat[4],
      { timeoutMs: 6_000, intervalMs: 100 },
    );
    results.restarted = String(later);
  }
  await kubelet.end();
  await removeCgroup(folder);
  return { ...results, restored: String(probes.counts.restored) };
}

/** The rule as an agent writes it that sees itself in the root of the cgroup hierarchy. */
export async function kubeletFromOwnCgroupNs(): Promise<{ isRight: boolean; rule: string }> {
  await probes.stop();
  const folder = join(node.cgroupFolder, "kubelet.service");
  const kubelet = await startKubelet(folder);
  const agent = new RemoteModule<typeof import("./probes-agent.inside.ts")>(
    fork(moduleHost, [join(import.meta.dirname, "probes-agent.inside.ts")], {
      execPath: "unshare",
      execArgv: ["--cgroup", "--", process.execPath],
      env: cleanEnv(),
      serialization: "advanced",
    }),
  );
  await agent.ready;
  const isRight = await agent.call.assertOnce();
  const rule = await ruleWritten();
  await kubelet.end();
  await removeCgroup(folder);
  return { isRight, rule };
}

async function ruleWritten(): Promise<string> {
  const { stdout } = await run(["iptables-save", "-t", "nat"]);
  return /^-A ISTIO_POSTRT.*$/m.exec(stdout)?.[0] ?? "";
}

/** What the kubelet is told by. */
async function matchWritten(): Promise<"cgroup" | "uid" | "any"> {
  const rule = await ruleWritten();
  return rule.includes("-m cgroup ") ? "cgroup" : rule.includes("--uid-owner ") ? "uid" : "any";
}

/** A kubelet that is in no cgroup of version 2 but the root: its user is all there is to go by. */
export async function kubeletInRoot(): Promise<{
  match: string;
  kubelet: string;
  other: string;
  warnings: string[];
}> {
  await probes.stop();
  const app = await runApp();
  await capture(app);
  const kubelet = await startKubelet(undefined);
  probes = newProbes({ match: "kubelet" });
  await probes.start();
  await probes.set(app.pod.uid, app.pod.ips);
  const match = await matchWritten();
  const result = { match, kubelet: await probeAs(kubelet, app), other: await asUser(app.pod.ip4) };
  await kubelet.end();
  return { ...result, warnings: [...warnings] };
}

interface FakeKubelet {
  readonly remote: RemoteModule<typeof import("./probes-kubelet.inside.ts")>;
  end(): Promise<void>;
}

/** @param cgroup its folder; undefined: the root of the hierarchy, where all processes are that nobody moved. */
async function startKubelet(cgroup: string | undefined): Promise<FakeKubelet> {
  const child: ChildProcess = fork(moduleHost, [join(import.meta.dirname, "probes-kubelet.inside.ts")], {
    env: cleanEnv(),
    serialization: "advanced",
  });
  if (cgroup === undefined) await joinCgroup(join(node.cgroupFolder, ".."), child.pid as number);
  else await joinCgroup(cgroup, child.pid as number);
  const remote = new RemoteModule<typeof import("./probes-kubelet.inside.ts")>(child);
  await remote.ready;
  assert.equal((await readFile(`/proc/${child.pid}/comm`, "utf8")).trim(), "kubelet");
  const end = async (): Promise<void> => {
    const exit = once(child, "exit");
    child.kill("SIGKILL");
    await exit;
  };
  return { remote, end };
}

function probeAs(kubelet: FakeKubelet, app: Enrolled): Promise<string> {
  return ask(kubelet.remote.call.probe(app.pod.ip4, appPort).then((address) => ({ peer: { address } })));
}

/** A host process that is nobody's. */
async function asUser(to: string): Promise<string> {
  const script = `require("http").get(process.argv[1], (r) => r.on("data", (d) => console.log(JSON.parse(d).peer.address))).on("error", (e) => console.log(e.code))`;
  const argv = [
    "setpriv",
    "--reuid=65534",
    "--clear-groups",
    process.execPath,
    "-e",
    script,
    `http://${to}:${appPort}/`,
  ];
  return (await run(argv)).stdout.trim();
}

/** The synthetic check with the host's side in place, without it, and with a pod that drops everything. */
export async function syntheticCheck(family: Family): Promise<Record<string, ProbePathResult>> {
  const app = await runApp();
  await capture(app);
  const check = {
    host,
    pod: app.netns,
    address: address(app, family),
    probeSnat: probeSnat[family],
    timeoutMs: 500,
  };
  const without = await checkProbePath(check);
  await probes.set(app.pod.uid, app.pod.ips);
  const whole = await checkProbePath(check);
  const tool = family === 4 ? "iptables" : "ip6tables";
  await run(["nsenter", `--net=${app.pod.netns}`, tool, "-I", "INPUT", "-p", "tcp", "-j", "DROP"]);
  const dropped = await checkProbePath(check);
  return { without, whole, dropped };
}

/** What a pod has: sockets of every state, rules, and what ztunnel acknowledged. */
async function stateOf({ pod, netns }: Enrolled): Promise<Record<string, string | undefined>> {
  const sockets = (await pod.exec(["ss", "-Hatn"])).stdout.split("\n").sort().join("\n");
  const saves = await Promise.all(
    ["iptables-save", "ip6tables-save"].map((tool) => run(["nsenter", `--net=${pod.netns}`, tool])),
  );
  const rules = saves.flatMap(({ stdout }) => stdout.split("\n").filter((line) => line.startsWith("-A")));
  return {
    sockets,
    rules: rules.join("\n"),
    acknowledged: server.acknowledged(pod.uid) === netns.key ? "yes" : "no",
  };
}

export interface Watched {
  readonly state: ProbePathState;
  readonly reports: readonly ProbePathReport[];
  readonly log: readonly string[];
  /** Connections ztunnel saw during the check. */
  readonly seenByZtunnel: number;
  readonly before: Record<string, string | undefined>;
  readonly after: Record<string, string | undefined>;
}

interface Watching extends Disposable {
  readonly watch: ProbePathWatch;
  readonly reports: ProbePathReport[];
  readonly log: string[];
}

function newWatch(options: Partial<ProbePathWatchOptions> = {}): Watching {
  const reports: ProbePathReport[] = [];
  const log: string[] = [];
  const note = (fields: object, message: string) =>
    void log.push(`${message}: ${(fields as { err?: Error }).err?.message ?? JSON.stringify(fields)}`);
  const watch = new ProbePathWatch({
    hostNetnsPath,
    probeSnatV4: probeSnat[4],
    probeSnatV6: probeSnat[6],
    ipv6: true,
    countsOwnConnections: () => true,
    pluginTypes: async () => ["cilium-cni", "ambient-cni"],
    onoutcome: (report) => void reports.push(report),
    log: { ...silentLogger, info: note, warn: note, error: note },
    settleMs: 20,
    confirmMs: 100,
    timeoutMs: 500,
    ...options,
  });
  return { watch, reports, log, [Symbol.dispose]: () => void watch.stop() };
}

async function enrolledApp(): Promise<Enrolled> {
  await probes.stop();
  // nothing is healed meanwhile
  probes = newProbes({ intervalMs: 600_000 });
  await probes.start();
  const app = await runApp();
  for (const family of [4, 6] as const) {
    // over IPv6 a new bridge has no usable address for the first second or two
    await waitFor("the pod's network", async () => !/^[A-Z]|no answer/.test(await fromHost(app, family)));
  }
  await capture(app);
  await probes.set(app.pod.uid, app.pod.ips);
  return app;
}

function probed({ pod, netns }: Enrolled): ProbedPod {
  return { uid: pod.uid, netns, addresses: pod.ips };
}

async function outcome(watch: ProbePathWatch, sinceMs = 0): Promise<ProbePathState> {
  await waitFor("an outcome", () => watch.state.atMs !== undefined && watch.state.atMs > sinceMs);
  return watch.state;
}

/**
 * The watch on a pod, after a disturbance of the host.
 * @param disturb `V4` and `V6` in a command stand for the pod's addresses
 */
export async function watched(
  disturb: readonly (readonly string[])[] = [],
  pluginTypes: readonly string[] = ["cilium-cni"],
): Promise<Watched> {
  const app = await enrolledApp();
  const undo: string[][] = [];
  for (const command of disturb) {
    const argv = command.map((word) => word.replace("V4", app.pod.ip4).replace("V6", app.pod.ip6));
    await run(argv);
    if (argv.includes("route")) undo.push(argv.map((word) => (word === "add" ? "del" : word)));
  }
  const before = await stateOf(app);
  const refusedBefore = await refusedBy(app);
  using watching = newWatch({ pluginTypes: async () => pluginTypes });
  watching.watch.enrolled(probed(app));
  const state = await outcome(watching.watch);
  await watching.watch.stop();
  const after = await stateOf(app);
  for (const argv of undo) await run(argv);
  const { reports, log } = watching;
  return { state, reports, log, seenByZtunnel: (await refusedBy(app)) - refusedBefore, before, after };
}

/** How often it looks: outcomes and reports after a bad outcome, before and after its time, and after it was mended. */
export async function watchedAgain(): Promise<Record<string, unknown>> {
  const app = await enrolledApp();
  await run(["ipset", "flush"]);
  using watching = newWatch({ repeatMs: 400 });
  const { watch, reports } = watching;
  // however many pods come at a time, one is looked at
  for (let i = 0; i < 20; i++) watch.enrolled(probed(app));
  const first = await outcome(watch);
  for (let i = 0; i < 20; i++) watch.enrolled(probed(app));
  const [reportsAtFirst, refusedAtFirst] = [reports.length, await refusedBy(app)];
  await probes.start();
  await waitFor("the next check", () => {
    watch.enrolled(probed(app));
    return watch.state.atMs !== first.atMs;
  });
  const mended = watch.state;
  const sinceFirstMs = (mended.atMs ?? 0) - (first.atMs ?? 0);
  const reportsAtMended = reports.length;
  // a good outcome stands until there is a reason to doubt it
  await run(["ipset", "flush"]);
  for (let i = 0; i < 20; i++) watch.enrolled(probed(app));
  watch.suspect();
  watch.enrolled(probed(app));
  const stillMended = watch.state.outcome;
  await waitFor("a check after a reason to doubt", () => {
    watch.enrolled(probed(app));
    return watch.state.atMs !== mended.atMs;
  });
  return {
    first: first.outcome,
    reportsAtFirst,
    refusedAtFirst,
    mended: mended.outcome,
    sinceFirstMs,
    reportsAtMended,
    stillMended,
    doubted: watch.state.outcome,
    reports: reports.length,
  };
}

/** A host that heals between the two looks. */
export async function watchedHealing(): Promise<Record<string, unknown>> {
  const app = await enrolledApp();
  await run(["ipset", "flush"]);
  using watching = newWatch({ confirmMs: 1_500 });
  watching.watch.enrolled(probed(app));
  await waitFor("the first look", async () => (await refusedBy(app)) > 0);
  await probes.start();
  const { outcome: found } = await outcome(watching.watch);
  return { found, reports: watching.reports };
}

/** A pod that ends before it is looked at, and then one that does not. */
export async function watchedDeparting(): Promise<Record<string, unknown>> {
  const app = await enrolledApp();
  using watching = newWatch({ settleMs: 300 * patience(), retryMs: 100 });
  const { watch, reports, log } = watching;
  watch.enrolled(probed(app));
  made.splice(made.indexOf(app), 1);
  await release(app);
  // a closed handle is one more thing that may be named
  watch.enrolled(probed(app));
  const gone = await outcome(watch);
  const next = await enrolledApp();
  await waitFor("the check of the next pod", () => {
    watch.enrolled(probed(next));
    return watch.state.outcome !== "unknown";
  });
  return { gone: gone.outcome, next: watch.state.outcome, reports, log };
}

/** Stops in the middle of a connection that nobody answers. */
export async function watchedStopping(): Promise<Record<string, unknown>> {
  const app = await enrolledApp();
  const before = await stateOf(app);
  await run(["nsenter", `--net=${app.pod.netns}`, "iptables", "-I", "INPUT", "-p", "tcp", "-j", "DROP"]);
  using watching = newWatch({ timeoutMs: 20_000 });
  const open = openNetnsCount();
  watching.watch.enrolled(probed(app));
  await waitFor("a listener in the pod", async () => (await stateOf(app)).sockets !== before.sockets);
  const startMs = performance.now();
  await watching.watch.stop();
  const ms = performance.now() - startMs;
  watching.watch.enrolled(probed(app));
  return {
    ms,
    state: watching.watch.state,
    leftSockets: (await stateOf(app)).sockets !== before.sockets,
    leftHandles: openNetnsCount() - open,
  };
}

/** With a rule that this process's connections do not fit. */
export async function watchedKubelet(): Promise<Record<string, unknown>> {
  const app = await enrolledApp();
  using watching = newWatch({ countsOwnConnections: () => false });
  for (let i = 0; i < 3; i++) watching.watch.enrolled(probed(app));
  return { state: watching.watch.state, log: watching.log };
}
