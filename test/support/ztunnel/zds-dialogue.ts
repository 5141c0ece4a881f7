// SPDX-License-Identifier: Apache-2.0
// What the stand-in does with the messages of one connection: reads each as strictly as ztunnel or stricter, applies
// it, answers it, before the next.
// Source: istio/ztunnel src/inpod/workloadmanager.rs and protocol.rs.
import { closeSync } from "node:fs";
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import type { Packet } from "../../../src/linux/seqpacket.ts";
import type { EventLog } from "./event-log.ts";
import type { Faults } from "./faults.ts";
import { loopbackState } from "./netlink-query.ts";
import { ReceivedNetns } from "./received-netns.ts";
import { ProtocolError, type Rule, StartError, Violation } from "./strictness.ts";
import type { WorkloadState } from "./workload-state.ts";
import { decodeRequest, responseBytes, type ZdsMessage } from "./zds-message.ts";

/** What all dialogues of a stand-in share. */
export interface DialogueOptions {
  readonly state: WorkloadState;
  readonly log: EventLog;
  readonly faults: () => Faults;
  /** Rules that are switched off. */
  readonly allow: ReadonlySet<Rule>;
  /** Pause before pods that could not be started are tried again; ztunnel's is 5 s. */
  readonly retryMs: number;
  /** The agent did what ztunnel does not survive, or broke a rule of strictness.ts. */
  readonly onfatal: (error: Error) => void;
}

/** The connection a dialogue is held on. */
export interface DialogueLine {
  send(bytes: Uint8Array): void;
  /** Ends this connection, which ends the dialogue. */
  hangUp(why: string): void;
}

