// SPDX-License-Identifier: Apache-2.0
// What fleet.test.ts does inside a node: fifty pods of a real containerd, half of them in the mesh, and what they cost.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { forEachLimited, p50 } from "../bench/samples.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { bareHandler } from "./support/chain.ts";
import { appPort, CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import { type Holdings, holdingsOf, waitForNothing } from "./support/holdings.ts";
import { foreignLoad, loadNow } from "./support/machine-load.ts";

const concurrency = 4;
const hostPort = 18_080;

interface FleetPod extends CriPod {
  readonly container: string;
}

let node: CriNode;
const fleet: FleetPod[] = [];
const inMesh = (): FleetPod[] => fleet.filter(({ spec }) => spec.namespace === meshNamespace);
const outside = (): FleetPod[] => fleet.filter(({ spec }) => spec.namespace === plainNamespace);
const named = (pod: FleetPod) => ({ netns: pod.netns, spec: pod.spec });

/** Everything up; returns the chain that containerd has loaded. */
export async function start(): Promise<string[]> {
  node = await CriNode.start();
  await node.startMesh();
  return node.cri.loadedChain();
}

/**
 * Pods that are reachable by a port of the host, one in the mesh and one outside. Not made at the same time: portmap looks
 * whether its top chain is there and then makes it, and the second of two that do so fails ("File exists").
 * Source: containernetworking/plugins pkg/utils/iptables.go, EnsureChain.
 */
const withHostPort: ReadonlyMap<number, number> = new Map([
  [0, hostPort],
  [25, hostPort + 1],
]);

/** Runs the pods, every second one in the mesh, each with a web server. */
export async function runFleet(count: number): Promise<void> {
  const numbers = Array.from({ length: count }, (_, index) => index);
  await forEachLimited(numbers, concurrency, async (index) => {
    const namespace = index % 2 === 0 ? meshNamespace : plainNamespace;
    const port = withHostPort.get(index);
    const spec = node.createPod(namespace, port === undefined ? {} : { hostPort: port });
    const pod = await node.runPod(spec);
    fleet.push({ ...pod, container: await node.startApp(pod) });
  });
  await forEachLimited(fleet, concurrency, (pod) =>
    waitFor(`the server of ${pod.spec.name}`, async () => {
      const found = await run(["nsenter", `--net=${pod.netns}`, "ss", "-Hltn", `sport = :${appPort}`]);
      return found.stdout;
    }),
  );
}

/** What the kernel says of each pod: captured or untouched. */
export async function claimFleet(): Promise<void> {
  await forEachLimited(inMesh(), concurrency, (pod) => claimCaptured(named(pod)));
  await forEachLimited(outside(), concurrency, (pod) => claimUntouched(named(pod)));
}

/** What a pod fetched from others, in order. */
async function fetchAll(from: FleetPod, targets: readonly FleetPod[], family: 4 | 6): Promise<void> {
  const urls = targets.map((pod) => `http://${addressOf(pod, family)}:${appPort}/`);
  const script = `for url in "$@"; do wget -q -O - "$url" 2>&1 || echo "FAILED $url"; done`;
  const pages = await node.cri.execSync(from.container, ["/bin/sh", "-c", script, "sh", ...urls]);
  const wanted = targets.map(({ spec }) => `${spec.name}\n`).join("");
  assert.equal(pages, wanted, `pages that ${from.spec.name} fetched`);
}

function addressOf(pod: FleetPod, family: 4 | 6): string {
  const ip = pod.ips.find((each) => each.includes(":") === (family === 6));
  assert.ok(ip !== undefined, `${pod.spec.name} has no IPv${family} address`);
  return family === 6 ? `[${ip}]` : ip;
}

/** Peers that a pod's application saw, one for each request, as it printed them. */
async function peersSeen(pod: FleetPod): Promise<string[]> {
  const log = await readFile(node.logOf(pod), "utf8");
  return [...log.matchAll(/ (\S+):\d+: response:200$/gm)].map(([, peer = ""]) =>
    peer.replace(/^\[?(?:::ffff:)?(.*?)\]?$/, "$1"),
  );
}

/** Sums of the stand-in's counters of one pod. */
async function trafficOf(
  uid: string,
): Promise<Record<string, { connections: number; toClientBytes: number }>> {
  const workload = (await node.ztunnel.stats()).workloads[uid];
  assert.ok(workload !== undefined, "ztunnel does not hold the pod");
  return { ...workload.ports };
}

/**
 * Every pod of the mesh fetches a page from every other one over IPv4, and from the next one over IPv6: the stand-in's
 * counters must say the same as the applications' logs, byte for byte.
 */
export async function talk(): Promise<{ requests: number; bytes: number }> {
  const pods = inMesh();
  const others = (pod: FleetPod): FleetPod[] => pods.filter((other) => other !== pod);
  const next = (pod: FleetPod): FleetPod => pods[(pods.indexOf(pod) + 1) % pods.length] as FleetPod;
  await forEachLimited(pods, concurrency, async (pod) => {
    await fetchAll(pod, others(pod), 4);
    await fetchAll(pod, [next(pod)], 6);
  });
  const answerBytes = new Map(pods.map((pod) => [pod, pageBytes(pod)]));
  let bytes = 0;
  for (const pod of pods) {
    const sources = [...others(pod).map(({ ips }) => ips[0]), previousOf(pods, pod).ips[1]].sort();
    // the application sees who asked, not ztunnel
    await waitFor(`the log of ${pod.spec.name}`, async () => (await peersSeen(pod)).length >= sources.length);
    assert.deepEqual((await peersSeen(pod)).sort(), sources, `peers of ${pod.spec.name}`);
    const fetched = sum([...others(pod), next(pod)].map((other) => answerBytes.get(other) ?? 0));
    const served = sources.length * (answerBytes.get(pod) ?? 0);
    await waitFor(`the counters of ${pod.spec.name}`, async () => {
      const { "15001": out, "15008": hbone, "15006": plain } = await trafficOf(pod.spec.uid);
      const told = [out?.connections, out?.toClientBytes, hbone?.connections, hbone?.toClientBytes, plain];
      assert.deepEqual(told, [pods.length, fetched, sources.length, served, undefined]);
      return true;
    });
    bytes += served;
  }
  return { requests: pods.length * pods.length, bytes };
}

/** Pods outside reach pods inside through ztunnel's plain port, and are reached through its outbound port. */
export async function talkAcross(): Promise<void> {
  const [inside, plain] = [inMesh(), outside()];
  for (const [index, pod] of plain.entries()) {
    const partner = inside[index % inside.length] as FleetPod;
    const before = await trafficOf(partner.spec.uid);
    await fetchAll(pod, [partner], 4);
    await fetchAll(partner, [pod], 6);
    const after = await trafficOf(partner.spec.uid);
    const more = (port: string): number => (after[port]?.connections ?? 0) - (before[port]?.connections ?? 0);
    assert.deepEqual(
      [more("15006"), more("15001"), more("15008")],
      [1, 1, 0],
      `counters of ${partner.spec.name}`,
    );
    assert.ok((await peersSeen(partner)).includes(pod.ips[0] ?? ""), "the peer's address was lost");
  }
  // portmap's part of the chain still works with ours after it
  for (const pod of fleet.filter(({ spec }) => spec.hostPort !== undefined)) {
    assert.match(await fetchRaw("127.0.0.1", pod.spec.hostPort ?? 0), new RegExp(`${pod.spec.name}\n$`));
  }
}

/** Stop and Remove, twice each. Returns how often portmap, which comes after us, was told, for each pod. */
export async function deleteFleet(): Promise<{ dels: number[]; before: Record<keyof Holdings, number> }> {
  const before = await holdingsOf(node);
  await forEachLimited(fleet, concurrency, async (pod) => {
    node.api.edit("pods", pod.spec, (object) => {
      object.metadata.deletionTimestamp = new Date().toISOString();
    });
    for (let turn = 0; turn < 2; turn += 1) await node.cri.stopPodSandbox(pod.id);
    for (let turn = 0; turn < 2; turn += 1) await node.cri.removePodSandbox(pod.id);
    node.api.delete("pods", pod.spec.name, pod.spec.namespace);
  });
  await waitForNothing(node);
  const calls = (await readFile(node.chains.callLog, "utf8")).split("\n");
  const counts = Object.entries(before).map(([name, list]) => [name, list.length]);
  return {
    dels: fleet.splice(0).map(({ id }) => calls.filter((line) => line.startsWith(`DEL ${id} `)).length),
    before: Object.fromEntries(counts) as Record<keyof Holdings, number>,
  };
}

/** p50 of RunPodSandbox in milliseconds: without us, outside the mesh, in the mesh. */
export interface RunTimes {
  readonly bare: number;
  readonly plain: number;
  readonly mesh: number;
}

/** What our plugin costs a RunPodSandbox. */
export interface Overhead {
  readonly rounds: number;
  readonly times: RunTimes;
  /** The same of the rounds in which others left the machine alone. */
  readonly quietRounds: number;
  readonly quietTimes: RunTimes | undefined;
  /** p50 of the share of the machine's processors that others used. */
  readonly foreignLoad: number;
}

interface Round {
  readonly times: RunTimes;
  readonly foreign: number;
}

const kinds = ["bare", "plain", "mesh"] as const;
/** Less than a third of one of two processors. */
const quietLoad = 0.15;
/** As many rounds show whether the machine is going to be quiet. */
const hopelessRounds = 8;

/**
 * Runs one sandbox of each kind in each round, in another order each time, so that what others do on the machine meets
 * all kinds alike; the load that others make is measured along. Ends early when enough rounds were quiet.
 */
export async function overhead(limits: { enoughQuiet: number; maxRounds: number }): Promise<Overhead> {
  const rounds: Round[] = [];
  const isQuiet = ({ foreign }: Round): boolean => foreign < quietLoad;
  // the first round fills caches
  await overheadRound(0);
  const goesOn = (): boolean => {
    const quiet = rounds.filter(isQuiet).length;
    const isHopeless = rounds.length >= hopelessRounds && quiet * 3 < rounds.length;
    return !isHopeless && rounds.length < limits.maxRounds && quiet < limits.enoughQuiet;
  };
  while (goesOn()) {
    const before = await loadNow();
    const times = await overheadRound(rounds.length);
    rounds.push({ times, foreign: foreignLoad(before, await loadNow()) });
  }
  const quiet = rounds.filter(isQuiet);
  return {
    rounds: rounds.length,
    times: timesOf(rounds),
    quietRounds: quiet.length,
    quietTimes: quiet.length === 0 ? undefined : timesOf(quiet),
    foreignLoad: p50(rounds.map(({ foreign }) => foreign)),
  };
}

async function overheadRound(number: number): Promise<RunTimes> {
  const pods: CriPod[] = [];
  const times = { bare: 0, plain: 0, mesh: 0 };
  for (const turn of [0, 1, 2]) {
    const kind = kinds[(turn + number) % 3] ?? "bare";
    const spec = node.createPod(kind === "mesh" ? meshNamespace : plainNamespace);
    const pod = await node.runPod(spec, kind === "bare" ? { handler: bareHandler } : {});
    pods.push(pod);
    times[kind] = pod.runMs;
  }
  for (const pod of pods) await node.deletePod(pod);
  await waitForNothing(node);
  return times;
}

function timesOf(rounds: readonly Round[]): RunTimes {
  const p50Of = (kind: (typeof kinds)[number]): number => p50(rounds.map(({ times }) => times[kind]));
  return { bare: p50Of("bare"), plain: p50Of("plain"), mesh: p50Of("mesh") };
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-12) ?? []);
  return lines.map(({ text }) => text.slice(0, 400)).join("\n");
}

