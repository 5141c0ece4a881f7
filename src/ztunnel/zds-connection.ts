// SPDX-License-Identifier: Apache-2.0
// One connected ztunnel: its hello, its snapshot, then one request at a time, each paired with its answer.

import { closeSync } from "node:fs";
import { bounds } from "../bounds/bounds.ts";
import type { Packet, SeqpacketConnection } from "../linux/seqpacket.ts";
import type { Logger } from "../log/logger.ts";
import type { Roster, RosterEntry } from "./workload.ts";
import {
  decodeAnswer,
  decodeHello,
  decodeText,
  encodeAdd,
  encodeDel,
  encodeKeep,
  encodeSnapshotSent,
  type ZdsAnswer,
} from "./zds-codec.ts";
import { ZdsError } from "./zds-error.ts";
import { openFd, type ZdsUpdate } from "./zds-update.ts";

/** Hello seen or not, snapshot under way, ready for updates, over. */
export type ZdsPhase = "hello" | "snapshot" | "live" | "closed";

/** How one connection reports to its server. */
export interface ZdsConnectionOptions {
  readonly id: number;
  readonly roster: Roster;
  readonly log: Logger;
  readonly helloTimeoutMs: number;
  readonly ackTimeoutMs: number;
  /** Process of the client. */
  readonly pid: number;
  readonly onphase: (connection: ZdsConnection) => void;
  /** A request was answered, or never will be. */
  readonly onanswer: (result: "ack" | "nack" | "timeout" | "disconnected", seconds: number) => void;
}

/**
 * Speaks ZDS with one ztunnel. Pairing is by order, so a request goes out only after the answer to the last one;
 * whatever breaks that (a late, unasked or undecodable answer) ends the connection, and ztunnel comes back by itself.
 */
export class ZdsConnection {
  readonly id: number;
  readonly pid: number;
  readonly connectedAt = new Date();
  readonly #socket: SeqpacketConnection;
  readonly #options: ZdsConnectionOptions;
  readonly #queue: ZdsUpdate[] = [];
  readonly #acked = new Map<string, string>();
  #phase: ZdsPhase = "hello";
  #refused = 0;
  #closeReason: ZdsError | undefined;
  #awaiting: PromiseWithResolvers<Packet> | undefined;
  #drained: PromiseWithResolvers<void> | undefined;
  #wake: PromiseWithResolvers<void> | undefined;

  constructor(socket: SeqpacketConnection, options: ZdsConnectionOptions) {
    this.id = options.id;
    this.pid = options.pid;
    this.#socket = socket;
    this.#options = options;
    socket.onpacket = (packet) => this.#receive(packet);
    socket.onend = () => this.#end(new ZdsError("DISCONNECTED", "ztunnel closed its connection"));
    socket.onerror = (error) =>
      this.#end(new ZdsError("DISCONNECTED", `the connection to ztunnel broke: ${error.message}`));
    socket.ondrain = () => this.#drained?.resolve();
    // the hello is expected from the first moment on, before anything else can be received
    this.#awaiting = Promise.withResolvers();
    void this.#run(this.#awaiting.promise).catch((error: unknown) => this.#fail(error));
  }

  get phase(): ZdsPhase {
    return this.#phase;
  }

  /** Pods acknowledged. */
  get acknowledgedCount(): number {
    return this.#acked.size;
  }

  /** Requests that wait for their turn or their answer. */
  get pendingCount(): number {
    return this.#queue.length + (this.#awaiting === undefined ? 0 : 1);
  }

  /** Requests that ztunnel refused. */
  get refusedCount(): number {
    return this.#refused;
  }

  /** `Netns.key` of the namespace ztunnel acknowledged for this pod on this connection. */
  acknowledged(uid: string): string | undefined {
    return this.#acked.get(uid);
  }

