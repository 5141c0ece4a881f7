// SPDX-License-Identifier: Apache-2.0
// A path of the host, followed below the folder under which the host is seen: links lead where they lead on the host.
import { lstat, readlink } from "node:fs/promises";
import { join } from "node:path";

/** As many as Linux follows. Source: path_resolution(7) */
const maxLinks = 40;

/**
 * Follows every link of a path as the host would, absolute ones from `root`. The last part must be there.
 * @param root where the host's `/` is seen, for example /host
 * @param path absolute, as on the host
 * @returns the path without links, as this process sees it @throws ENOENT, ELOOP, ENOTDIR
 */
export async function hostPath(root: string, path: string): Promise<string> {
  if (root === "/") return path;
  let done: string[] = [];
  const todo = partsOf(path);
  for (let links = 0; todo.length > 0; ) {
    const part = todo.shift() ?? "";
    if (part === "..") {
      done = done.slice(0, -1);
      continue;
    }
    const at = join(root, ...done, part);
    if (!(await lstat(at)).isSymbolicLink()) {
      done.push(part);
      continue;
    }
    if (++links > maxLinks) throw Object.assign(new Error(`too many links: "${path}"`), { code: "ELOOP" });
    const target = await readlink(at);
    if (target.startsWith("/")) done = [];
    todo.unshift(...partsOf(target));
  }
  return join(root, ...done);
}

function partsOf(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

/** Where the host's `/` is seen: the part of it that is mounted, and all of it, through its first process. */
export function hostRoots(hostRoot: string): readonly string[] {
  return hostRoot === "/" ? ["/"] : [hostRoot, join(hostRoot, "proc/1/root")];
}
