// SPDX-License-Identifier: Apache-2.0
// What outbound.test.ts does inside a node: processes of pods with and without capabilities try to send past ztunnel.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, copyFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { doctorCommand } from "../../src/cli/doctor-command.ts";
import { checkOutboundBypass } from "../../src/diagnose/outbound-bypass.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import type { PodListReport, PodReport } from "../../src/status/state-report.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { ask } from "../status/state-client.ts";
import { joinCgroup } from "../support/node/cgroup.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const program = "/run/node/outbound";
const incapable = ["setpriv", "--bounding-set=-all"];
/** Root's, and whoever starts it is root for as long as it runs. */
const setUidProgram = "/run/node/outbound-as-root";
await run([
  "gcc",
  ...["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"],
  ...["-o", program, join(import.meta.dirname, "outbound.c")],
]);
copyFileSync(program, setUidProgram);
chmodSync(setUidProgram, 0o4755);

const mesh = await MeshNode.start();
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel();
const web = await mesh.kubelet.runPod({ namespace: "mesh", name: "web" });
const outsider = await mesh.kubelet.runPod({ namespace: "plain", name: "outsider" });
await waitFor(
  "the annotation",
  () => mesh.kubelet.annotation(web, "ambient.istio.io/redirection") === "enabled",
);
// what packets go to does not wait for the first of them
await web.exec(["ping", "-c", "1", "-W", "5", outsider.ip4], { mayFail: true });

async function podList(): Promise<PodListReport> {
  return (await ask({ socketPath }, "/api/v1/pods")).json() as unknown as PodListReport;
}

interface Held {
  readonly child: ChildProcess;
  readonly line: string;
}

/** Starts a process that holds on, as one of a container of the pod; its first line. */
async function hold(argv: readonly string[], cgroup: string | undefined): Promise<Held> {
  const [file = "", ...args] = argv;
  const child = spawn(file, args, { env: cleanEnv(), stdio: ["pipe", "pipe", "inherit"] });
  child.stdin?.on("error", () => {});
  if (cgroup !== undefined) await joinCgroup(cgroup, child.pid as number);
  const [line] = (await once(createInterface(child.stdout as NodeJS.ReadableStream), "line")) as [string];
  return { child, line };
}

async function end({ child }: Held): Promise<void> {
  const exit = once(child, "exit");
  child.stdin?.end();
  await exit;
}

const containerOf = (pod: Pod) => join(pod.cgroup, randomBytes(32).toString("hex"));

/** What the kernel let a process do, and what the doctor says of its pod meanwhile. */
export interface Judged {
  readonly kernel: string;
  readonly level: string;
  readonly what: string;
  /** What the same process may do by starting a program that is root's, by its first line. */
  readonly byProgram: string;
}

/** @param prefix what takes capabilities from the process before it starts: setpriv and its arguments */
export async function judge(
  prefix: readonly string[],
  { lowered = false, isSandbox = false, isAlone = false, isNodes = false } = {},
): Promise<Judged> {
  const enter = ["nsenter", `--net=${web.netns}`, ...prefix];
  const cgroup = isSandbox ? join(web.cgroup, web.sandbox.id) : containerOf(web);
  const held = await hold(
    [...enter, program, "hold", ...(lowered ? ["lowered"] : [])],
    isNodes ? undefined : cgroup,
  );
  const app = isAlone ? undefined : await hold([...enter, ...incapable, program, "hold"], containerOf(web));
  try {
    const finding = await checkOutboundBypass({ procRoot: "/proc", pods: await podList() });
    const { stdout } = await run([...enter, setUidProgram, "hold"]);
    return { kernel: held.line, level: finding.level, what: finding.what, byProgram: stdout.trim() };
  } finally {
    await end(held);
    if (app !== undefined) await end(app);
  }
}

/** A pod with a user namespace of its own (`hostUsers: false`), which owns its network namespace. */
export async function judgeOwnUsers(prefix: readonly string[]): Promise<Omit<Judged, "byProgram">> {
  const uid = crypto.randomUUID();
  const cgroup = join(
    mesh.node.cgroupFolder,
    "kubepods/burstable",
    `pod${uid}`,
    randomBytes(32).toString("hex"),
  );
  const held = await hold(
    ["unshare", "--user", "--map-root-user", "--net", ...prefix, program, "hold"],
    cgroup,
  );
  try {
    const list = await podList();
    const model = list.pods.find(({ name }) => name === "web") as PodReport;
    const netns = netnsKeyAt(`/proc/${held.child.pid}/ns/net`) as string;
    const observed = model.observed === null ? null : { ...model.observed, netns, containerId: null };
    const pods = [{ ...model, name: "own-users", uid, observed }];
    const finding = await checkOutboundBypass({ procRoot: "/proc", pods: { ...list, pods } });
    return { kernel: held.line, level: finding.level, what: finding.what };
  } finally {
    await end(held);
  }
}

/** The command, while so many pods of the mesh have a privileged process. */
export async function doctorOf(count: number): Promise<{ what: string; fix: string; level: string }[]> {
  const pods = await Promise.all(
    Array.from({ length: count }, (_, i) => mesh.kubelet.runPod({ namespace: "mesh", name: `full-${i}` })),
  );
  const held = await Promise.all(
    pods.map((pod) => hold(["nsenter", `--net=${pod.netns}`, program, "hold"], containerOf(pod))),
  );
  held.push(await hold(["nsenter", `--net=${web.netns}`, ...incapable, program, "hold"], containerOf(web)));
  const io = capturedIo(commandEnv);
  await doctorCommand.run(["--json"], io);
  await Promise.all(held.map(end));
  for (const pod of pods) await mesh.kubelet.deletePod(pod);
  const { findings } = JSON.parse(io.out()) as {
    findings: { id: string; what: string; fix: string; level: string }[];
  };
  return findings.filter(({ id }) => id === "outbound-bypass");
}

/** Sends one by each way from the captured pod; those that arrive at a pod outside the mesh, not by way of ztunnel. */
export async function arrivals(
  ways: readonly string[],
  prefix: readonly string[],
): Promise<{ answers: Record<string, string>; arrived: string[] }> {
  const listener = await hold(
    ["nsenter", `--net=${outsider.netns}`, program, "listen"],
    containerOf(outsider),
  );
  const arrived: string[] = [];
  const lines: Interface = createInterface(listener.child.stdout as NodeJS.ReadableStream);
  lines.on("line", (line) => arrived.push(line));
  const { stdout } = await outsider.exec(["ip", "-o", "link", "show", "eth0"]);
  const mac = /link\/ether (\S+)/.exec(stdout)?.[1] ?? "";
  const answers: Record<string, string> = {};
  for (const way of ways) {
    const argv = [...prefix, "timeout", "2", program, "send", way, web.ip4, outsider.ip4, mac];
    answers[way] = (await web.exec(argv, { mayFail: true })).stdout.trim();
  }
  // comes behind all of them
  await run([
    "nsenter",
    `--net=${outsider.netns}`,
    program,
    "send",
    "udp-last",
    "127.0.0.1",
    "127.0.0.1",
    "-",
  ]);
  await waitFor("the last one", () => arrived.includes("udp udp-last"));
  await end(listener);
  return { answers, arrived: arrived.filter((line) => line !== "udp udp-last") };
}