  /** Queues an Add; resolves with ztunnel's ack. @throws ZdsError */
  add(entry: RosterEntry): Promise<void> {
    const queuedInSnapshot = this.#phase === "snapshot";
    return this.#enqueue({
      send: () => this.#handOver(entry),
      stale: () => {
        if (this.#options.roster.get(entry.uid) !== entry) return "the pod was removed or changed meanwhile";
        return entry.netns === undefined || entry.netns.closed ? "the pod's namespace is gone" : undefined;
      },
      done: () => queuedInSnapshot && this.#acked.get(entry.uid) === entry.netns?.key,
      settled: Promise.withResolvers(),
    });
  }

  /** Queues a Del; resolves with ztunnel's ack. @throws ZdsError */
  del(uid: string): Promise<void> {
    return this.#enqueue({
      send: () => this.#takeBack(uid),
      stale: () => undefined,
      done: () => false,
      settled: Promise.withResolvers(),
    });
  }

  /** Ends the connection; everything waiting on it fails with this error. */
  close(reason: ZdsError): void {
    this.#end(reason);
  }

  #enqueue(update: ZdsUpdate): Promise<void> {
    if (this.#closeReason !== undefined) update.settled.reject(this.#closeReason);
    else {
      this.#queue.push(update);
      this.#wake?.resolve();
    }
    return update.settled.promise;
  }

  async #run(hello: Promise<Packet>): Promise<void> {
    const { log, roster } = this.#options;
    const packet = await this.#within(hello, this.#options.helloTimeoutMs, "ztunnel sent no hello");
    const version = decodeHello(packet.data);
    log.info({ connection: this.id, version, pods: roster.size }, "ztunnel connected");
    this.#setPhase("snapshot");
    await this.#sendSnapshot();
    this.#setPhase("live");
    while (this.#phase === "live") {
      const update = this.#queue.shift();
      if (update !== undefined) await this.#sendUpdate(update);
      else {
        this.#wake = Promise.withResolvers();
        await this.#wake.promise;
      }
    }
  }

  async #sendSnapshot(): Promise<void> {
    const { log, roster } = this.#options;
    let refused = 0;
    // a live iteration, looked up when its turn comes: pods removed meanwhile are not named, pods found meanwhile are
    for (const [uid, entry] of roster) {
      const known = entry.netns !== undefined && !entry.netns.closed;
      const answer = known ? await this.#handOver(entry) : await this.#exchange(encodeKeep(uid));
      if (answer.ok) continue;
      // the rest of the snapshot still counts
      if (++refused <= bounds.snapshotRefusals.count)
        log.warn({ connection: this.id, uid, answer: answer.error }, "ztunnel refused a pod of the snapshot");
    }
    if (refused > bounds.snapshotRefusals.count)
      log.warn({ connection: this.id, refused }, "ztunnel refused more pods of the snapshot");
    const answer = await this.#exchange(encodeSnapshotSent());
    if (!answer.ok)
      log.warn({ connection: this.id, answer: answer.error }, "ztunnel refused the end of the snapshot");
  }

  async #sendUpdate(update: ZdsUpdate): Promise<void> {
    const stale = update.stale();
    if (stale !== undefined) {
      update.settled.reject(new ZdsError("SUPERSEDED", `Cannot hand the pod to ztunnel: ${stale}`));
      return;
    }
    if (update.done()) {
      update.settled.resolve();
      return;
    }
    try {
      const answer = await update.send();
      if (answer.ok) update.settled.resolve();
      else update.settled.reject(new ZdsError("NACK", `ztunnel refused: ${answer.error}`));
    } catch (error) {
      this.#fail(error);
      update.settled.reject(this.#closeReason);
    }
  }

  /**
   * A pod that ztunnel could not start it keeps, and is not ready until it could: one pod that has port 15008 itself would
   * hold up every update of ztunnel, and the cluster's with it. So it is taken back; the next try is ours, and as soon.
   * Source: istio/ztunnel src/inpod/statemanager.rs, ready() and retry_pending().
   */
  async #handOver(entry: RosterEntry): Promise<ZdsAnswer> {
    const answer = await this.#exchange(encodeAdd(entry.uid, entry.workload), () => openFd(entry));
    if (!answer.ok) await this.#takeBack(entry.uid);
    else if (entry.netns !== undefined) this.#acked.set(entry.uid, entry.netns.key);
    return answer;
  }

  async #takeBack(uid: string): Promise<ZdsAnswer> {
    const answer = await this.#exchange(encodeDel(uid));
    if (answer.ok) this.#acked.delete(uid);
    return answer;
  }

  /** Sends one request and waits for its one answer. @throws ZdsError when the connection is over afterwards */
  async #exchange(bytes: Uint8Array, fd: () => number | undefined = () => undefined): Promise<ZdsAnswer> {
    if (this.#closeReason !== undefined) throw this.#closeReason;
    const { ackTimeoutMs } = this.#options;
    const awaiting = Promise.withResolvers<Packet>();
    this.#awaiting = awaiting;
    // an end while the request still waits for buffer space rejects a promise that nobody has come to await
    awaiting.promise.catch(() => {});
    const answered = async (): Promise<Packet> => {
      // asked for each time: after a wait the namespace may be closed, and its number another file's
      while (!this.#socket.send(bytes, fd())) {
        this.#drained = Promise.withResolvers();
        await this.#drained.promise;
      }
      return awaiting.promise;
    };
    const startedMs = performance.now();
    const seconds = (): number => (performance.now() - startedMs) / 1000;
    try {
      const packet = await this.#within(answered(), ackTimeoutMs, "ztunnel did not answer");
      const answer: ZdsAnswer = packet.truncated
        ? { ok: false, error: `(cut off) ${decodeText(packet.data)}` }
        : decodeAnswer(packet.data);
      if (!answer.ok) this.#refused++;
      this.#options.onanswer(answer.ok ? "ack" : "nack", seconds());
      return answer;
    } catch (error) {
      const isLate = error instanceof ZdsError && error.code === "TIMEOUT";
      this.#options.onanswer(isLate ? "timeout" : "disconnected", seconds());
      throw error;
    }
  }

  async #within<T>(promise: Promise<T>, limitMs: number, what: string): Promise<T> {
    const timer = setTimeout(
      () => this.#end(new ZdsError("TIMEOUT", `${what} within ${limitMs} ms`)),
      limitMs,
    );
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #receive(packet: Packet): void {
    // owned the moment they arrive, wanted or not
    for (const fd of packet.fds) closeSync(fd);
    const awaiting = this.#awaiting;
    this.#awaiting = undefined;
    if (packet.fds.length > 0 || packet.controlTruncated) {
      this.#fail(new RangeError("ztunnel sent a file descriptor, which the protocol does not know"));
    } else if (awaiting === undefined) this.#fail(new RangeError("ztunnel sent an answer to no request"));
    else awaiting.resolve(packet);
  }

  #setPhase(phase: ZdsPhase): void {
    if (this.#phase === "closed") return;
    this.#phase = phase;
    this.#options.onphase(this);
  }

  #fail(error: unknown): void {
    if (error instanceof ZdsError) this.#end(error);
    else
      this.#end(
        new ZdsError("DISCONNECTED", `the connection to ztunnel was closed: ${(error as Error).message}`),
      );
  }

  #end(reason: ZdsError): void {
    if (this.#phase === "closed") return;
    const { log } = this.#options;
    if (this.#phase === "hello")
      log.warn({ connection: this.id, reason: reason.message }, "a ZDS client left before its hello");
    else log.warn({ connection: this.id, reason: reason.message }, "ztunnel disconnected");
    this.#closeReason = reason;
    this.#phase = "closed";
    this.#socket.close();
    this.#acked.clear();
    this.#awaiting?.reject(reason);
    this.#drained?.reject(reason);
    this.#wake?.resolve();
    for (const update of this.#queue.splice(0)) update.settled.reject(reason);
    this.#options.onphase(this);
  }
}
