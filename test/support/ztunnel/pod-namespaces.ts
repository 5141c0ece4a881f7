// SPDX-License-Identifier: Apache-2.0
// Real network namespaces for tests, in a mount namespace of their own, so that nothing is left when the test dies.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { Netns } from "../../../src/linux/netns.ts";

// the files live on a tmpfs that only this shell sees; it ends, and everything with it, when its stdin ends
const script = `
mount -t tmpfs none /mnt || exit 1
while [ "$1" -gt 0 ]; do
  shift_count=$(($1 - 1)); set -- "$shift_count" "$2"
  : > /mnt/$1
  if [ "$2" = up ]; then unshare --net=/mnt/$1 ip link set lo up || exit 1
  else unshare --net=/mnt/$1 true || exit 1; fi
done
echo ready
exec cat >/dev/null
`;

/** A number of empty namespaces, loopback up unless told otherwise; `stop` ends those nobody has a handle on. */
export class PodNamespaces implements AsyncDisposable {
  readonly count: number;
  readonly #holder: ChildProcess;

  private constructor(holder: ChildProcess, count: number) {
    this.#holder = holder;
    this.count = count;
  }

  static async create(
    count: number,
    { loopback = "up" }: { loopback?: "up" | "down" } = {},
  ): Promise<PodNamespaces> {
    const args = ["-m", "--propagation", "private", "sh", "-c", script, "sh", String(count), loopback];
    const holder = spawn("unshare", args, { stdio: ["pipe", "pipe", "pipe"] });
    let errors = "";
    holder.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    const ready = once(holder.stdout, "data");
    const ended = once(holder, "close").then(() => {
      throw new Error(`Cannot create ${count} namespaces: ${errors}`);
    });
    ended.catch(() => {});
    await Promise.race([ready, ended]);
    return new PodNamespaces(holder, count);
  }

  /** Path under which this process can open the namespace. */
  path(index: number): string {
    return `/proc/${this.#holder.pid}/root/mnt/${index}`;
  }

  /** A handle the caller closes. */
  open(index: number): Netns {
    return Netns.open(this.path(index));
  }

  async stop(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return;
    const closed = once(this.#holder, "close");
    this.#holder.kill("SIGKILL");
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
