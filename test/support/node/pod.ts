// SPDX-License-Identifier: Apache-2.0
// Pods of a test node: sandboxes with a namespace made by a CNI chain, a pause process, cgroups and, if wanted, an application.
import { type ChildProcess, fork, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { joinCgroup, removeCgroup } from "./cgroup.ts";
import type { CniResult, CniRuntime, SandboxIdentity } from "./cni-runtime.ts";
import type { Conflist } from "./conflist.ts";
import { type Remote, RemoteModule } from "./remote-module.ts";
import { cleanEnv, type RunOptions, type RunResult, run } from "./run.ts";
import { waitFor } from "./wait-for.ts";

/** What a test says about a pod; the rest is made up. */
export interface PodSpec {
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  /** Default "default". */
  readonly serviceAccount?: string;
  readonly capabilityArgs?: Readonly<Record<string, unknown>>;
  /** Fields of the object's `spec`, in place of those that are made up. */
  readonly objectSpec?: Readonly<Record<string, unknown>>;
}

/** A module that runs as a program in a pod. */
export interface PodModule<M> {
  readonly call: Remote<M>;
  readonly pid: number;
}

/** The application in a pod; see pod-app.ts. */
export type PodApp = PodModule<typeof import("./pod-app.ts")>;

/** Further networks of each sandbox, as a meta plugin attaches them: after the network of all pods, off again before it. */
export interface MetaPlugin {
  attach(sandbox: SandboxIdentity, netns: string): Promise<void>;
  /** @param netns empty once the namespace is gone. */
  detach(sandbox: SandboxIdentity, netns: string): Promise<void>;
}

/** Runs pods on one network of a node. */
export class PodRuntime {
  readonly cni: CniRuntime;
  readonly network: Conflist;
  /** All pods that have not been deleted. */
  readonly pods = new Set<Pod>();
  readonly #cgroupFolder: string;
  readonly #meta: MetaPlugin | undefined;

  /** @param options.cgroupFolder folder of the node; pods get `kubepods/burstable/pod<uid>/<container id>` below it. */
  constructor(options: {
    cni: CniRuntime;
    network: Conflist;
    cgroupFolder: string;
    meta?: MetaPlugin | undefined;
  }) {
    this.cni = options.cni;
    this.network = options.network;
    this.#cgroupFolder = options.cgroupFolder;
    this.#meta = options.meta;
  }

  /**
   * RunPodSandbox: namespace, ADD of the whole chain, then the pause process.
   *
   * @throws PluginError after the failed chain was taken down again and the namespace removed, as containerd does it.
   */
  async runPodSandbox(spec: PodSpec): Promise<Pod> {
    const sandbox: SandboxIdentity = {
      id: randomBytes(32).toString("hex"),
      uid: spec.uid ?? randomUUID(),
      namespace: spec.namespace,
      name: spec.name,
      ...(spec.capabilityArgs === undefined ? {} : { capabilityArgs: spec.capabilityArgs }),
    };
    const netns = await this.cni.createNetns();
    let result: CniResult;
    try {
      result = await this.cni.setUp(this.network, sandbox, netns);
      await this.#meta?.attach(sandbox, netns);
    } catch (error) {
      await this.cni.removeNetns(netns);
      throw error;
    }
    const cgroup = join(this.#cgroupFolder, "kubepods/burstable", `pod${sandbox.uid}`);
    const pod = new Pod(this, { spec, sandbox, netns, result, cgroup });
    this.pods.add(pod);
    await pod.startPause();
    return pod;
  }

  /** Takes a sandbox off all its networks. @throws PluginError as {@link CniRuntime.tearDown} */
  async tearDown(sandbox: SandboxIdentity, netns: string): Promise<void> {
    await this.#meta?.detach(sandbox, netns);
    await this.cni.tearDown(this.network, sandbox, netns);
  }

  /** Deletes all pods. */
  async deleteAll(): Promise<void> {
    await Promise.all([...this.pods].map((pod) => pod.delete()));
  }
}

/** A pod sandbox that was set up. */
export class Pod {
  readonly spec: PodSpec;
  readonly sandbox: SandboxIdentity;
  /** Path as the runtime names it, below /var/run. */
  readonly netns: string;
  /** What the chain answered. */
  readonly result: CniResult;
  /** Addresses without prefix length; the first of a family is the one that tests use. */
  readonly ips: readonly string[];
  /** The pod's folder; containers have one each below it. */
  readonly cgroup: string;
  readonly #runtime: PodRuntime;
  readonly #processes = new Set<ChildProcess>();
  #pause: ChildProcess | undefined;
  #stopped = false;

  constructor(
    runtime: PodRuntime,
    made: { spec: PodSpec; sandbox: SandboxIdentity; netns: string; result: CniResult; cgroup: string },
  ) {
    this.#runtime = runtime;
    this.spec = made.spec;
    this.sandbox = made.sandbox;
    this.netns = made.netns;
    this.result = made.result;
    this.cgroup = made.cgroup;
    this.ips = (made.result.ips ?? []).map((ip) => ip.address.split("/")[0] as string);
  }

  get uid(): string {
    return this.sandbox.uid;
  }

  /** The pod's IPv4 address. @throws Error when it has none. */
  get ip4(): string {
    return this.#ip("4", (ip) => !ip.includes(":"));
  }

  /** The pod's IPv6 address. @throws Error when it has none. */
  get ip6(): string {
    return this.#ip("6", (ip) => ip.includes(":"));
  }

  /** Pid of the pause process. */
  get pid(): number {
    if (this.#pause?.pid === undefined) throw new Error(`Pod "${this.spec.name}" has no pause process`);
    return this.#pause.pid;
  }

  /** Starts the pause process; only {@link PodRuntime} calls this. */
  async startPause(): Promise<void> {
    const pause = spawn("nsenter", [`--net=${this.netns}`, "sleep", "infinity"], {
      env: cleanEnv(),
      stdio: "ignore",
    });
    this.#pause = pause;
    this.#keep(pause);
    await this.#join(pause, this.sandbox.id);
  }

  /** Runs a command in the pod's network namespace. */
  async exec(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return run(["nsenter", `--net=${this.netns}`, "--", ...argv], options);
  }

  /** Starts the application of pod-app.ts in the pod, in a container cgroup of its own. */
  async startApp(): Promise<PodApp> {
    return await this.startModule(join(import.meta.dirname, "pod-app.ts"));
  }

  /** The same with another module, given by its absolute path. */
  async startModule<M>(path: string): Promise<PodModule<M>> {
    const child = fork(join(import.meta.dirname, "module-host.ts"), [path], {
      execPath: "nsenter",
      execArgv: [`--net=${this.netns}`, "--", process.execPath],
      env: cleanEnv(),
      serialization: "advanced",
    });
    this.#keep(child);
    const remote = new RemoteModule<M>(child);
    await this.#join(child, randomBytes(32).toString("hex"));
    await remote.ready;
    return { call: remote.call, pid: child.pid as number };
  }

  /** Ends all its processes, the pause process too: a sandbox as CRI-O has it between two starts of a container. */
  async endProcesses(): Promise<void> {
    await Promise.all([...this.#processes].map(endProcess));
  }

  /** StopPodSandbox: ends the processes, DEL of the chain with the namespace and the cached result, namespace removed. */
  async stop(): Promise<void> {
    await this.endProcesses();
    if (this.#stopped) return await this.#runtime.tearDown(this.sandbox, "");
    await this.#runtime.tearDown(this.sandbox, this.netns);
    await this.#runtime.cni.removeNetns(this.netns);
    this.#stopped = true;
  }

  /** StopPodSandbox, then RemovePodSandbox with its second DEL, and what the kubelet does: the pod's cgroup is removed. */
  async delete(): Promise<void> {
    await this.stop();
    await this.stop();
    await removeCgroup(this.cgroup);
    this.#runtime.pods.delete(this);
  }

  /** Inode number of the namespace, as it appears in /proc/PID/ns/net. */
  async netnsInode(): Promise<number> {
    return (await stat(this.netns)).ino;
  }

  #ip(family: string, fits: (ip: string) => boolean): string {
    const ip = this.ips.find(fits);
    if (ip === undefined) throw new Error(`Pod "${this.spec.name}" has no IPv${family} address`);
    return ip;
  }

  #keep(child: ChildProcess): void {
    this.#processes.add(child);
    child.once("exit", () => this.#processes.delete(child));
  }

  /** Only a process that has arrived in the namespace may be seen in the pod's cgroup. */
  async #join(child: ChildProcess, containerId: string): Promise<void> {
    if (child.pid === undefined) await once(child, "spawn");
    const link = `net:[${await this.netnsInode()}]`;
    const arrived = async (): Promise<boolean> => (await readlink(`/proc/${child.pid}/ns/net`)) === link;
    await waitFor(`process ${child.pid} to enter "${this.netns}"`, arrived, { intervalMs: 1 });
    await joinCgroup(join(this.cgroup, containerId), child.pid as number);
  }
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}
