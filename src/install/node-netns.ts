// SPDX-License-Identifier: Apache-2.0
// All network namespaces of a node that somebody can still see: of its processes, and named ones.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { netnsKeyAt } from "../netns/host-netns.ts";

/** Processes looked at between two turns of the event loop. */
const chunkSize = 50;

/** Where runtimes name the namespaces of sandboxes. */
const namedFolders = ["var/run/netns", "run/netns"];

/** A path for each namespace, by `Netns.key`, without the host's. */
export async function listNodeNetns(options: {
  readonly hostRoot: string;
  readonly hostNetns: ReadonlySet<string>;
}): Promise<Map<string, string>> {
  const { hostRoot, hostNetns } = options;
  const procRoot = join(hostRoot, "proc");
  const named = namedFolders.flatMap((folder) => pathsIn(join(hostRoot, folder), /./, ""));
  const found = new Map<string, string>();
  for (const [index, path] of [...named, ...pathsIn(procRoot, /^\d+$/, "ns/net")].entries()) {
    if (index % chunkSize === chunkSize - 1) await nextTurn();
    const key = keyOrUndefined(path);
    if (key !== undefined && !hostNetns.has(key) && !found.has(key)) found.set(key, path);
  }
  return found;
}

function pathsIn(folder: string, name: RegExp, rest: string): string[] {
  try {
    return readdirSync(folder)
      .filter((entry) => name.test(entry))
      .map((entry) => join(folder, entry, rest));
  } catch {
    // a node without named namespaces
    return [];
  }
}

/** A process may end between any two reads, and a runtime leaves plain files where a namespace was mounted. */
function keyOrUndefined(path: string): string | undefined {
  try {
    return netnsKeyAt(path);
  } catch {
    return undefined;
  }
}
