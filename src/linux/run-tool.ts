// SPDX-License-Identifier: Apache-2.0
// The one place where processes are started: bounded in number, time and output, and never through a shell.
import { type ChildProcess, spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import type { Readable, Writable } from "node:stream";
import { Limit } from "../loop/limit.ts";

/** One process to run. */
export interface ToolCall {
  /** Name or path of the tool, then its arguments. */
  readonly argv: readonly [string, ...string[]];
  /** Network namespace to run in; the descriptor stays the caller's and must be open until the call settles. */
  readonly netnsFd?: number;
  readonly stdin?: string;
  /** Besides PATH, which is the runner's; nothing is inherited. */
  readonly env?: Readonly<Record<string, string>>;
  /** For the whole call, waiting for a free place included; default 10 s. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** What iptables-legacy locks instead of the machine's file. */
  readonly lockFile?: string;
  /** Somebody waits in CNI ADD: it has places of its own, which other runs cannot take. Default false. */
  readonly isUrgent?: boolean;
  /** Called right before the process is started; what it throws rejects the call. */
  readonly beforeStart?: () => void;
}

export interface ToolOutput {
  readonly stdout: string;
  readonly stderr: string;
}

export type ToolErrorCode =
  | "TOOL_MISSING"
  | "TOOL_FAILED"
  | "TOOL_TIMED_OUT"
  | "TOOL_ABORTED"
  | "TOOL_OUTPUT_TOO_LONG";

/** Why a tool gave no result. */
export class ToolError extends Error {
  override readonly name = "ToolError";
  readonly code: ToolErrorCode;
  readonly exitCode: number | undefined;
  readonly stderr: string;
  /** The line of the input that the tool complained about. */
  readonly inputLine: string | undefined;

  constructor(
    code: ToolErrorCode,
    message: string,
    details: {
      exitCode?: number | undefined;
      stderr?: string;
      inputLine?: string | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause: details.cause });
    this.code = code;
    this.exitCode = details.exitCode;
    this.stderr = details.stderr ?? "";
    this.inputLine = details.inputLine;
  }
}

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TIMEOUT_MS = 10_000;
const MAX_OUTPUT_BYTES = 4 << 20;
const NETNS_CHILD_FD = 3;
const MAX_STDERR_IN_MESSAGE = 500;
/** How long a killed process may take to go: one that hangs in the kernel must not keep its place for ever. */
const KILL_GRACE_MS = 2_000;

/** Runs tools with a bound on how many run at once; one instance serves the whole agent. */
export class ToolRunner {
  readonly #path: string;
  readonly #places: Limit;
  readonly #urgentPlaces: Limit;
  #startedCount = 0;

  /** `path`: the tools' PATH, default the usual six folders; `maxParallel`: default twice the processors, at most 8; as many urgent ones beside them. */
  constructor(options: { path?: string; maxParallel?: number } = {}) {
    this.#path = options.path ?? DEFAULT_PATH;
    const places = options.maxParallel ?? Math.min(8, 2 * availableParallelism());
    this.#places = new Limit(places);
    this.#urgentPlaces = new Limit(places);
  }

  /** Value of PATH that the tools are looked up in. */
  get path(): string {
    return this.#path;
  }

  /** Processes started so far. */
  get startedCount(): number {
    return this.#startedCount;
  }

