// SPDX-License-Identifier: Apache-2.0
// The ZDS server: the socket ztunnel connects to, and which connection is told what.
// Source: istio/istio cni/pkg/nodeagent/ztunnelserver.go for what ztunnel expects of it.
import { mkdirSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { listenSeqpacket, type SeqpacketConnection, type SeqpacketListener } from "../linux/seqpacket.ts";
import { SocketName } from "../linux/unix-socket.ts";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { Seldom } from "../loop/seldom.ts";
import type { RosterEntry } from "./workload.ts";
import { ZdsConnection, type ZdsConnectionOptions } from "./zds-connection.ts";
import { ZdsError } from "./zds-error.ts";
import { ZdsPlaces } from "./zds-places.ts";

/** A ztunnel came, has the whole picture, or left. */
export interface ZdsServerEvent {
  readonly type: "connected" | "snapshot" | "disconnected";
  /** Connections past their hello, after the event. */
  readonly connections: number;
}

/** Limits are istio-cni's; tests shorten them. */
export interface ZdsServerOptions {
  /** File of the socket; a stale one is replaced. */
  readonly path: string;
  readonly log: Logger;
  readonly helloTimeoutMs?: number;
  readonly ackTimeoutMs?: number;
  readonly acceptsPerSecond?: number;
  /** The only user whose processes may connect. */
  readonly allowedUid?: number;
  /** A ztunnel answered a request, or never will. */
  readonly onanswer?: ZdsConnectionOptions["onanswer"];
  /** For looks at the socket's file. */
  readonly clock?: Clock;
}

const acceptWindowMs = 1000;
const backlog = 16;

/** Tells every ztunnel of the node which pods it has to serve. */
export class ZdsServer {
  onchange: (event: ZdsServerEvent) => void = () => {};
  readonly #options: Required<ZdsServerOptions>;
  readonly #roster = new Map<string, RosterEntry>();
  /** In order of their hello: the last one is the newest. */
  #connections: ZdsConnection[] = [];
  readonly #name: SocketName;
  readonly #strangers = new Set<ZdsConnection>();
  readonly #places: ZdsPlaces;
  readonly #failures: Seldom;
  #listener: SeqpacketListener | undefined;
  #resumeTimer: NodeJS.Timeout | undefined;
  #acceptTimes: number[] = [];
  #lastId = 0;
  #closed = false;

  constructor(options: ZdsServerOptions) {
    this.#options = {
      helloTimeoutMs: 5000,
      ackTimeoutMs: 5000,
      acceptsPerSecond: 5,
      allowedUid: 0,
      onanswer: () => {},
      clock: systemClock,
      ...options,
    };
    const { path, log, clock } = this.#options;
    this.#places = new ZdsPlaces({ log, clock });
    this.#failures = new Seldom({ clock });
    const reopen = async (): Promise<void> => {
      this.#listener?.close();
      this.#open();
    };
    this.#name = new SocketName({ path, what: "ztunnel's socket", reopen, log, clock });
  }

  /** Opens the socket. @throws NativeError (EADDRINUSE, EACCES, ENAMETOOLONG, …) */
  listen(): void {
    this.#open();
    this.#name.keep();
  }

  #open(): void {
    const { path } = this.#options;
    mkdirSync(dirname(path), { recursive: true });
    // bind never replaces a file, and nobody can be listening behind this one: the node has one agent
    rmSync(path, { force: true });
    const listener = listenSeqpacket(path, { backlog, mode: 0o600 });
    listener.onconnection = (socket) => this.#accept(socket);
    listener.onerror = (error) => {
      const count = this.#failures.count();
      if (count !== undefined)
        this.#options.log.error(
          { count, err: error },
          "cannot accept a ztunnel connection; trying again every second",
        );
      this.#pauseAccepting(acceptWindowMs);
    };
    this.#listener = listener;
  }

  /** Connections past their hello. */
  get connectionCount(): number {
    return this.#connections.length;
  }

  /** Connections past their hello, the newest last. */
  get connections(): readonly ZdsConnection[] {
    return this.#connections;
  }

  /** Connections since the start. */
  get acceptedCount(): number {
    return this.#lastId;
  }

  /** True while some ztunnel has acknowledged its whole snapshot. */
  get ready(): boolean {
    return this.#connections.some((connection) => connection.phase === "live");
  }

  /** Pods of the roster. */
  get podCount(): number {
    return this.#roster.size;
  }

  /** Whether a pod is in the roster. */
  holds(uid: string): boolean {
    return this.#roster.has(uid);
  }

  /** Puts a pod into the roster without telling anyone: the next snapshot has it. */
  hold(entry: RosterEntry): void {
    this.#enter(entry);
  }

  /**
   * Puts a pod into the roster and hands it to the newest ztunnel; resolves with that ztunnel's ack.
   * On failure the pod stays in the roster, so that a later snapshot still has it: `remove` it when it goes.
   * @throws ZdsError
   */
  async add(entry: RosterEntry): Promise<void> {
    this.#enter(entry);
    if (this.#closed) throw new ZdsError("CLOSED", "Cannot hand the pod to ztunnel: the agent is stopping");
    const newest = this.#connections.at(-1);
    if (newest === undefined) {
      throw new ZdsError(
        "NO_CONNECTION",
        "no ztunnel connection: is the ztunnel pod of this node running and ready?",
      );
    }
    await newest.add(entry);
  }

  /** Takes a pod out of the roster and tells nobody yet: a ztunnel that connects from now on does not hear of it. */
  withdraw(uid: string): void {
    this.#roster.delete(uid);
  }

  /**
   * Takes a pod out of the roster, then tells every ztunnel. Never rejects: a ztunnel that did not hear it
   * has lost its connection, and its next snapshot does not name the pod.
   */
  async remove(uid: string): Promise<void> {
    this.#roster.delete(uid);
    await this.#sendDels(uid);
  }

  /** `Netns.key` the newest ztunnel acknowledged for this pod. */
  acknowledged(uid: string): string | undefined {
    return this.#connections.at(-1)?.acknowledged(uid);
  }

  /** Ends all connections and frees the socket. */
  async close(): Promise<void> {
    this.#closed = true;
    const isLeft = this.#name.stop();
    clearTimeout(this.#resumeTimer);
    this.#listener?.close();
    this.#listener = undefined;
    const reason = new ZdsError("CLOSED", "the agent is stopping");
    for (const connection of [...this.#strangers, ...this.#connections]) connection.close(reason);
    await isLeft;
  }

  #enter(entry: RosterEntry): void {
    for (const { uid, netns } of this.#roster.values()) {
      if (uid === entry.uid || netns === undefined || netns.key !== entry.netns?.key) continue;
      this.#roster.delete(uid);
      this.#options.log.warn({ uid, newUid: entry.uid, netns: netns.key }, "a namespace changed its pod");
      void this.#sendDels(uid);
    }
    this.#roster.set(entry.uid, entry);
  }

  async #sendDels(uid: string): Promise<void> {
    const outcomes = await Promise.allSettled(this.#connections.map((connection) => connection.del(uid)));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") {
        this.#options.log.info(
          { uid, reason: (outcome.reason as Error).message },
          "a ztunnel did not confirm a removal",
        );
      }
    }
  }

  #accept(socket: SeqpacketConnection): void {
    this.#limitAccepts();
    const { log, allowedUid, helloTimeoutMs, ackTimeoutMs, onanswer } = this.#options;
    const peer = socket.peer();
    if (peer.uid !== allowedUid) {
      log.warn({ peer }, `refused a ZDS connection: only processes of user ${allowedUid} may connect`);
      socket.close();
      return;
    }
    const connection = new ZdsConnection(socket, {
      id: ++this.#lastId,
      roster: this.#roster,
      log,
      helloTimeoutMs,
      ackTimeoutMs,
      pid: peer.pid,
      onanswer,
      onphase: (changed) => this.#phaseChanged(changed),
    });
    this.#strangers.add(connection);
    this.#places.enter(connection);
  }

  /** A ztunnel in a crash loop must not keep the agent busy with snapshots. */
  #limitAccepts(): void {
    const now = performance.now();
    this.#acceptTimes = this.#acceptTimes.filter((time) => now - time < acceptWindowMs);
    this.#acceptTimes.push(now);
    if (this.#acceptTimes.length < this.#options.acceptsPerSecond) return;
    // a burst may have been accepted before the pause took hold: only the last ones of the limit count, and timers fire early
    const oldest = this.#acceptTimes.at(-this.#options.acceptsPerSecond) ?? now;
    this.#pauseAccepting(Math.ceil(acceptWindowMs - (now - oldest)) + 1);
  }

  #pauseAccepting(durationMs: number): void {
    this.#listener?.setReading(false);
    clearTimeout(this.#resumeTimer);
    this.#resumeTimer = setTimeout(() => this.#listener?.setReading(true), durationMs);
  }

  #phaseChanged(connection: ZdsConnection): void {
    const known = this.#connections.includes(connection);
    this.#strangers.delete(connection);
    if (connection.phase === "closed") {
      this.#places.leave(connection);
      this.#connections = this.#connections.filter((other) => other !== connection);
      if (known) this.#announce("disconnected");
    } else if (!known) {
      this.#connections.push(connection);
      this.#announce("connected");
    } else this.#announce("snapshot");
  }

  #announce(type: ZdsServerEvent["type"]): void {
    this.onchange({ type, connections: this.#connections.length });
  }
}
