// SPDX-License-Identifier: Apache-2.0
// What discovery-pinned.test.ts does inside a node: namespaces kept as files, most of them without any process in them.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Place } from "../../src/enrolment/attachments.ts";
import {
  type FoundSandbox,
  SandboxFinder,
  type SearchHints,
  type SoughtPod,
} from "../../src/enrolment/sandbox-finder.ts";
import { hostNetnsKeys, netnsKeyAt } from "../../src/linux/host-netns.ts";
import { openNetnsCount } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { joinCgroup } from "../support/node/cgroup.ts";
import { requireNode } from "../support/node/inside.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const { cgroupFolder } = requireNode();
let warnings: string[] = [];
const finder = new SandboxFinder({
  hostRoot: "/",
  hostNetns: hostNetnsKeys({ hostRoot: "/" }),
  log: { ...silentLogger, warn: (_, message) => void warnings.push(message) },
});

/** What came of a search. */
export interface Outcome {
  /** Name of the namespace that was found. */
  readonly name: string | undefined;
  readonly source: string | undefined;
  readonly containerId: string | undefined;
  readonly warned: number;
}

async function pin(name: string, ...addresses: string[]): Promise<void> {
  await run(["ip", "netns", "add", name]);
  for (const address of addresses)
    await run([
      "ip",
      "-n",
      name,
      "address",
      "add",
      address,
      "dev",
      "lo",
      ...(address.includes(":") ? ["nodad"] : []),
    ]);
}

async function unpinAll(): Promise<void> {
  await run(["sh", "-c", "for name in $(ip netns list | cut -d' ' -f1); do ip netns delete $name; done"], {
    timeoutMs: 60_000,
  });
}

/** A search in a fresh set of pinned namespaces; the handle is closed. */
async function search(sought: Partial<SoughtPod>, hints: SearchHints = {}): Promise<Outcome> {
  warnings = [];
  const found = await finder.find({ uid: randomUUID(), containerIds: [], ips: [], ...sought }, hints);
  const outcome = { name: nameOf(found), source: found?.source, containerId: found?.containerId };
  found?.netns.close();
  return { ...outcome, warned: warnings.length };
}

function nameOf(found: FoundSandbox | undefined): string | undefined {
  if (found === undefined) return undefined;
  const isIt = (name: string): boolean => netnsKeyAt(join("/run/netns", name)) === found.netns.key;
  return readdirSync("/run/netns").find(isIt) ?? `none of the pinned (${found.netns.key})`;
}

function key(name: string): string {
  return netnsKeyAt(join("/run/netns", name)) ?? "";
}

