// SPDX-License-Identifier: Apache-2.0
// The kinds of clients that a change of labels could hurt, each a loop that goes on until it is stopped.
import { setTimeout as delay } from "node:timers/promises";
import { ConnectionEnd, LineConnection } from "./line-connection.ts";
import { monotonicMs, type TallyRecorder } from "./tally.ts";
import { answerLine, askLine } from "./traffic-server.ts";

/** What a lane does; `lasting` ones keep their connection for as long as it lives, the others renew it when asked. */
export type LaneKind =
  | "short"
  | "slow"
  | "kept"
  | "kept-lasting"
  | "watch"
  | "watch-lasting"
  | "note"
  | "note-lasting";

/** What a lane needs around it. */
export interface LaneSetting {
  readonly name: string;
  readonly kind: LaneKind;
  readonly host: string;
  readonly port: number;
  /** Between two requests. */
  readonly pauseMs: number;
  /** How long a client waits for anything before the request counts as hung. */
  readonly hungAfterMs: number;
  readonly tally: TallyRecorder;
}

const answerBytes = 3000;
const watchEveryMs = 100;
const noteEveryMs = 40;

/** One client with one request, or one stream, at a time. */
export class Lane {
  readonly #setting: LaneSetting;
  readonly #done: Promise<void>;
  #connection: LineConnection | undefined;
  #lastId = 0;
  #steps = 0;
  #isRenewalDue = false;
  #isStopped = false;

  constructor(setting: LaneSetting) {
    this.#setting = setting;
    this.#done = this.#run();
  }

  get name(): string {
    return this.#setting.name;
  }

  /** Answers and stream lines so far. */
  get steps(): number {
    return this.#steps;
  }

  /** Has the lane go on with a new connection, unless it is one that keeps what it has. */
  renew(): void {
    if (this.#setting.kind.endsWith("-lasting")) return;
    this.#isRenewalDue = true;
    if (this.#isStream) this.#connection?.close();
  }

  /** Resolves when the request under way has come to its end. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#isStream) this.#connection?.close();
    await this.#done;
    this.#connection?.close();
  }

  get #isStream(): boolean {
    return /^(watch|note)/.test(this.#setting.kind);
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const begunAtMs = monotonicMs();
      try {
        await this.#once();
      } catch (error) {
        const { name: lane, tally } = this.#setting;
        if (!(error instanceof ConnectionEnd)) throw error;
        if (error.kind !== "closed") tally.fault({ lane, kind: error.kind, why: error.message, begunAtMs });
        this.#drop();
      }
      await delay(this.#setting.pauseMs);
    }
  }

  #once(): Promise<void> {
    const { kind } = this.#setting;
    if (kind === "short") return this.#alone({ afterMs: 0, betweenMs: 0 });
    if (kind === "slow") return this.#alone(this.#slowness());
    return this.#isStream ? this.#stream() : this.#onKept();
  }

  /** From 0.3 to 1 s; every other answer begins at once and is interrupted, the others come late as a whole. */
  #slowness(): { afterMs: number; betweenMs: number } {
    const ms = 300 + ((this.#lastId * 277) % 701);
    return this.#lastId % 2 === 0 ? { afterMs: ms, betweenMs: 0 } : { afterMs: 0, betweenMs: ms };
  }

  /** A connection of its own for one request: what ends it before the answer is there is a failure. */
  async #alone(slowness: { afterMs: number; betweenMs: number }): Promise<void> {
    this.#connection = await this.#open();
    await this.#ask(this.#connection, slowness);
    this.#drop();
  }

  /**
   * A request on the connection that is kept. One that the other side has closed while it was idle is replaced; a request
   * that met the other side's FIN and no byte of an answer is sent once more, on a new connection.
   *
   * Source: RFC 9112, section 9.3.1 (a client may retry an idempotent request when the connection is closed before the
   * answer) and 9.6 (the last answer on a connection that is torn down may be lost otherwise).
   */
  async #onKept(): Promise<void> {
    const atOnce = { afterMs: 0, betweenMs: 0 };
    if (this.#connection?.end !== undefined || this.#isRenewalDue) this.#drop();
    this.#isRenewalDue = false;
    const isReused = this.#connection !== undefined;
    this.#connection ??= await this.#open();
    try {
      await this.#ask(this.#connection, atOnce);
    } catch (error) {
      if (!isReused || !(error instanceof ConnectionEnd) || error.kind !== "fin") throw error;
      this.#setting.tally.repeated();
      this.#connection.close();
      this.#connection = await this.#open();
      await this.#ask(this.#connection, atOnce);
    }
  }

  async #ask(
    connection: LineConnection,
    { afterMs, betweenMs }: { afterMs: number; betweenMs: number },
  ): Promise<void> {
    const { hungAfterMs, tally, name: lane } = this.#setting;
    const ask = { id: ++this.#lastId, bytes: answerBytes, afterMs, betweenMs };
    const begunAtMs = monotonicMs();
    connection.send(askLine(ask));
    const line = await connection.line(hungAfterMs);
    if (line !== answerLine(ask)) {
      tally.fault({ lane, kind: "wrong", why: `"${line.slice(0, 40)}" to request ${ask.id}`, begunAtMs });
    } else tally.answered(monotonicMs() - begunAtMs - afterMs - betweenMs);
    this.#steps += 1;
  }

  /** A stream is used until it ends; the other side may end it in order, as servers end watches. */
  async #stream(): Promise<void> {
    const { hungAfterMs, tally, kind } = this.#setting;
    const connection = await this.#open();
    this.#connection = connection;
    tally.streamOpened();
    const writer = kind.startsWith("note") ? startNotes(connection) : undefined;
    if (writer === undefined) connection.send(`watch ${watchEveryMs}`);
    try {
      while (!this.#isStopped) {
        await connection.line(hungAfterMs);
        tally.streamLine();
        this.#steps += 1;
      }
    } catch (error) {
      if (!(error instanceof ConnectionEnd) || error.kind !== "fin") throw error;
      tally.streamEnded();
    } finally {
      clearInterval(writer);
      this.#drop();
    }
  }

  async #open(): Promise<LineConnection> {
    const { host, port, hungAfterMs: timeoutMs } = this.#setting;
    return LineConnection.open({ host, port, timeoutMs });
  }

  #drop(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }
}

/** Pushes notes; the server answers some of them. */
function startNotes(connection: LineConnection): NodeJS.Timeout {
  let count = 0;
  return setInterval(() => connection.send(`note ${count++}`), noteEveryMs);
}
