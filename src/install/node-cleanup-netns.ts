// SPDX-License-Identifier: Apache-2.0
// Every network namespace of a node in which an agent may have written, found without knowing a single pod.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { NativeError, xtablesInNetns } from "../linux/native.ts";
import { dumpNftRuleset } from "../linux/netlink/nftables.ts";
import { readRedirectRouting } from "../linux/netlink/rtnetlink.ts";
import { Netns, NetnsError } from "../linux/netns.ts";
import { processesIn, unlessGone } from "../linux/proc.ts";
import { findNativeTables } from "../netfilter/native-tables.ts";
import { readLegacyTableNames } from "../netfilter/variant.ts";

/** A namespace and the ways to it. */
export interface FoundNetns {
  readonly key: string;
  readonly path: string;
  /** For people: the file's name, or a process in there. */
  readonly name: string;
  /** /proc/PID/net of a process in there; none when only a file names the namespace. */
  readonly procNetDir: string | undefined;
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
    const { netnsPath: path, procNetDir } = process;
    found.set(key, { key, path, name: `process ${process.pid} (${process.comm() ?? "?"})`, procNetDir });
  }
  for (const folder of netnsFolders.map((each) => join(hostRoot, each))) {
    for (const name of await readdir(folder).catch((): string[] => [])) {
      const path = join(folder, name);
      const key = unlessGone(() => netnsKeyAt(path));
      if (key === undefined || ignore.has(key)) continue;
      found.set(key, { key, path, name, procNetDir: found.get(key)?.procNetDir });
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

/** In no sidecar's rules; ISTIO_OUTPUT is, and must stay there. Source: istio/istio tools/istio-iptables pkg/constants. */
const tellingChain = "ISTIO_PRERT";
const families = [4, 6] as const;

/**
 * Whether an ambient agent wrote here: the ip rule or route, which are written first and removed last, or chain or tables that
 * only ambient mode has. Sidecars have a chain of a name that is ours, too: without one of these signs nothing is touched.
 * @throws NetlinkError, NativeError when the kernel cannot be asked
 */
export async function isEnrolled(netns: Netns, procNetDir: string | undefined): Promise<boolean> {
  const { v4, v6 } = await readRedirectRouting(netns.fd, { v6: true });
  if (v4.rule || v4.route || v6.rule || v6.route) return true;
  if ((await findNativeTables(netns.fd)).length > 0) return true;
  return await hasChain(netns, { chain: tellingChain, tables: ["mangle", "nat"], procNetDir });
}

/** A chain to look for. */
export interface SoughtChain {
  readonly chain: string;
  readonly tables: readonly string[];
  /** Tells which x_tables exist: asking for another would create it. Undefined: they are not looked at. */
  readonly procNetDir: string | undefined;
}

/** Whether a namespace has a chain, in either family of either iptables variant; starts no process. */
export async function hasChain(netns: Netns, sought: SoughtChain): Promise<boolean> {
  const { chain, tables, procNetDir } = sought;
  // a kernel without nf_tables has no chains in them
  const dump = await dumpNftRuleset(netns.fd).catch(() => []);
  const isInNft = dump.some(
    ({ family, table, chains }) =>
      family !== "inet" && tables.includes(table) && chains.some(({ name }) => name === chain),
  );
  if (isInNft || procNetDir === undefined) return isInNft;
  for (const family of families) {
    const names = await readLegacyTableNames(procNetDir, family).catch((): string[] => []);
    for (const table of names.filter((name) => tables.includes(name))) {
      if (await hasLegacyChain(netns, { family, table, chain })) return true;
    }
  }
  return false;
}

async function hasLegacyChain(
  netns: Netns,
  { family, table, chain }: { family: 4 | 6; table: string; chain: string },
): Promise<boolean> {
  try {
    return Buffer.from(await xtablesInNetns(netns.fd, family, table)).includes(`${chain}\0`);
  } catch (error) {
    if (error instanceof NativeError && ["ENOENT", "ENOPROTOOPT"].includes(error.code)) return false;
    throw error;
  }
}
