// SPDX-License-Identifier: Apache-2.0
// A long-lived program of a test node: its log lines, its end, and what the kernel says about it.
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { patience } from "./patience.ts";
import { cleanEnv, signalNumber } from "./run.ts";
import { type WaitOptions, waitFor } from "./wait-for.ts";

/** A line of output; `json` is set when it is a JSON object. */
export interface LogLine {
  readonly text: string;
  readonly json: Readonly<Record<string, unknown>> | undefined;
  /** `performance.now()` when it arrived. */
  readonly atMs: number;
}

/** How a {@link ManagedProcess} is started. */
export interface ManagedProcessOptions {
  /** For messages, for example "agent". */
  readonly name: string;
  /** The whole environment; default {@link cleanEnv}. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** A child process whose output is kept line by line. */
export class ManagedProcess {
  readonly name: string;
  /** All lines of stdout and stderr, in the order in which they arrived. */
  readonly lines: LogLine[] = [];
  /** Exit code, 128 + n after signal n. */
  readonly exited: Promise<number>;
  readonly #child: ChildProcess;
  #exitCode: number | undefined;

  constructor(argv: readonly string[], options: ManagedProcessOptions) {
    const [file = "", ...args] = argv;
    this.name = options.name;
    const child = spawn(file, args, {
      env: { ...(options.env ?? cleanEnv()) },
      stdio: ["ignore", "pipe", "pipe"],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    this.#child = child;
    this.#collect(child.stdout);
    this.#collect(child.stderr);
    const ended = new Promise<number>((resolve) => {
      child.once("error", (error) => {
        this.lines.push({ text: error.message, json: undefined, atMs: performance.now() });
        resolve(127);
      });
      child.once("close", (code, signal) => resolve(code ?? 128 + signalNumber(signal)));
    });
    this.exited = ended.then((code) => {
      this.#exitCode = code;
      return code;
    });
  }

  /** @throws Error when the program could not be started at all. */
  get pid(): number {
    if (this.#child.pid === undefined)
      throw new Error(`Cannot tell the pid of ${this.name}: ${this.#tail()}`);
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#exitCode === undefined;
  }

  /** All output so far as one text. */
  get text(): string {
    return this.lines.map((line) => line.text).join("\n");
  }

  /**
   * Waits for a condition about this process.
   *
   * @throws Error with the last lines of output when the process ends or the deadline passes first.
   */
  async until<T>(what: string, probe: () => T | Promise<T>, options: WaitOptions = {}): Promise<void> {
    try {
      await waitFor(`${this.name}: ${what}`, async () => !this.running || (await probe()), options);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.#tail()}`, { cause: error });
    }
    if (!this.running && !(await probe())) {
      throw new Error(
        `Waited in vain for ${this.name}: ${what}: it has ended (code ${this.#exitCode})\n${this.#tail()}`,
      );
    }
  }

  /** Waits for a line that matches, among all lines so far and those to come. */
  async untilLine(
    what: string,
    matches: (line: LogLine) => boolean,
    options: WaitOptions = {},
  ): Promise<LogLine> {
    await this.until(what, () => this.lines.some(matches), options);
    return this.lines.find(matches) as LogLine;
  }

  /** Sends SIGTERM and waits; after the deadline SIGKILL. Returns the exit code. */
  async stop(timeoutMs = 5000): Promise<number> {
    this.#child.kill("SIGTERM");
    const deadline = setTimeout(() => this.#child.kill("SIGKILL"), timeoutMs * patience());
    const code = await this.exited;
    clearTimeout(deadline);
    return code;
  }

  /** Sends SIGKILL and waits. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }

  /** Resident memory now. Source: proc_pid_status(5). */
  rssBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
  }

  /** Processor time so far, user and system. Source: proc_pid_stat(5), fields 14 and 15 in ticks of 10 ms. */
  cpuMs(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10;
  }

  /** Number of open descriptors now. */
  openFds(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  #collect(stream: NodeJS.ReadableStream): void {
    let rest = "";
    stream.setEncoding("utf8");
    stream.on("data", (chunk: string) => {
      const pieces = (rest + chunk).split("\n");
      rest = pieces.pop() ?? "";
      for (const text of pieces) this.#keep(text);
    });
    stream.on("end", () => {
      if (rest !== "") this.#keep(rest);
    });
  }

  #keep(text: string): void {
    let json: Record<string, unknown> | undefined;
    if (text.startsWith("{")) {
      try {
        json = JSON.parse(text) as Record<string, unknown>;
      } catch {
        // half a line of a dying process is still worth keeping as text
      }
    }
    this.lines.push({ text, json, atMs: performance.now() });
  }

  #tail(): string {
    const last = this.lines.slice(-15).map((line) => `  ${line.text}`);
    return `last output of ${this.name}:\n${last.length === 0 ? "  (none)" : last.join("\n")}`;
  }
}
