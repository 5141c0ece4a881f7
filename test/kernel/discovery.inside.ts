// SPDX-License-Identifier: Apache-2.0
// What discovery.test.ts does inside a node: processes in real namespaces and real cgroups, and a finder that looks for them.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import fs, { mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { basename, join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setImmediate as nextTurn } from "node:timers/promises";
import { SandboxFinder, type SoughtPod } from "../../src/enrolment/sandbox-finder.ts";
import { hostNetnsKeys } from "../../src/linux/host-netns.ts";
import { openNetnsCount } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { cgroupMountPoints, joinCgroup, removeCgroup } from "../support/node/cgroup.ts";
import { requireNode } from "../support/node/inside.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const { cgroupFolder } = requireNode();
const warnings: string[] = [];
const finder = new SandboxFinder({
  hostRoot: "/",
  hostNetns: hostNetnsKeys({ hostRoot: "/" }),
  log: { ...silentLogger, warn: (_, message) => void warnings.push(message) },
});
const hexId = (): string => randomBytes(32).toString("hex");
let lastAddress = 0;

function nextAddress(): string {
  lastAddress++;
  return `10.98.${lastAddress >> 8}.${lastAddress & 0xff}`;
}

/** A process of a pod; by default in a namespace of its own that has the address. */
async function startProcess(where: {
  cgroup: string;
  address?: string;
  ownNetns?: boolean;
  children?: number;
}): Promise<ChildProcess> {
  const { cgroup, address, ownNetns = true, children = 0 } = where;
  const lines = [
    ...(address === undefined ? [] : [`ip link set lo up; ip addr add ${address} dev lo`]),
    // in the cgroup before there are children, which are born into it
    "echo ready; read _",
    ...Array.from({ length: children }, () => "sleep infinity &"),
    "echo ready; exec sleep infinity",
  ];
  const command = ["sh", "-c", lines.join("\n")];
  const [file = "", ...args] = ownNetns ? ["unshare", "--net", ...command] : command;
  const child = spawn(file, args, { env: cleanEnv(), stdio: ["pipe", "pipe", "inherit"] });
  await once(child.stdout, "data");
  await joinCgroup(cgroup, child.pid as number);
  child.stdin.write("\n");
  await once(child.stdout, "data");
  return child;
}

async function end(...children: ChildProcess[]): Promise<void> {
  await Promise.all(
    children.map(async (child) => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exit = once(child, "exit");
      child.kill("SIGKILL");
      await exit;
    }),
  );
}

function inodeOf(child: ChildProcess): number {
  return statSync(`/proc/${child.pid}/ns/net`).ino;
}

/** The inode number of the namespace that is found, 0 for none; the handle is closed. */
async function findInode(pod: SoughtPod): Promise<number> {
  const sandbox = await finder.find(pod);
  if (sandbox === undefined) return 0;
  const { ino } = sandbox.netns.id;
  sandbox.netns.close();
  return Number(ino);
}

function podFolder(uid: string): string {
  return join(cgroupFolder, "kubepods/burstable", `pod${uid}`, hexId());
}

type PathMaker = (uid: string, id: string) => string;
const underscored = (uid: string): string => uid.replaceAll("-", "_");

interface Form {
  readonly path: PathMaker;
  readonly byContainer?: true;
  /** Where the node's first process stands, of a node that is a container itself. */
  readonly init?: string;
}

const kind = `docker/${hexId()}`;
const outerPod = `kubepods.slice/kubepods-pod${underscored(randomUUID())}.slice/cri-containerd-${hexId()}.scope`;

