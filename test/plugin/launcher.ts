// SPDX-License-Identifier: Apache-2.0
// Runs the real launcher with a given environment and stdin, and tells what came of it.
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** The launcher's folder. */
export const pluginDir = fileURLToPath(new URL("../../plugin", import.meta.url));

/** The builds that every case runs on: the one that is shipped, and one that looks at each memory access. */
export const builds = [
  { build: "static", binary: `${pluginDir}/build/ambient-cni` },
  { build: "sanitized", binary: `${pluginDir}/build/ambient-cni-asan` },
] as const;

/** What a finished launcher left behind. */
export interface Run {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly ms: number;
}

/** A CNI error object as found on stdout. */
export interface CniErrorObject {
  readonly cniVersion: string;
  readonly code: number;
  readonly msg: string;
  readonly details?: string;
}

/** How to run it. */
export interface RunOptions {
  readonly env?: Record<string, string>;
  readonly input?: string | Uint8Array;
  /** Takes over stdin: write to it and end it, or not. */
  readonly feed?: (stdin: NodeJS.WritableStream) => void;
  /** Command words before the binary, for example a wrapper. */
  readonly wrapper?: readonly string[];
  readonly uid?: number;
}

/** Builds make targets of the launcher; what is up to date costs a few milliseconds. */
export async function buildPlugin(...targets: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)("make", ["-s", "-C", pluginDir, ...targets]);
  return stdout;
}

/** Starts `binary` and waits for its end; its environment is `env` and nothing else. */
export function runLauncher(binary: string, options: RunOptions = {}): Promise<Run> {
  const [command, ...args] = [...(options.wrapper ?? []), binary];
  const started = performance.now();
  const child = spawn(command!, args, {
    env: { ...options.env },
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  const stdout: Buffer[] = [];
  let stderr = "";
  child.stdout.on("data", (part: Buffer) => stdout.push(part));
  child.stderr.on("data", (part: Buffer) => {
    stderr += part.toString();
  });
  child.stdin.on("error", () => undefined); // it may be done before it has read everything
  if (options.feed) options.feed(child.stdin);
  else child.stdin.end(options.input ?? "");
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      resolve({ code, signal, stdout: Buffer.concat(stdout), stderr, ms: performance.now() - started });
    });
  });
}

/** The environment containerd gives an ADD, with `overrides`. */
export function cniEnv(command: string, overrides: Record<string, string> = {}): Record<string, string> {
  return {
    PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
    CNI_COMMAND: command,
    CNI_CONTAINERID: "cbe7e986cbe7e986",
    CNI_NETNS: "/var/run/netns/cni-f0b0665d-2606-20df-6fa1-14d497cd07ca",
    CNI_IFNAME: "eth0",
    CNI_PATH: "/opt/cni/bin",
    CNI_ARGS: "K8S_POD_UID=1-2;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    ...overrides,
  };
}

/** The error object of a failed run; throws when stdout holds anything else. */
export function errorOf(run: Run): CniErrorObject {
  const parsed = JSON.parse(run.stdout.toString()) as CniErrorObject;
  if (run.code !== 1 || typeof parsed.code !== "number" || typeof parsed.msg !== "string")
    throw new Error(`No failed run: ${run.code} ${run.stdout.toString()} ${run.stderr}`);
  return parsed;
}

/** A short folder of its own (a socket's path holds 107 bytes at most), removed when disposed. */
export function scratchDir(): Disposable & { readonly path: string } {
  const path = mkdtempSync(`${tmpdir()}/ac-`);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
