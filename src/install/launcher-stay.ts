// SPDX-License-Identifier: Apache-2.0
// Whether a runtime will still call the launcher for sandboxes of today, although no chain names it any more.
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { launcherName } from "./launcher-copy.ts";
import { findRuntime } from "./runtime-network.ts";

/** Where the node is looked at. */
export interface LauncherStayOptions {
  /** Prefix under which the host's files are seen. */
  readonly hostRoot: string;
  /** Plugin that is asked for; default ours. */
  readonly type?: string;
}

/**
 * Why the launcher must not be removed yet; undefined: nobody will call it.
 *
 * A launcher that is missing when it is called for DEL keeps the pod from being deleted for good; one that is left over is a
 * file of 50 KB that answers DEL with success all by itself. So it goes only when it is known not to be needed:
 *
 * - containerd and cri-dockerd take the chain as it is now. Source: containerd/go-cni cni.go, Remove; Mirantis/cri-dockerd
 *   network/cni, deleteFromNetwork.
 * - CRI-O takes the chain that it kept with the sandbox's result at ADD. Source: cri-o/ocicni pkg/ocicni/ocicni.go,
 *   TearDownPodWithContext, loadNetworkFromCache.
 * - Multus takes the delegates that it kept for the sandbox. Source: k8snetworkplumbingwg/multus-cni pkg/multus, CmdDel.
 */
export async function whyLauncherStays(options: LauncherStayOptions): Promise<string | undefined> {
  const { hostRoot, type = launcherName } = options;
  const folder = await cacheFolder(hostRoot);
  if (folder === "unknown") {
    return (
      "whether the runtime keeps the chain of pods cannot be seen (/var/lib/cni); " +
      "it is harmless; remove it by hand when all pods of today are gone"
    );
  }
  if (folder === undefined) return undefined;
  const delegated = await countMentions(join(folder, "multus"), type);
  const results = await countMentions(join(folder, "results"), type);
  const keeper =
    delegated > 0 ? "Multus" : results > 0 && !(await takesChainOfNow(hostRoot)) ? "the runtime" : undefined;
  if (keeper === undefined) return undefined;
  return (
    `${keeper} keeps the chain of ${Math.max(delegated, results)} pods and calls it when they are deleted, which needs no agent; ` +
    "try again when they are gone"
  );
}

/** The runtime's cache; undefined when there is none. */
async function cacheFolder(hostRoot: string): Promise<string | "unknown" | undefined> {
  const path = join(hostRoot, "var/lib/cni");
  if ((await namesIn(path)) !== undefined) return path;
  if (hostRoot === "/") return undefined;
  // the usual mounts of an agent do not have it: the host's own root does
  const root = join(hostRoot, "proc/1/root");
  if (((await namesIn(root)) ?? []).length === 0) return "unknown";
  const behind = join(root, "var/lib/cni");
  return (await namesIn(behind)) === undefined ? undefined : behind;
}

/** Files that name the plugin in the chain they keep. */
async function countMentions(folder: string, type: string): Promise<number> {
  let count = 0;
  for (const name of (await namesIn(folder)) ?? []) {
    const text = await readFile(join(folder, name), "utf8").catch(() => "");
    if (mentions(text, type)) count++;
  }
  return count;
}

/** Source: containernetworking/cni libcni/api.go, cachedInfo: `config` is the chain's bytes, which Go writes in base64. */
function mentions(text: string, type: string): boolean {
  const name = `"${type}"`;
  if (text.includes(name)) return true;
  return [...text.matchAll(/"(?:config|Bytes)":\s*"([A-Za-z0-9+/=]+)"/g)].some(([, base64 = ""]) =>
    Buffer.from(base64, "base64").toString("utf8").includes(name),
  );
}

async function takesChainOfNow(hostRoot: string): Promise<boolean> {
  const { crio, isOther } = await findRuntime(hostRoot);
  return crio === undefined && isOther;
}

async function namesIn(folder: string): Promise<string[] | undefined> {
  return await readdir(folder).catch(() => undefined);
}