/** Below the node's folder, each with the means it is found by. Source: kubelet, containerd, CRI-O and cri-dockerd as they name cgroups. */
const forms: Readonly<Record<string, Form>> = {
  "cgroupfs, burstable": { path: (uid, id) => `kubepods/burstable/pod${uid}/${id}` },
  "cgroupfs, guaranteed": { path: (uid, id) => `kubepods/pod${uid}/${id}` },
  "cgroupfs, static pod": { path: (uid, id) => `kubepods/besteffort/pod${uid.replaceAll("-", "")}/${id}` },
  "systemd, containerd": {
    path: (uid, id) =>
      `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${underscored(uid)}.slice/cri-containerd-${id}.scope`,
  },
  "systemd, guaranteed, CRI-O": {
    path: (uid, id) => `kubepods.slice/kubepods-pod${underscored(uid)}.slice/crio-${id}.scope/container`,
  },
  "systemd, docker": {
    path: (uid, id) =>
      `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${underscored(uid)}.slice/docker-${id}.scope`,
  },
  "nested in a container (kind)": {
    init: `${kind}/init.scope`,
    path: (uid, id) =>
      `${kind}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${underscored(uid)}.slice/cri-containerd-${id}.scope`,
  },
  "nested in a pod of another cluster": {
    init: `${outerPod}/init.scope`,
    path: (uid, id) => `${outerPod}/kubepods/burstable/pod${uid}/${id}`,
  },
  "runtime without its systemd driver": {
    path: (uid, id) => `kubepods-burstable-pod${underscored(uid)}.slice:cri-containerd:${id}`,
  },
  "CRI-O without the UID": { path: (_, id) => `machine.slice/crio-${id}.scope`, byContainer: true },
  "plain container id": { path: (_, id) => `system.slice/${id}`, byContainer: true },
};

/** Which forms of cgroup paths lead to the pod's namespace; the other value names what was found in its place. */
export async function cgroupForms(): Promise<Record<string, string>> {
  const outcomes: Record<string, string> = {};
  for (const [name, { path, byContainer, init = "node" }] of Object.entries(forms)) {
    await joinCgroup(join(cgroupFolder, init), 1);
    const pod = { uid: randomUUID(), id: hexId(), address: nextAddress() };
    const child = await startProcess({
      cgroup: join(cgroupFolder, path(pod.uid, pod.id)),
      address: `${pod.address}/32`,
    });
    const containerIds = byContainer === true ? [pod.id] : [];
    const found = await findInode({ uid: pod.uid, containerIds, ips: [pod.address] });
    const stranger = await findInode({ uid: randomUUID(), containerIds: [hexId()], ips: [pod.address] });
    if (stranger !== 0) outcomes[name] = "found for another pod";
    else outcomes[name] = found === inodeOf(child) ? "found" : `not found (${found})`;
    await end(child);
  }
  await joinCgroup(join(cgroupFolder, "node"), 1);
  return outcomes;
}

/** The hierarchies of this machine besides the node's own in which a pod was found. */
export async function otherHierarchies(): Promise<Record<string, boolean>> {
  const outcomes: Record<string, boolean> = {};
  const own = join(cgroupFolder, "..");
  for (const mountPoint of cgroupMountPoints(readFileSync("/proc/self/mountinfo", "utf8"))) {
    // a folder of that name is swept away by the next node, should this one be killed
    const folder = join(mountPoint, basename(cgroupFolder));
    if (mountPoint === own) continue;
    // one hierarchy may be mounted in two places
    mkdirSync(folder, { recursive: true });
    const pod = { uid: randomUUID(), address: nextAddress() };
    const cgroup = join(folder, `kubepods/burstable/pod${pod.uid}`, hexId());
    const child = await startProcess({ cgroup, address: `${pod.address}/32` });
    const found = await findInode({ uid: pod.uid, containerIds: [], ips: [pod.address] });
    outcomes[mountPoint] = found === inodeOf(child);
    await end(child);
    await removeCgroup(folder);
  }
  return outcomes;
}

function startTime(child: ChildProcess): number {
  const text = readFileSync(`/proc/${child.pid}/stat`, "utf8");
  return Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[19]);
}

