// SPDX-License-Identifier: Apache-2.0
// A network namespace for a test, held by a process that ends with the test's process however that ends.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";

const execFileAsync = promisify(execFile);

/** A namespace of its own with nothing in it but a loopback device. */
export interface HeldNetns extends AsyncDisposable {
  readonly pid: number;
  /** /proc/PID/ns/net */
  readonly path: string;
  /** Runs a program inside; its standard output. */
  run(...argv: [string, ...string[]]): Promise<string>;
  /** The same with text for its standard input. */
  feed(input: string, ...argv: [string, ...string[]]): Promise<string>;
}

/** @param options.up whether the loopback device is up, default true */
export async function holdNetns(options: { up?: boolean } = {}): Promise<HeldNetns> {
  const { up = true } = options;
  // cat ends when the pipe from this process does.
  const script = `${up ? "ip link set lo up && " : ""}echo ready && exec cat`;
  const holder = spawn("unshare", ["-n", "sh", "-c", script], { stdio: ["pipe", "pipe", "inherit"] });
  const exited = once(holder, "exit");
  await Promise.race([
    once(holder.stdout, "data"),
    exited.then(() => {
      throw new Error("Cannot hold a network namespace: unshare failed (these tests need root)");
    }),
  ]);
  const path = `/proc/${holder.pid}/ns/net`;
  const feed = async (input: string, ...argv: [string, ...string[]]) => {
    const running = execFileAsync("nsenter", [`--net=${path}`, ...argv]);
    // A program that does not read its input may be gone before we have written it.
    running.child.stdin?.on("error", () => {}).end(input);
    return (await running).stdout;
  };
  return {
    pid: holder.pid as number,
    path,
    run: (...argv) => feed("", ...argv),
    feed,
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      await exited;
    },
  };
}
