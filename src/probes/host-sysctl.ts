// SPDX-License-Identifier: Apache-2.0
// Network settings of the host's namespace: /proc/sys shows each process those of the namespace it is in.
import { readFile } from "node:fs/promises";
import { netnsKeyAt } from "../linux/host-netns.ts";
import type { Netns } from "../linux/netns.ts";
import type { ToolRunner } from "../linux/run-tool.ts";

/** They hardly ever change, and reading one may take a process. */
const MAX_AGE_MS = 60_000;

/** Reads settings, each at most once a minute. */
export class HostSysctl {
  readonly #runner: ToolRunner;
  readonly #read = new Map<string, { readonly atMs: number; readonly value: string | undefined }>();

  constructor(runner: ToolRunner) {
    this.#runner = runner;
  }

  /** Value of a setting below /proc/sys/net; undefined when it cannot be read. */
  async read(netns: Netns, name: string): Promise<string | undefined> {
    const key = `${netns.key} ${name}`;
    const known = this.#read.get(key);
    if (known !== undefined && performance.now() - known.atMs < MAX_AGE_MS) return known.value;
    const value = await this.#ask(netns, `/proc/sys/net/${name}`).catch(() => undefined);
    this.#read.set(key, { atMs: performance.now(), value });
    return value;
  }

  async #ask(netns: Netns, path: string): Promise<string> {
    if (netnsKeyAt("/proc/self/ns/net") === netns.key) return (await readFile(path, "utf8")).trim();
    return (await this.#runner.run({ argv: ["cat", path], netnsFd: netns.fd })).stdout.trim();
  }
}