  /**
   * Runs a tool to its end. When the call is aborted or its time is up the process is killed and waited for.
   * @throws {ToolError} TOOL_MISSING, TOOL_FAILED (exit status or signal), TOOL_TIMED_OUT, TOOL_ABORTED, TOOL_OUTPUT_TOO_LONG.
   */
  async run(call: ToolCall): Promise<ToolOutput> {
    const timeoutMs = call.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const stop = new AbortController();
    const fail = (code: ToolErrorCode, why: string) => {
      stop.abort(new ToolError(code, `Cannot finish "${call.argv.join(" ")}": ${why}`));
    };
    const onAbort = () => fail("TOOL_ABORTED", "the caller gave up");
    if (call.signal?.aborted) onAbort();
    call.signal?.addEventListener("abort", onAbort, { once: true });
    const timer = setTimeout(() => fail("TOOL_TIMED_OUT", `no end after ${timeoutMs} ms`), timeoutMs);
    try {
      const places = call.isUrgent === true ? this.#urgentPlaces : this.#places;
      return await places.run(
        () => {
          call.beforeStart?.();
          this.#startedCount++;
          return finish(this.#start(call), { call, stop });
        },
        { signal: stop.signal },
      );
    } finally {
      clearTimeout(timer);
      call.signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Some reasons for not starting are thrown by spawn, others come as an event: here all come the same way. */
  #start({ argv, netnsFd, lockFile, env }: ToolCall): ChildProcess | NodeJS.ErrnoException {
    const lock = lockFile === undefined ? {} : { XTABLES_LOCKFILE: lockFile };
    const enter = netnsFd === undefined ? [] : ["nsenter", `--net=/proc/self/fd/${NETNS_CHILD_FD}`, "--"];
    const [program = "", ...args] = [...enter, ...argv];
    try {
      return spawn(program, args, {
        env: { ...env, PATH: this.#path, ...lock },
        stdio: ["pipe", "pipe", "pipe", ...(netnsFd === undefined ? [] : [netnsFd])],
      });
    } catch (error) {
      return error as NodeJS.ErrnoException;
    }
  }
}

async function finish(
  child: ChildProcess | NodeJS.ErrnoException,
  { call, stop }: { call: ToolCall; stop: AbortController },
): Promise<ToolOutput> {
  if (child instanceof Error) throw failure(call, { end: { error: child }, stderr: "" });
  // A tool that ends without reading its input is judged by its exit status, not by the broken pipe.
  child.stdin?.on("error", () => {});
  child.stdin?.end(call.stdin ?? "");
  const tooLong = () => {
    const why = `it printed more than ${MAX_OUTPUT_BYTES} bytes`;
    stop.abort(new ToolError("TOOL_OUTPUT_TOO_LONG", `Cannot finish "${call.argv.join(" ")}": ${why}`));
  };
  const stdout = collect(child.stdout, tooLong);
  const stderr = collect(child.stderr, tooLong);
  const end = await ended(child, stop.signal);
  if (stop.signal.aborted) throw stop.signal.reason;
  const output = { stdout: stdout(), stderr: stderr() };
  if ("error" in end || end.exitCode !== 0) throw failure(call, { end, stderr: output.stderr });
  return output;
}

type End = { error: NodeJS.ErrnoException } | { exitCode: number | null; signal: NodeJS.Signals | null };

/** Settles when the process is gone and its output is read; once stopped, without waiting for heirs of its pipes. */
function ended(child: ChildProcess, stop: AbortSignal): Promise<End> {
  return new Promise((resolve) => {
    let exit: End | undefined;
    let grace: NodeJS.Timeout | undefined;
    const kill = () => {
      child.kill("SIGKILL");
      for (const stream of child.stdio) (stream as Readable | Writable | null | undefined)?.destroy();
      if (exit !== undefined) resolve(exit);
      else grace = setTimeout(() => resolve({ exitCode: null, signal: "SIGKILL" }), KILL_GRACE_MS);
    };
    const settle = (end: End) => {
      stop.removeEventListener("abort", kill);
      clearTimeout(grace);
      resolve(end);
    };
    child.once("error", (error) => settle({ error }));
    child.once("exit", (exitCode, signal) => {
      exit = { exitCode, signal };
      if (stop.aborted) settle(exit);
    });
    child.once("close", (exitCode, signal) => settle({ exitCode, signal }));
    if (stop.aborted) kill();
    else stop.addEventListener("abort", kill, { once: true });
  });
}

function collect(stream: Readable | null, onTooLong: () => void): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > MAX_OUTPUT_BYTES) onTooLong();
    else chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString();
}

function failure(call: ToolCall, { end, stderr }: { end: End; stderr: string }): ToolError {
  const [tool] = call.argv;
  if ("error" in end) {
    const { code = end.error.message } = end.error;
    const started = call.netnsFd === undefined ? tool : "nsenter";
    return code === "ENOENT" || code === "EACCES"
      ? missing(started, { why: code, cause: end.error })
      : new ToolError("TOOL_FAILED", `Cannot start "${started}": ${code}`, { cause: end.error });
  }
  if (end.exitCode === 127 && stderr.includes("failed to execute")) {
    return missing(tool, { why: "no such file in PATH", stderr });
  }
  const number = /\bline:?\s+(\d+)/.exec(stderr)?.[1];
  const inputLine = number === undefined ? undefined : call.stdin?.split("\n")[Number(number) - 1];
  const status = end.exitCode === null ? `ended by ${end.signal}` : `exit status ${end.exitCode}`;
  const at = inputLine === undefined ? "" : `, at "${inputLine}"`;
  const said = stderr.trim().slice(0, MAX_STDERR_IN_MESSAGE);
  return new ToolError("TOOL_FAILED", `Cannot finish "${call.argv.join(" ")}": ${status}${at}: ${said}`, {
    exitCode: end.exitCode ?? undefined,
    stderr,
    inputLine,
  });
}

function missing(tool: string, details: { why: string; stderr?: string; cause?: unknown }): ToolError {
  const remedy = "the agent's image must hold iptables and nsenter (util-linux)";
  return new ToolError("TOOL_MISSING", `Cannot run "${tool}": ${details.why}; ${remedy}`, details);
}