function previousOf(pods: readonly FleetPod[], pod: FleetPod): FleetPod {
  return pods.at(pods.indexOf(pod) - 1) as FleetPod;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0);
}

/** Bytes of an answer of busybox httpd 1.35 to a pod's own page: what differs between pods is the page. */
function pageBytes(pod: FleetPod): number {
  return answerHeadBytes + Buffer.byteLength(`${pod.spec.name}\n`);
}
let answerHeadBytes = 0;

/** Learns the size of an answer's head from a pod that ztunnel has nothing to do with. */
export async function learnAnswer(): Promise<string> {
  const pod = outside()[0] as FleetPod;
  const answer = await fetchRaw(pod.ips[0] ?? "", appPort);
  answerHeadBytes = Buffer.byteLength(answer) - Buffer.byteLength(`${pod.spec.name}\n`);
  return answer;
}

/** The bytes of an answer, from the host. */
async function fetchRaw(host: string, port: number): Promise<string> {
  const socket = connect({ host, port, timeout: 3000 });
  socket.on("timeout", () => socket.destroy(new Error(`no answer from ${host} port ${port}`)));
  socket.write(`GET / HTTP/1.1\r\nHost: ${host}:${port}\r\nUser-Agent: Wget\r\nConnection: close\r\n\r\n`);
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  return text;
}
