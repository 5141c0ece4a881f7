// SPDX-License-Identifier: Apache-2.0
// A ZdsServer with everything a conformance test needs around it, and the check that it leaves nothing behind.
import { mkdtempSync, readdirSync, rmSync, watch } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Netns } from "../../../src/linux/netns.ts";
import type { Logger } from "../../../src/log/logger.ts";
import type { RosterEntry } from "../../../src/ztunnel/workload.ts";
import { ZdsError } from "../../../src/ztunnel/zds-error.ts";
import { ZdsServer, type ZdsServerEvent, type ZdsServerOptions } from "../../../src/ztunnel/zds-server.ts";
import type { StandInEvent } from "./event-log.ts";
import { RawClient } from "./raw-client.ts";
import { StandIn, type StandInStart } from "./stand-in.ts";

/** A line of the server's log. */
export interface LogLine {
  readonly level: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly message: string;
}

/** How an update ended: "ok" or the code of its ZdsError, the text, and how long it took. */
export interface Outcome {
  readonly code: string;
  readonly message: string;
  readonly tookMs: number;
}

/** Descriptors of this process. */
export function openFdCount(): number {
  return readdirSync("/proc/self/fd").length - 1;
}

/** Waits for a condition. @throws Error at the deadline */
export async function eventually(what: string, condition: () => boolean, deadlineMs = 3000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`Not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Follows an update to its end; never rejects, and fails the test on anything that is no ZdsError. */
export async function outcomeOf(update: Promise<void>): Promise<Outcome> {
  const start = performance.now();
  try {
    await update;
    return { code: "ok", message: "", tookMs: performance.now() - start };
  } catch (error) {
    if (!(error instanceof ZdsError)) throw error;
    return { code: error.code, message: error.message, tookMs: performance.now() - start };
  }
}

/** A roster entry with plain names. */
export function podEntry(uid: string, netns: Netns | undefined): RosterEntry {
  return { uid, netns, workload: { name: `name-${uid}`, namespace: "shop", serviceAccount: "default" } };
}

/** One server on a socket of its own, with the clients a test starts. */
export class ZdsHarness {
  readonly log: LogLine[] = [];
  readonly events: ZdsServerEvent[] = [];
  readonly path: string;
  readonly server: ZdsServer;
  readonly #folder: string;
  readonly #fdsBefore: number;
  readonly #standIns: StandIn[] = [];
  readonly #clients: RawClient[] = [];

  constructor(options: Partial<ZdsServerOptions> = {}) {
    // the event loop keeps the one descriptor through which it watches folders
    watch(tmpdir()).close();
    this.#fdsBefore = openFdCount();
    this.#folder = mkdtempSync(join(tmpdir(), "zds-"));
    this.path = join(this.#folder, "ztunnel.sock");
    this.server = new ZdsServer({ path: this.path, log: this.#logger(), acceptsPerSecond: 1000, ...options });
    this.server.onchange = (event) => this.events.push(event);
  }

  /** Starts a stand-in on this server's socket. */
  async standIn(options: Partial<StandInStart> = {}): Promise<StandIn> {
    const standIn = await StandIn.start({ socket: this.path, ...options });
    this.#standIns.push(standIn);
    return standIn;
  }

  /** Connects without saying anything. */
  client(): RawClient {
    const client = new RawClient(this.path);
    this.#clients.push(client);
    return client;
  }

  /** A client with its snapshot behind it. */
  async liveClient(): Promise<RawClient> {
    const client = this.client();
    const count = this.server.connectionCount;
    await client.takeSnapshot();
    await eventually("the client is live", () => this.server.connectionCount > count && this.server.ready);
    return client;
  }

  /** Waits until so many connections are past their hello. */
  async connections(count: number, deadlineMs?: number): Promise<void> {
    await eventually(`${count} connections`, () => this.server.connectionCount === count, deadlineMs);
  }

  /** True when a line of the log holds this text in its message or fields. */
  logged(text: string): boolean {
    return this.log.some((line) => JSON.stringify([line.message, line.fields]).includes(text));
  }

  /** Ends everything. @throws Error when a stand-in found fault with the server, or descriptors are left */
  async close(): Promise<void> {
    const faults = this.#standIns.flatMap((standIn) =>
      standIn.events.filter((event) => ["violation", "fatal", "read-failure"].includes(event.event)),
    );
    for (const standIn of this.#standIns) await standIn.kill();
    for (const client of this.#clients) client.close();
    await this.server.close();
    rmSync(this.#folder, { recursive: true, force: true });
    if (faults.length > 0)
      throw new Error(`The stand-in found fault with the server: ${JSON.stringify(faults)}`);
    await eventually(`descriptors back to ${this.#fdsBefore}`, () => openFdCount() <= this.#fdsBefore).catch(
      (error: Error) => {
        throw new Error(`${error.message}: ${openFdCount()} are open`);
      },
    );
  }

  #logger(): Logger {
    const write = (level: string) => (fields: object, message: string) => {
      this.log.push({ level, fields: fields as Record<string, unknown>, message });
    };
    return { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
  }
}

/**
 * The messages a stand-in has received. The server hears an ack before the stand-in's log line reaches this process:
 * the log is read in order, so an answer to a question asked now comes after every line written before.
 */
export async function told(ztunnel: StandIn): Promise<StandInEvent[]> {
  await ztunnel.stats();
  return ztunnel.messages;
}