/** One connection's worth of messages. */
export class ZdsDialogue {
  readonly #options: DialogueOptions;
  readonly #line: DialogueLine;
  #readFailures = 0;
  #busy = false;
  #over = false;
  #retryTimer: NodeJS.Timeout | undefined;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(options: DialogueOptions, line: DialogueLine) {
    this.#options = options;
    this.#line = line;
    options.state.beginConnection();
  }

  /** Messages refused with "failure to read message". */
  get readFailures(): number {
    return this.#readFailures;
  }

  /** The connection is gone: nothing more is read or answered. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#idleTimer);
    this.#options.state.endConnection();
  }

  /** Takes a packet and owns its descriptors. */
  receive(packet: Packet): void {
    const netns = packet.fds.map((fd) => ownNetns(fd));
    const message = this.#over ? undefined : this.#read(packet, netns[0]);
    if (message === undefined) {
      for (const one of netns) one?.close();
      return;
    }
    this.#busy = true;
    void this.#process(message, netns[0]);
  }

  /** @returns undefined when there is nothing to process; what had to be said has been said then */
  #read(packet: Packet, netns: ReceivedNetns | undefined): ZdsMessage | undefined {
    if (this.#busy && !this.#options.allow.has("early-message")) {
      this.#fatal(new Violation("early-message", Buffer.from(packet.data).toString("hex")));
      return undefined;
    }
    try {
      const message = classify(packet);
      this.#logMessage(message, packet, netns);
      if (this.#options.faults().closeAfter !== message.kind) return message;
      this.#line.hangUp(`after ${message.kind}`);
    } catch (error) {
      this.#refuseUnreadable(packet, error as Error);
    }
    return undefined;
  }

  #logMessage(message: ZdsMessage, packet: Packet, netns: ReceivedNetns | undefined): void {
    this.#options.log.write("message", {
      ...message,
      sizeBytes: packet.data.length,
      hex: Buffer.from(packet.data).toString("hex"),
      fds: packet.fds.length,
      dev: netns?.dev,
      ino: netns?.ino,
    });
  }

  #refuseUnreadable(packet: Packet, error: Error): void {
    this.#readFailures++;
    this.#options.log.write("read-failure", {
      error: error.message,
      truncated: packet.truncated,
      controlTruncated: packet.controlTruncated,
      hex: Buffer.from(packet.data).toString("hex"),
    });
    this.#line.send(responseBytes(`failure to read message : ${error.message}`));
    this.#line.hangUp("unreadable message");
    if (packet.truncated) this.#fatal(new Violation("oversized", "MSG_TRUNC"));
    if (packet.controlTruncated) this.#fatal(new Violation("control-truncated", "MSG_CTRUNC"));
  }

  async #process(message: ZdsMessage, netns: ReceivedNetns | undefined): Promise<void> {
    // two turns of the loop: a second message that was sent without waiting is seen before the answer goes out
    await nextTurn();
    await nextTurn();
    let refusal: string | undefined;
    try {
      await this.#options.state.exclusively(() => this.#apply(message, netns));
    } catch (error) {
      if (!(error instanceof StartError)) {
        this.#die(error as Error);
        return;
      }
      refusal = this.#startFailureText(error);
      this.#scheduleRetry();
    }
    if (this.#over) return;
    // a refusal leaves it as it was
    if (refusal === undefined) this.#options.state.noteReadiness();
    await this.#respond(message, refusal);
  }

  async #apply(message: ZdsMessage, netns: ReceivedNetns | undefined): Promise<void> {
    const { state } = this.#options;
    // the connection ended before the message had its turn: the next one starts from a clean sheet
    if (this.#over) return netns?.close();
    if (message.kind === "snapshot-sent") return state.snapshotSent();
    if (message.uid === "") {
      netns?.close();
      this.#check("empty-uid", message.kind);
    }
    if (message.kind === "keep") return state.keep(message.uid);
    if (message.kind === "del") return state.del(message.uid);
    const received = netns as ReceivedNetns;
    try {
      await this.#checkNetns(message.uid, received);
    } catch (error) {
      received.close();
      throw error;
    }
    return state.add(message.uid, message.info, received);
  }

  async #checkNetns(uid: string, netns: ReceivedNetns): Promise<void> {
    if (!netns.isNamespace()) this.#check("not-a-netns", uid);
    else if (!this.#options.allow.has("lo-down") && !(await loopbackState(netns.fd)).up)
      this.#check("lo-down", uid);
  }

  #check(rule: Rule, detail: string): void {
    if (!this.#options.allow.has(rule)) throw new Violation(rule, detail);
  }

  #startFailureText(error: StartError): string {
    const text = `failure to start proxy : ${error.message}`;
    return text.padEnd(this.#options.faults().nackSizeBytes, "\n   at frame of a backtrace");
  }

  async #respond(message: ZdsMessage, refusal: string | undefined): Promise<void> {
    const faults = this.#options.faults();
    if (faults.neverAck) return;
    if (faults.ackDelayMs > 0) await delay(faults.ackDelayMs);
    if (this.#over) return;
    let bytes = responseBytes(refusal);
    if (faults.garbageAck) bytes = Uint8Array.of(0x0a, 0xff, 0xff, 0x07, 0xff);
    if (faults.emptyAckPayload) bytes = Uint8Array.of(0x12, 0x00);
    this.#busy = false;
    this.#options.log.write("response", {
      to: message.kind,
      ok: refusal === undefined,
      error: refusal?.slice(0, 200),
      sizeBytes: bytes.length,
    });
    this.#line.send(bytes);
    if (faults.doubleAck) this.#line.send(bytes);
    if (faults.unsolicitedAckWhenIdle && message.kind === "snapshot-sent") {
      this.#idleTimer = setTimeout(() => this.#line.send(responseBytes()), 50);
    }
  }

  #scheduleRetry(): void {
    if (this.#over) return;
    this.#retryTimer ??= setTimeout(() => void this.#retry(), this.#options.retryMs);
  }

  async #retry(): Promise<void> {
    const { state } = this.#options;
    this.#retryTimer = undefined;
    await state.exclusively(() => state.retryPending());
    if (state.hasPending) this.#scheduleRetry();
  }

  #die(error: Error): void {
    if (error instanceof ProtocolError) {
      const quoted = JSON.stringify(error.message);
      this.#line.send(responseBytes(`failure to process message : ProtocolError(${quoted})`));
    }
    this.#fatal(error);
  }

  #fatal(error: Error): void {
    const { log, allow, onfatal } = this.#options;
    if (!(error instanceof Violation)) {
      log.write("fatal", { error: error.message });
      onfatal(error);
      return;
    }
    log.write("violation", { rule: error.rule, error: error.message });
    if (!allow.has(error.rule)) onfatal(error);
  }
}

function ownNetns(fd: number): ReceivedNetns | undefined {
  try {
    return new ReceivedNetns(fd);
  } catch {
    closeSync(fd);
    return undefined;
  }
}

/** Sorts a packet as ztunnel does. @throws Error whose text goes into "failure to read message" */
export function classify(packet: Packet): ZdsMessage {
  if (packet.fds.length > 1) throw new Error(`Expected 1 FD, got ${packet.fds.length}`);
  if (packet.truncated || packet.controlTruncated) throw new Error("received truncated message");
  const message = decodeRequest(packet.data);
  if (message.kind === "add" && packet.fds.length === 0) throw new Error("No control message");
  if (message.kind !== "add" && packet.fds.length > 0) throw new Error("Unexpected control message");
  return message;
}