/** Of two processes with the pod's address in different namespaces, which one is found: "older" or "younger"? */
export async function oldestProcess(): Promise<string[]> {
  const uid = randomUUID();
  const address = nextAddress();
  const start = (): Promise<ChildProcess> =>
    startProcess({ cgroup: podFolder(uid), address: `${address}/32` });
  const older = await start();
  let younger = await start();
  while (startTime(younger) === startTime(older)) {
    await end(younger);
    younger = await start();
  }
  const answers: string[] = [];
  const ask = async (): Promise<void> => {
    const found = await findInode({ uid, containerIds: [], ips: [address] });
    answers.push(found === inodeOf(older) ? "older" : found === inodeOf(younger) ? "younger" : "neither");
  };
  await ask();
  await end(older);
  const found = await findInode({ uid, containerIds: [], ips: [address] });
  answers.push(found === inodeOf(younger) ? "younger" : "neither");
  await end(younger);
  return answers;
}

/** What is found for a pod whose process is in the host's namespace, which even has the pod's address. */
export async function hostProcess(): Promise<{ alone: number; besidesAnother: boolean }> {
  const uid = randomUUID();
  const address = nextAddress();
  await run(["ip", "addr", "add", `${address}/32`, "dev", "lo"]);
  const host = await startProcess({ cgroup: podFolder(uid), ownNetns: false });
  const pod = { uid, containerIds: [], ips: [address] };
  const alone = await findInode(pod);
  const own = await startProcess({ cgroup: podFolder(uid), address: `${address}/32` });
  const besidesAnother = (await findInode(pod)) === inodeOf(own);
  await end(host, own);
  await run(["ip", "addr", "del", `${address}/32`, "dev", "lo"]);
  return { alone, besidesAnother };
}

/** What is found by the addresses of the pod's status, in a namespace that has 10.97.0.1 and fd00:97::1. */
export async function ownership(
  ips: readonly (readonly string[])[],
): Promise<{ found: boolean[]; warned: number }> {
  const uid = randomUUID();
  const child = await startProcess({ cgroup: podFolder(uid), address: "10.97.0.1/16" });
  await run([
    "nsenter",
    `--net=/proc/${child.pid}/ns/net`,
    "ip",
    "addr",
    "add",
    "fd00:97::1/64",
    "dev",
    "lo",
  ]);
  const before = warnings.length;
  const found: boolean[] = [];
  for (const list of ips)
    found.push((await findInode({ uid, containerIds: [], ips: list })) === inodeOf(child));
  await end(child);
  return { found, warned: warnings.length - before };
}

/** Processes end at every moment of a pass; the finder never throws and finds the right namespace or none. */
export async function dyingProcesses(
  rounds: number,
): Promise<{ wrong: number; found: number; gone: number }> {
  const outcome = { wrong: 0, found: 0, gone: 0 };
  // enough other processes for the pass to last several turns
  const others = await startProcess({ cgroup: podFolder(randomUUID()), children: 150 });
  for (let round = 0; round < rounds; round++) {
    const uid = randomUUID();
    const address = nextAddress();
    const child = await startProcess({ cgroup: podFolder(uid), address: `${address}/32` });
    const inode = inodeOf(child);
    const finding = findInode({ uid, containerIds: [], ips: [address] });
    for (let turn = 0; turn < round % 12; turn++) await nextTurn();
    child.kill("SIGKILL");
    const found = await finding;
    if (found === 0) outcome.gone++;
    else if (found === inode) outcome.found++;
    else outcome.wrong++;
    await end(child);
  }
  await end(others);
  return outcome;
}

