// SPDX-License-Identifier: Apache-2.0
// One pod as kubelet and runtime treat it: its sandbox is started until that works, replaced, and taken down, with or without our plugin.
import { setTimeout as delay } from "node:timers/promises";
import { removeCgroup } from "../support/node/cgroup.ts";
import type { Family } from "../support/node/kernel.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type Alteration, type AlterationName, alterations } from "./operations.ts";
import { WorkChain, type WorkLimit } from "./work-chain.ts";

/** Where the pod's object and its sandboxes live. */
export interface KubeletPodOptions {
  readonly mesh: MeshNode;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Sandboxes that are worked on at the same time, over all pods. */
  readonly limit: WorkLimit;
  /** Told of each sandbox by the inode number of its namespace. */
  readonly onSandbox: (inode: number) => void;
}

/** An address that nobody has: rules of somebody else name it. Source: RFC 5737. */
export const foreignAddress = "203.0.113.9/32";

const retryMs = 50;

/** A pod by its UID; everything is done in the order in which it was asked for. */
export class KubeletPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly #mesh: MeshNode;
  readonly #limit: WorkLimit;
  readonly #onSandbox: KubeletPodOptions["onSandbox"];
  readonly #work = new WorkChain();
  #sandbox: Pod | undefined;
  #cgroup: string | undefined;

  constructor(options: KubeletPodOptions) {
    this.namespace = options.namespace;
    this.name = options.name;
    this.uid = options.uid;
    this.#mesh = options.mesh;
    this.#limit = options.limit;
    this.#onSandbox = options.onSandbox;
  }

  /** The sandbox of now; undefined when it could not be started before the pod was deleted. */
  get sandbox(): Pod | undefined {
    return this.#sandbox;
  }

  /** Starts the sandbox, again and again until it works or the pod's object is on its way out. */
  start(options: { seen: boolean; foreign: boolean }): Promise<void> {
    return this.#do(async () => {
      await this.#start(options.seen);
      if (options.foreign) await this.#addForeignRules();
    });
  }

  /** Takes the sandbox down. */
  stop(seen: boolean): Promise<void> {
    return this.#do(() => this.#stop(seen));
  }

  /** Replaces the sandbox. */
  rebuild(options: { delSeen: boolean; addSeen: boolean; newFirst: boolean }): Promise<void> {
    return this.#do(async () => {
      const old = this.#sandbox;
      if (old === undefined) return;
      if (!options.newFirst) await this.#stop(options.delSeen);
      await this.#start(options.addSeen);
      // a pod that was deleted meanwhile got no new one
      if (this.#sandbox === old) this.#sandbox = undefined;
      if (options.newFirst) await this.#takeDown(old, options.delSeen);
    });
  }

  /** Hurts what is in the sandbox. */
  alter(how: AlterationName, family: Family): Promise<void> {
    return this.#do(async () => {
      const sandbox = this.#sandbox;
      if (sandbox === undefined) return;
      const { commands, clears }: Alteration = alterations[how];
      for (const command of commands(family)) {
        // two writers of one rule set: the loser is told to try again
        if (clears !== undefined) await untilDone(sandbox, command);
        else await sandbox.exec(command, { mayFail: true });
      }
    });
  }

  /** All its containers have ended; the sandbox goes with them, or is left for a while. */
  finish({ sandboxStays }: { sandboxStays: boolean }): Promise<void> {
    return this.#do(async () => {
      if (!this.#isAlive()) return;
      this.#mesh.api.edit("pods", { name: this.name, namespace: this.namespace }, (object) => {
        object.status = sandboxStays ? { ...object.status, phase: "Succeeded" } : { phase: "Succeeded" };
      });
      if (!sandboxStays) await this.#stop(true);
    });
  }

  /** Takes the sandbox down for good. */
  end(seen: boolean): Promise<void> {
    return this.#do(async () => {
      await this.#stop(seen);
      if (this.#cgroup !== undefined) await removeCgroup(this.#cgroup);
    });
  }

  /** Tells whether the API's object of that name is still this pod, and not on its way out. */
  #isAlive(): boolean {
    const object = this.#mesh.api.store.find("pods", this.name, this.namespace);
    return object?.metadata.uid === this.uid && object.metadata.deletionTimestamp === undefined;
  }

  #do(task: () => Promise<void>): Promise<void> {
    return this.#work.run(() => this.#limit.run(task));
  }

  async #start(seen: boolean): Promise<void> {
    const { namespace, name, uid } = this;
    const runtime = seen ? this.#mesh.pods : this.#mesh.plainPods;
    while (this.#isAlive()) {
      try {
        const pod = await runtime.runPodSandbox({ namespace, name, uid });
        this.#sandbox = pod;
        this.#onSandbox(await pod.netnsInode());
        this.#cgroup = pod.cgroup;
        this.#report(pod);
        return;
      } catch (error) {
        // what our plugin answers is the agent's to decide; anything else is a fault of the harness
        if (!(error as Error).message.includes('type="ambient-cni"')) throw error;
        await delay(retryMs);
      }
    }
  }

  #report(pod: Pod): void {
    const object = this.#mesh.api.store.find("pods", this.name, this.namespace);
    const isOver = object?.status?.phase === "Succeeded";
    // whose sandbox is about to go has no address any more; whose stays is reported with the addresses it has now
    if (object?.metadata.uid !== this.uid || (isOver && object.status?.podIP === undefined)) return;
    this.#mesh.api.edit("pods", { name: this.name, namespace: this.namespace }, (copy) => {
      const phase = isOver ? "Succeeded" : "Running";
      copy.status = { phase, podIP: pod.ips[0], podIPs: pod.ips.map((ip) => ({ ip })) };
    });
  }

  async #stop(seen: boolean): Promise<void> {
    const sandbox = this.#sandbox;
    this.#sandbox = undefined;
    if (sandbox !== undefined) await this.#takeDown(sandbox, seen);
  }

  /** A sandbox may have been made by one chain and be taken down by another. */
  async #takeDown(sandbox: Pod, seen: boolean): Promise<void> {
    const { pods, plainPods } = this.#mesh;
    const madeByOurs = pods.pods.delete(sandbox);
    plainPods.pods.delete(sandbox);
    if (seen === madeByOurs) {
      await sandbox.stop();
      await sandbox.stop();
      return;
    }
    if (seen) {
      const ours = { ...pods.network, plugins: pods.network.plugins.slice(-1) };
      await pods.cni.del(ours, sandbox.sandbox, { netns: sandbox.netns });
      await sandbox.stop();
      return;
    }
    process.kill(sandbox.pid, "SIGKILL");
    await plainPods.cni.tearDown(plainPods.network, sandbox.sandbox, sandbox.netns);
    await plainPods.cni.removeNetns(sandbox.netns);
  }

  async #addForeignRules(): Promise<void> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) return;
    for (const table of ["filter", "nat"]) {
      const rule = ["iptables-nft", "-t", table, "-A", "OUTPUT", "-d", foreignAddress, "-j", "ACCEPT"];
      await untilDone(sandbox, rule);
    }
  }
}

async function untilDone(sandbox: Pod, command: readonly string[]): Promise<void> {
  const inPod = ["nsenter", `--net=${sandbox.netns}`, "--", ...command];
  await waitFor(command.join(" "), async () => (await run(inPod)).code === 0);
}
