// SPDX-License-Identifier: Apache-2.0
// A network namespace of a test's own: it ends with the test process, however that ends.
import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import { Netns } from "../../src/linux/netns.ts";

const execFileAsync = promisify(execFile);
/** PATH of the tools that tests call themselves. */
export const TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export class TestNetns implements Disposable {
  readonly pid: number;
  readonly netns: Netns;
  readonly #holder: ChildProcessWithoutNullStreams;

  private constructor(holder: ChildProcessWithoutNullStreams) {
    this.#holder = holder;
    this.pid = holder.pid!;
    this.netns = Netns.open(`/proc/${this.pid}/ns/net`);
  }

  /** A new namespace with its loopback device up. */
  static async make(): Promise<TestNetns> {
    // `cat` ends when its stdin does, which is when this process ends.
    const script = "ip link set lo up && echo ready && exec cat";
    const holder = spawn("unshare", ["--net", "--", "sh", "-c", script], { env: { PATH: TOOL_PATH } });
    holder.stdin.on("error", () => {});
    const [chunk] = (await once(holder.stdout, "data")) as [Buffer];
    if (chunk.toString() !== "ready\n") throw new Error(`Cannot make a namespace: "${chunk}"`);
    return new TestNetns(holder);
  }

  get procNetDir(): string {
    return `/proc/${this.pid}/net`;
  }

  /** Runs a command line (split at blanks) in the namespace; a non-zero exit status rejects. */
  async run(command: string, stdin = ""): Promise<string> {
    const net = `/proc/${this.pid}/ns/net`;
    const running = execFileAsync("nsenter", [`--net=${net}`, "--", ...command.split(" ")], {
      env: { PATH: TOOL_PATH, XTABLES_LOCKFILE: net },
    });
    running.child.stdin?.on("error", () => {}).end(stdin);
    return (await running).stdout;
  }

  /** What iptables-save prints, without its dates. */
  async save(tool = "iptables-nft-save"): Promise<string> {
    return withoutDates(await this.run(tool));
  }

  /** Rules of both families with the kernel's handles: unchanged text means that nobody wrote. */
  async handles(): Promise<string> {
    return await this.run("nft -a list ruleset");
  }

  [Symbol.dispose](): void {
    this.netns.close();
    this.#holder.stdin.end();
    this.#holder.kill("SIGKILL");
  }
}

export function withoutDates(text: string): string {
  return text.replaceAll(/^# (Generated|Completed).*\n/gm, "");
}
