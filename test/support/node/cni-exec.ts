// SPDX-License-Identifier: Apache-2.0
// Executes one CNI plugin once, as the container runtime's library does, and words its failure the same way.
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";

/** The verbs a runtime of today may call. */
export type CniVerb = "ADD" | "DEL" | "CHECK" | "GC" | "STATUS" | "VERSION";

/** Everything that one execution of a plugin depends on. */
export interface PluginCall {
  readonly type: string;
  readonly binDirs: readonly string[];
  /** The whole environment, CNI variables included. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
  /** The plugin gets SIGKILL after this long. */
  readonly timeoutMs: number;
}

/** A plugin that could not be found or did not end with exit code 0. The message is as libcni would give it. */
export class PluginError extends Error {
  override readonly name = "PluginError";
  /** Numeric code of the plugin's error object, if it printed one. */
  readonly code: number | undefined;

  constructor(message: string, code?: number) {
    super(message);
    this.code = code;
  }
}

/**
 * Runs a plugin and returns what it printed on stdout; stderr of a successful plugin is dropped.
 *
 * Source: containernetworking/cni pkg/invoke/raw_exec.go (ExecPlugin, pluginErr), find.go (FindInPath),
 * pkg/types/types.go (Error.Error).
 * @throws PluginError
 */
export async function execPlugin(call: PluginCall): Promise<string> {
  const path = await findPlugin(call.type, call.binDirs);
  const child = spawn(path, [], {
    env: { ...call.env },
    cwd: "/",
    timeout: call.timeoutMs,
    killSignal: "SIGKILL",
  });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on("error", () => {});
  child.stdin.end(call.stdin);
  const ended = await new Promise<{ code: number | null; signal: string | null }>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal }));
  });
  const output = Buffer.concat(stdout).toString();
  if (ended.code === 0) return output;
  throw pluginError(output, Buffer.concat(stderr).toString(), ended);
}

async function findPlugin(type: string, binDirs: readonly string[]): Promise<string> {
  for (const folder of binDirs) {
    const path = join(folder, type);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  throw new PluginError(`failed to find plugin "${type}" in path [${binDirs.join(" ")}]`);
}

function pluginError(
  stdout: string,
  stderr: string,
  ended: { code: number | null; signal: string | null },
): PluginError {
  const how = ended.signal === null ? `exit status ${ended.code}` : `signal: ${signalWord(ended.signal)}`;
  if (stdout === "") {
    const why =
      stderr === "" ? `netplugin failed with no error message: ${how}` : `netplugin failed: "${stderr}"`;
    return new PluginError(why);
  }
  try {
    const {
      msg = "",
      details = "",
      code,
    } = JSON.parse(stdout) as { msg?: string; details?: string; code?: number };
    return new PluginError(details === "" ? msg : `${msg}; ${details}`, code);
  } catch (error) {
    return new PluginError(
      `netplugin failed but error parsing its diagnostic message "${stdout}": ${String(error)}`,
    );
  }
}

function signalWord(signal: string): string {
  return signal === "SIGKILL" ? "killed" : signal.slice(3).toLowerCase();
}
