// SPDX-License-Identifier: Apache-2.0
// A network namespace of a test's own: it ends with the test process, however that ends.
import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { Netns } from "../../src/linux/netns.ts";

const execFileAsync = promisify(execFile);
/** PATH of the tools that tests call themselves. */
export const TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export class TestNetns implements Disposable {
  readonly pid: number;
  readonly netns: Netns;
  readonly #holder: ChildProcessWithoutNullStreams;

  /** Those of a user namespace that it belongs to, as with `hostUsers: false`. */
  readonly hasOwnUsers: boolean;

  private constructor(holder: ChildProcessWithoutNullStreams, hasOwnUsers: boolean) {
    this.#holder = holder;
    this.hasOwnUsers = hasOwnUsers;
    this.pid = holder.pid!;
    this.netns = Netns.open(`/proc/${this.pid}/ns/net`);
  }

  /** A new namespace with its loopback device up. @param options.ownUsers see {@link TestNetns.hasOwnUsers} */
  static async make({ ownUsers = false }: { ownUsers?: boolean } = {}): Promise<TestNetns> {
    // `cat` ends when its stdin does, which is when this process ends.
    const script = "echo ready && exec cat";
    const unshare = [...(ownUsers ? ["--user"] : []), "--net", "--", "sh", "-c", script];
    const holder = spawn("unshare", unshare, { env: { PATH: TOOL_PATH } });
    holder.stdin.on("error", () => {});
    const [chunk] = (await once(holder.stdout, "data")) as [Buffer];
    if (chunk.toString() !== "ready\n") throw new Error(`Cannot make a namespace: "${chunk}"`);
    if (ownUsers)
      for (const map of ["uid_map", "gid_map"])
        writeFileSync(`/proc/${holder.pid}/${map}`, "0 100000 65536\n");
    const netns = new TestNetns(holder, ownUsers);
    await netns.run("ip link set lo up");
    return netns;
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

  /** Rules of both families with the kernel's handles, without what packets change: unchanged text means that nobody wrote. */
  async handles(): Promise<string> {
    return await this.run("nft --stateless --handle list ruleset");
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