/** A pod whose processes come and go all the time; each pass may meet one in its last moment. @returns passes that found the pod */
export async function shortLivedProcesses(passes: number): Promise<number> {
  const uid = randomUUID();
  const address = nextAddress();
  const cgroup = podFolder(uid);
  const child = await startProcess({ cgroup, address: `${address}/32` });
  const forever = "while :; do /bin/true; done";
  const inPod = [
    `--net=/proc/${child.pid}/ns/net`,
    "sh",
    "-c",
    `echo ready; read _; ${forever} & ${forever}`,
  ];
  const restless = spawn("nsenter", inPod, {
    env: cleanEnv(),
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  await once(restless.stdout, "data");
  await joinCgroup(cgroup, restless.pid as number);
  restless.stdin.write("\n");
  let found = 0;
  try {
    for (let pass = 0; pass < passes; pass++) {
      if ((await findInode({ uid, containerIds: [], ips: [address] })) === inodeOf(child)) found++;
    }
  } finally {
    process.kill(-(restless.pid as number), "SIGKILL");
    await end(child);
  }
  return found;
}

/** What looking for many pods among many processes costs. */
export interface CrowdCosts {
  readonly processes: number;
  readonly found: number;
  /** Times /proc was listed. */
  readonly passes: number;
  /** Longest time for which the event loop was held up. */
  readonly longestDelayMs: number;
  /** How often others had their turn meanwhile. */
  readonly turns: number;
}

async function turnsUntil(done: Promise<unknown>): Promise<number> {
  let over = false;
  void done.finally(() => {
    over = true;
  });
  let turns = 0;
  for (; !over; turns++) await nextTurn();
  return turns;
}

/** Looks for 50 pods of 10 processes each, all at once. */
export async function crowd(): Promise<CrowdCosts> {
  const pods: { child: ChildProcess; sought: SoughtPod }[] = [];
  for (let index = 0; index < 50; index++) {
    const uid = randomUUID();
    const address = nextAddress();
    const child = await startProcess({ cgroup: podFolder(uid), address: `${address}/32`, children: 9 });
    pods.push({ child, sought: { uid, containerIds: [hexId()], ips: [address] } });
  }
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).length;
  const passes = countListings("/proc");
  let best: CrowdCosts | undefined;
  // the machine may be busy with something else for a moment: that is not the finder's delay
  for (let round = 0; round < 5; round++) {
    passes.reset();
    const delays = monitorEventLoopDelay({ resolution: 1 });
    delays.enable();
    await nextTurn();
    const looking = Promise.all(pods.map(({ sought }) => findInode(sought)));
    const turns = await turnsUntil(looking);
    await waitFor("a delay to be measured", () => delays.count > 0);
    delays.disable();
    const found = await looking;
    const right = found.filter(
      (inode, index) => inode === inodeOf(pods[index]?.child as ChildProcess),
    ).length;
    const longestDelayMs = delays.max / 1e6;
    if (best === undefined || longestDelayMs < best.longestDelayMs)
      best = { processes, found: right, passes: passes.count, turns, longestDelayMs };
  }
  passes.stop();
  await end(...pods.map(({ child }) => child));
  return best as CrowdCosts;
}

/** Counts calls of readdirSync for one folder: nothing else tells a pass over /proc from two. */
function countListings(folder: string): { readonly count: number; reset(): void; stop(): void } {
  const { readdirSync: original } = fs;
  let count = 0;
  fs.readdirSync = ((path: string, ...rest: []) => {
    if (path === folder) count++;
    return original(path, ...rest);
  }) as typeof fs.readdirSync;
  syncBuiltinESMExports();
  return {
    get count() {
      return count;
    },
    reset: () => {
      count = 0;
    },
    stop: () => {
      fs.readdirSync = original;
      syncBuiltinESMExports();
    },
  };
}

/** Namespaces that are open in this process, by the finder's count and by the kernel's. */
export function openNamespaces(): { counted: number; held: number } {
  const { dev } = statSync("/proc/self/ns/net");
  const held = readdirSync("/proc/self/fd").filter(
    (fd) => statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false })?.dev === dev,
  );
  return { counted: openNetnsCount(), held: held.length };
}