/** A process of a pod in a pinned namespace. */
async function startIn(name: string, uid: string): Promise<ChildProcess> {
  const command = ["netns", "exec", name, "sh", "-c", "echo ready; exec sleep infinity"];
  const child = spawn("ip", command, { env: cleanEnv(), stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  const cgroup = join(cgroupFolder, "kubepods/burstable", `pod${uid}`, randomBytes(32).toString("hex"));
  await joinCgroup(cgroup, child.pid as number);
  return child;
}

/** Namespaces without a process: by what of it a pod's is found, and what is refused. */
export async function withoutProcess(): Promise<Record<string, Outcome>> {
  await pin("a", "10.97.1.1/32", "fd00:97::1/128");
  await pin("b", "10.97.1.2/32");
  await pin("twin", "10.97.1.2/32", "fd00:97::2/128");
  const outcomes = {
    byAddress: await search({ ips: ["10.97.1.1"] }),
    byIpv6: await search({ ips: ["FD00:97:0::1"] }),
    byNone: await search({ ips: ["10.97.1.9"] }),
    withoutAddress: await search({}),
    ofOneThatHasFinished: await search({ ips: ["10.97.1.1"], hasFinished: true }),
    ofAnotherPod: await search({ ips: ["10.97.1.1"] }, { isOwned: (netnsKey) => netnsKey === key("a") }),
    twoWithIt: await search({ ips: ["10.97.1.2"] }),
    oneOfTwoHasAll: await search({ ips: ["10.97.1.2", "fd00:97::2"] }),
    otherOfTwoIsOwned: await search(
      { ips: ["10.97.1.2"] },
      { isOwned: (netnsKey) => netnsKey === key("twin") },
    ),
  };
  await unpinAll();
  return outcomes;
}

/** What ADD told, and what of it still holds. */
export async function told(): Promise<Record<string, Outcome>> {
  await pin("a", "10.97.1.1/32");
  await pin("b", "10.97.1.2/32");
  const place = (name: string, change: Partial<Place> = {}): Place => ({
    ...{
      uid: "u1",
      namespace: "shop",
      name: "web-0",
      containerId: "c1",
      netnsPath: `/var/run/netns/${name}`,
    },
    ...{ netnsKey: key(name), ips: ["10.97.1.1"] },
    ...change,
  });
  const ips = ["10.97.1.1"];
  const outcomes = {
    asTold: await search({ ips }, { place: place("a") }),
    asToldOfOneThatHasFinished: await search({ ips, hasFinished: true }, { place: place("a") }),
    withoutAddressYet: await search({}, { place: place("a", { ips: [] }) }),
    byTheAddressOfItsTimeAlone: await search({}, { place: place("a") }),
    withoutItsAddressNow: await search({ ips }, { place: place("b") }),
    withoutItsAddressInItsStatus: await search({}, { place: place("b") }),
    byTheAddressOfItsTime: await search({ ips: ["10.97.9.9"] }, { place: place("a") }),
    byTheAddressOfItsStatus: await search({ ips }, { place: place("a", { ips: ["10.98.0.1"] }) }),
    gone: await search({ ips }, { place: place("z", { netnsKey: key("a") }) }),
    anotherUnderItsPath: await search({ ips }, { place: place("b", { netnsKey: key("a") }) }),
    ownedByAnother: await search({ ips }, { place: place("a"), isOwned: () => true }),
    theHosts: await search(
      {},
      { place: place("a", { netnsPath: "/proc/1/ns/net", netnsKey: netnsKeyAt("/proc/1/ns/net") ?? "" }) },
    ),
  };
  const another = await startIn("b", randomUUID());
  const occupied = {
    anothersNowWithoutAddress: await search({ uid: "u1" }, { place: place("b") }),
    refusedOnceMore: await search({ uid: "u1" }, { place: place("b") }),
    anothersNow: await search({ ips }, { place: place("b") }),
  };
  const exit = once(another, "exit");
  another.kill("SIGKILL");
  await exit;
  await unpinAll();
  return { ...outcomes, ...occupied };
}

/** What became of a search, and whether the handle that it gave is still good, when others of the same pass failed. */
export interface BesideFailures {
  readonly name: string | undefined;
  readonly isOpen: boolean;
  readonly failures: readonly string[];
}

/** A pod is found where ADD told, in a pass in which another pod's search fails among the pinned namespaces. */
export async function besideFailures(): Promise<BesideFailures> {
  await pin("b", "10.97.1.2/32");
  const failing: Promise<string>[] = [];
  let isFound = false;
  // each that fails has the next one in the pass after it, so that none is without
  const fail = (): void => {
    const isOwned = (): never => {
      if (!isFound) fail();
      throw new Error("no descriptor is left");
    };
    const sought = { uid: randomUUID(), containerIds: [], ips: ["10.97.1.9"] };
    failing.push(
      finder.find(sought, { isOwned }).then(
        () => "found nothing",
        (error: Error) => error.message,
      ),
    );
  };
  fail();
  const place = { uid: "u1", namespace: "shop", name: "web-0", containerId: "c1", ips: ["10.97.1.1"] };
  const found = await finder.find(
    { uid: "u1", containerIds: [], ips: [] },
    { place: { ...place, netnsPath: "/var/run/netns/b", netnsKey: key("b") } },
  );
  isFound = true;
  const failures: string[] = [];
  for (const each of failing) failures.push(await each);
  const outcome = { name: nameOf(found), isOpen: found?.netns.closed === false };
  found?.netns.close();
  await unpinAll();
  return { ...outcome, failures: [...new Set(failures)] };
}

/** Whether a place of which ADD told still stands. */
export async function standing(): Promise<Record<string, boolean>> {
  await pin("a", "10.97.1.1/32");
  await pin("b", "10.97.1.2/32");
  const place = { uid: "u1", namespace: "shop", name: "web-0", containerId: "c1", ips: [] };
  const stands = (path: string, netnsKey: string): boolean =>
    finder.stands({ ...place, netnsPath: path, netnsKey });
  const outcomes = {
    asTold: stands("/var/run/netns/a", key("a")),
    anotherUnderItsPath: stands("/var/run/netns/b", key("a")),
    numberOfAnother: stands("/var/run/netns/gone", key("b")),
    noFolder: stands("/var/run/netns/a/gone", key("a")),
  };
  await unpinAll();
  return outcomes;
}

/** Pinned namespaces that have processes, and what else may lie in the folder. */
export async function besides(): Promise<Record<string, Outcome>> {
  const own = randomUUID();
  const another = randomUUID();
  await pin("own", "10.97.1.1/32");
  await pin("anothers", "10.97.1.2/32");
  await run(["ip", "address", "add", "10.97.1.3/32", "dev", "lo"]);
  writeFileSync("/run/netns/host", "");
  await run(["mount", "--bind", "/proc/1/ns/net", "/run/netns/host"]);
  writeFileSync("/run/netns/plain", "not mounted yet");
  await run(["mkfifo", "/run/netns/fifo"]);
  writeFileSync("/run/netns/uts", "");
  await run(["mount", "--bind", "/proc/1/ns/uts", "/run/netns/uts"]);
  const children = [await startIn("own", own), await startIn("anothers", another)];
  const outcomes = {
    ownProcess: await search({ uid: own, ips: ["10.97.1.1"], hasFinished: true }),
    anotherPodsProcess: await search({ ips: ["10.97.1.2"] }),
    hosts: await search({ ips: ["10.97.1.3"] }),
  };
  for (const child of children) {
    const exit = once(child, "exit");
    child.kill("SIGKILL");
    await exit;
  }
  await run(["ip", "address", "delete", "10.97.1.3/32", "dev", "lo"]);
  await run(["umount", "/run/netns/host", "/run/netns/uts"]);
  await run(["rm", "/run/netns/host", "/run/netns/uts", "/run/netns/plain", "/run/netns/fifo"]);
  await unpinAll();
  return outcomes;
}

/** What a search for many pods costs. */
export interface PinnedCosts {
  readonly found: number;
  /** Until the last of them was found, in the best of several rounds. */
  readonly ms: number;
  /** Longest time for which the event loop was held up in that round. */
  readonly longestDelayMs: number;
}

/** `count` pinned namespaces, half of them sought at once. */
export async function crowd(count: number): Promise<PinnedCosts> {
  const address = (index: number): string => `10.96.${index >> 8}.${index & 0xff}`;
  const lines = Array.from(
    { length: count },
    (_, index) => `ip netns add n${index}; ip -n n${index} address add ${address(index)}/32 dev lo`,
  );
  await run(["sh", "-ec", lines.join("\n")], { timeoutMs: 60_000 });
  const keys = Array.from({ length: count }, (_, index) => key(`n${index}`));
  let best: PinnedCosts | undefined;
  for (let round = 0; round < 5; round++) {
    const delays = monitorEventLoopDelay({ resolution: 1 });
    delays.enable();
    await new Promise(setImmediate);
    const startedMs = performance.now();
    const looking = Array.from({ length: count / 2 }, (_, index) =>
      finder.find({ uid: randomUUID(), containerIds: [], ips: [address(2 * index)] }),
    );
    const sandboxes = await Promise.all(looking);
    const ms = performance.now() - startedMs;
    const found = sandboxes.filter((sandbox, index) => sandbox?.netns.key === keys[2 * index]).length;
    for (const sandbox of sandboxes) sandbox?.netns.close();
    await waitFor("a delay to be measured", () => delays.count > 0);
    delays.disable();
    if (best === undefined || delays.max / 1e6 < best.longestDelayMs)
      best = { found, ms, longestDelayMs: delays.max / 1e6 };
  }
  await unpinAll();
  return best as PinnedCosts;
}

/** Namespaces that are open in this process, by the finder's count and by the kernel's. */
export function openNamespaces(): { counted: number; held: number } {
  const { dev } = statSync("/proc/self/ns/net");
  const held = readdirSync("/proc/self/fd").filter(
    (fd) => statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false })?.dev === dev,
  );
  return { counted: openNetnsCount(), held: held.length };
}
