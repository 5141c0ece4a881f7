// SPDX-License-Identifier: Apache-2.0
// The stand-in's memory of pods and what each message does to it.
// Source: istio/ztunnel src/inpod/statemanager.rs.
import type { EventLog } from "./event-log.ts";
import type { ReceivedNetns } from "./received-netns.ts";
import { ProtocolError, StartError, Violation } from "./strictness.ts";
import type { StandInWorkloadInfo } from "./zds-message.ts";

/** Sockets and connections of one pod. */
export interface RunningPod {
  /** Closes the pod's sockets and ends its connections. */
  stop(): void;
}

/** A pod as an Add describes it; the namespace belongs to the state, the starter may use it until `stop`. */
export interface PodDescription {
  readonly uid: string;
  readonly info: StandInWorkloadInfo;
  readonly netns: ReceivedNetns;
}

/** Opens what ztunnel opens in a pod. @throws StartError */
export type StartPod = (pod: PodDescription) => Promise<RunningPod>;

/** What the state needs around it. */
export interface WorkloadStateOptions {
  readonly log: EventLog;
  readonly startPod: StartPod;
  readonly sharedNetnsAllowed: boolean;
}

interface Held extends PodDescription {
  readonly running: RunningPod;
}

/** Pods outlive a connection; what the snapshot names and what waits for a retry does not. */
export class WorkloadState {
  readonly #options: WorkloadStateOptions;
  readonly #workloads = new Map<string, Held>();
  readonly #pending = new Map<string, PodDescription>();
  readonly #snapshotNames = new Set<string>();
  #work: Promise<void> = Promise.resolve();
  #connected = false;
  #snapshotReceived = false;
  #ready = false;

  constructor(options: WorkloadStateOptions) {
    this.#options = options;
  }

  /** As ztunnel reports it: from the last message that succeeded, not from a refused one. */
  get ready(): boolean {
    return this.#ready;
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  get snapshotReceived(): boolean {
    return this.#snapshotReceived;
  }

  get pods(): readonly PodDescription[] {
    return [...this.#workloads.values()];
  }

  get pendingUids(): readonly string[] {
    return [...this.#pending.keys()];
  }

  /** Runs jobs that change the state one after another, whatever becomes of the connections meanwhile. */
  exclusively(job: () => Promise<void>): Promise<void> {
    const done = this.#work.then(job);
    this.#work = done.catch(() => {});
    return done;
  }

  beginConnection(): void {
    this.#connected = true;
    this.#snapshotReceived = false;
    this.#snapshotNames.clear();
    for (const uid of [...this.#pending.keys()]) this.#dropPending(uid);
    this.noteReadiness();
  }

  endConnection(): void {
    this.#connected = false;
    this.noteReadiness();
  }

  /** @throws StartError when the pod could not be started: it is pending then; Violation; ProtocolError */
  async add(uid: string, info: StandInWorkloadInfo | undefined, netns: ReceivedNetns): Promise<void> {
    if (info === undefined) {
      netns.close();
      throw new ProtocolError("workload info is required");
    }
    if (!this.#snapshotReceived) this.#snapshotNames.add(uid);
    const owner = [...this.#workloads.values(), ...this.#pending.values()].find(
      (other) => other.uid !== uid && other.netns.key === netns.key,
    );
    if (owner !== undefined && !this.#options.sharedNetnsAllowed) {
      netns.close();
      throw new Violation("shared-netns", `${uid} and ${owner.uid} have ${netns.key}`);
    }
    await this.#start({ uid, info, netns });
  }

  keep(uid: string): void {
    if (this.#snapshotReceived) throw new ProtocolError("pod keep received after snapshot");
    this.#snapshotNames.add(uid);
  }

  del(uid: string): void {
    if (!this.#snapshotReceived) {
      this.#snapshotNames.delete(uid);
      this.#dropPending(uid);
      return;
    }
    this.#remove(uid);
  }

  snapshotSent(): void {
    if (this.#snapshotReceived) throw new ProtocolError("pod snapshot received already");
    for (const uid of [...this.#workloads.keys()]) {
      if (!this.#snapshotNames.has(uid)) this.#remove(uid);
    }
    this.#snapshotNames.clear();
    this.#snapshotReceived = true;
  }

  /** Tries the pods again that could not be started; failures are only logged. */
  async retryPending(): Promise<void> {
    for (const pod of [...this.#pending.values()]) {
      try {
        await this.#start(pod);
        this.#options.log.write("retry", { uid: pod.uid, ok: true });
        this.noteReadiness();
      } catch (error) {
        this.#options.log.write("retry", { uid: pod.uid, ok: false, error: (error as Error).message });
      }
    }
  }

  /** Looks whether it is ready now, and logs when that has changed. */
  noteReadiness(): void {
    const ready = this.#connected && this.#snapshotReceived && this.#pending.size === 0;
    if (ready === this.#ready) return;
    this.#ready = ready;
    this.#options.log.write("ready", { ready });
  }

  /** Lets go of every pod. */
  close(): void {
    for (const uid of [...this.#workloads.keys(), ...this.#pending.keys()]) this.#remove(uid);
  }

  async #start(pod: PodDescription): Promise<void> {
    const held = this.#workloads.get(pod.uid);
    if (held?.netns.key === pod.netns.key) {
      if (held.netns !== pod.netns) pod.netns.close();
      this.#dropPending(pod.uid);
      return;
    }
    if (held !== undefined) this.#remove(pod.uid);
    try {
      const running = await this.#options.startPod(pod);
      if (this.#pending.get(pod.uid) === pod) this.#pending.delete(pod.uid);
      else this.#dropPending(pod.uid);
      this.#workloads.set(pod.uid, { ...pod, running });
    } catch (error) {
      if (error instanceof StartError) {
        if (this.#pending.get(pod.uid) !== pod) this.#dropPending(pod.uid);
        this.#pending.set(pod.uid, pod);
      } else pod.netns.close();
      throw error;
    }
  }

  #remove(uid: string): void {
    this.#dropPending(uid);
    const held = this.#workloads.get(uid);
    if (held === undefined) return;
    this.#workloads.delete(uid);
    held.running.stop();
    held.netns.close();
    this.#options.log.write("pod-removed", { uid });
  }

  #dropPending(uid: string): void {
    this.#pending.get(uid)?.netns.close();
    this.#pending.delete(uid);
  }
}
