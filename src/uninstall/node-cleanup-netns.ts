// SPDX-License-Identifier: Apache-2.0
// Every network namespace of a node in which an agent may have written, found without knowing a single pod.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { Netns, NetnsError } from "../linux/netns.ts";
import { processesIn, unlessGone } from "../linux/proc.ts";

/** A namespace and the ways to it. */
export interface FoundNetns {
  readonly key: string;
  readonly path: string;
  /** For people: the file's name, or a process in there. */
  readonly name: string;
}

export interface NetnsSearch {
  /** Prefix under which the host's files are seen. */
  readonly hostRoot: string;
  /** Keys of namespaces that are left out: the host's. */
  readonly ignore: ReadonlySet<string>;
}

/** Where runtimes keep namespaces as files; /var/run may be a link that leads out of `hostRoot`. */
const netnsFolders = ["var/run/netns", "run/netns", "var/run/docker/netns", "run/docker/netns"];

/** All namespaces but the host's, each once, whether a process or only a file holds it. @throws Error when /proc cannot be read */
export async function findNetns({ hostRoot, ignore }: NetnsSearch): Promise<FoundNetns[]> {
  const found = new Map<string, FoundNetns>();
  for await (const process of processesIn(join(hostRoot, "proc"))) {
    const key = process.netnsKey();
    if (key === undefined || ignore.has(key) || found.has(key)) continue;
    const name = `process ${process.pid} (${process.comm() ?? "?"})`;
    found.set(key, { key, path: process.netnsPath, name });
  }
  for (const folder of netnsFolders.map((each) => join(hostRoot, each))) {
    for (const name of await readdir(folder).catch((): string[] => [])) {
      const path = join(folder, name);
      const key = unlessGone(() => netnsKeyAt(path));
      if (key === undefined || ignore.has(key)) continue;
      found.set(key, { key, path, name });
    }
  }
  return [...found.values()];
}

/**
 * Opens a namespace that was found; undefined when it is gone, or the file never was one.
 * @throws NetnsError when it may not be opened
 */
export function openFound(found: FoundNetns): Netns | undefined {
  try {
    return Netns.open(found.path);
  } catch (error) {
    const isGone = error instanceof NetnsError && ["ENOENT", "ESRCH", "ENOTNS"].includes(error.code);
    if (isGone) return undefined;
    throw error;
  }
}
