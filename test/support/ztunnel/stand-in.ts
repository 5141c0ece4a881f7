// SPDX-License-Identifier: Apache-2.0
// Starts a stand-in ztunnel from a test, reads its events and asks it questions.
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { patience } from "../node/patience.ts";
import type { StandInCommand } from "./control.ts";
import type { StandInEvent } from "./event-log.ts";
import { formatOptions, type StandInOptions } from "./stand-in-options.ts";
import type { StandInStats } from "./ztunnel-process.ts";

const mainPath = fileURLToPath(new URL("./main.ts", import.meta.url));
/** Makes a start three times as fast: the types need not be stripped again. */
const compileCachePath = fileURLToPath(new URL("../../../node_modules/.cache/stand-in/", import.meta.url));
const startDeadlineMs = 10_000;
const stopDeadlineMs = 10_000;

/** How a stand-in process ended. */
export interface StandInExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How the process itself is started, besides the stand-in's own options. */
export interface StandInStart extends StandInOptions {
  /** Put in front of the command line, for example `["setpriv", "--reuid=65534", …]`. */
  readonly wrapper?: readonly string[];
}

interface Waiter {
  readonly check: (event: StandInEvent) => boolean;
  readonly found: PromiseWithResolvers<StandInEvent>;
}

/** One running stand-in. It ends with the test's process, however that ends. */
export class StandIn implements AsyncDisposable {
  /** Everything it has logged so far, oldest first; answers to commands are left out. */
  readonly events: StandInEvent[] = [];
  readonly exited: Promise<StandInExit>;
  readonly #child: ChildProcess;
  readonly #waiters = new Set<Waiter>();
  readonly #answers = new Map<number, PromiseWithResolvers<StandInEvent>>();
  #lastId = 0;
  #errors = "";

  private constructor(child: ChildProcess) {
    this.#child = child;
    const { promise, resolve, reject } = Promise.withResolvers<StandInExit>();
    this.exited = promise;
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal }));
    child.once("close", () => this.#failAll(`the stand-in ended\n${this.#errors}`));
    child.stdin?.on("error", () => {});
    child.stderr?.on("data", (chunk) => {
      this.#errors += chunk;
    });
    if (child.stdout !== null)
      createInterface({ input: child.stdout }).on("line", (line) => this.#receive(line));
  }

  /** Starts a process; resolves when it has read its options and begins to connect. */
  static async start({ wrapper = [], ...options }: StandInStart): Promise<StandIn> {
    const [command = "", ...args] = [
      ...wrapper,
      process.execPath,
      mainPath,
      ...formatOptions({ ...options, control: true }),
    ];
    // Node would read the certificates in a thread, with a descriptor that tests see come and go
    const env = { ...process.env, NODE_COMPILE_CACHE: compileCachePath, NODE_EXTRA_CA_CERTS: undefined };
    const standIn = new StandIn(spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"] }));
    await standIn.waitFor((event) => event.event === "started", startDeadlineMs);
    return standIn;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /**
   * The first event that satisfies the predicate, among those already there from index `after` on, or to come.
   * @throws Error at the deadline, with the last events, or when the process ends first
   */
  async waitFor(
    predicate: (event: StandInEvent) => boolean,
    deadlineMs = 5000,
    after = 0,
  ): Promise<StandInEvent> {
    const past = this.events.slice(after).find(predicate);
    if (past !== undefined) return past;
    const waiter: Waiter = { check: predicate, found: Promise.withResolvers() };
    const limitMs = deadlineMs * patience();
    const timer = setTimeout(
      () => waiter.found.reject(new Error(`No such event within ${limitMs} ms; ${this.#tail()}`)),
      limitMs,
    );
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
      // the last lines may still be in the pipe
      void this.exited.then(() => waiter.found.reject(new Error(`The stand-in has ended; ${this.#tail()}`)));
    }
    this.#waiters.add(waiter);
    try {
      return await waiter.found.promise;
    } finally {
      clearTimeout(timer);
      this.#waiters.delete(waiter);
    }
  }

  /** `waitFor` by the name of the event. */
  waitForEvent(name: string, deadlineMs?: number): Promise<StandInEvent> {
    return this.waitFor((event) => event.event === name, deadlineMs);
  }

  /** Resolves once ztunnel would report ready. */
  async waitForReady(deadlineMs = 5000): Promise<void> {
    await this.waitForStats((stats) => stats.ready, deadlineMs);
  }

  /** Asks again and again until the statistics satisfy the predicate. @throws Error at the deadline */
  async waitForStats(predicate: (stats: StandInStats) => boolean, deadlineMs = 5000): Promise<StandInStats> {
    const limitMs = deadlineMs * patience();
    const end = performance.now() + limitMs;
    for (;;) {
      const stats = await this.stats();
      if (predicate(stats)) return stats;
      if (performance.now() > end) {
        throw new Error(`Not so within ${limitMs} ms: ${JSON.stringify(stats)}; ${this.#tail()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async stats(): Promise<StandInStats> {
    return (await this.command({ do: "stats" })).stats as StandInStats;
  }

  /** Replaces all fault switches. */
  async setFaults(...faults: string[]): Promise<void> {
    await this.command({ do: "faults", set: faults });
  }

  /** Sends one command and waits for its answer. @throws Error when the stand-in says no or ends */
  async command(command: StandInCommand): Promise<StandInEvent> {
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<StandInEvent>();
    this.#answers.set(id, answer);
    this.#child.stdin?.write(`${JSON.stringify({ id, ...command })}\n`);
    if (this.#child.exitCode !== null) answer.reject(new Error("the stand-in has ended"));
    const event = await answer.promise;
    if (event.error !== undefined) throw new Error(String(event.error));
    return event;
  }

  /** Messages received so far, in order. */
  get messages(): StandInEvent[] {
    return this.events.filter((event) => event.event === "message");
  }

  /** Sends SIGTERM, and SIGKILL to one that does not end; open connections take it up to 5 s (`terminationMs`). */
  async stop(): Promise<StandInExit> {
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), stopDeadlineMs * patience());
    const exit = await this.exited;
    clearTimeout(timer);
    return exit;
  }

  /** Sends SIGKILL. */
  async kill(): Promise<StandInExit> {
    this.#child.kill("SIGKILL");
    return this.exited;
  }

  /** Sends SIGTERM and does not wait: open connections keep it for a while. */
  terminate(): void {
    this.#child.kill("SIGTERM");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #receive(line: string): void {
    const event = JSON.parse(line) as StandInEvent;
    if (event.event === "answer") {
      const id = event.id as number;
      this.#answers.get(id)?.resolve(event);
      this.#answers.delete(id);
      return;
    }
    this.events.push(event);
    for (const waiter of this.#waiters) {
      if (waiter.check(event)) waiter.found.resolve(event);
    }
  }

  #failAll(why: string): void {
    for (const waiter of this.#waiters) waiter.found.reject(new Error(`${why}; ${this.#tail()}`));
    for (const answer of this.#answers.values()) answer.reject(new Error(why));
    this.#answers.clear();
  }

  #tail(): string {
    const last = this.events.slice(-8).map((event) => JSON.stringify(event).slice(0, 300));
    return `last events:\n${last.join("\n")}`;
  }
}
