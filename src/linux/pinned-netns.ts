// SPDX-License-Identifier: Apache-2.0
// Network namespaces that a runtime keeps as files, with or without a process in them: who is there, by its addresses.
import { realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { interfaceAddresses } from "./netlink/interface-addresses.ts";
import { Netns } from "./netns.ts";

/** A file that keeps a network namespace. */
export interface PinnedFile {
  readonly path: string;
  /** `Netns.key` of what is mounted there. */
  readonly key: string;
}

/** A pinned namespace and what it holds. */
export interface PinnedNetns extends PinnedFile {
  /** Those of the sought ones that its interfaces have, as `addressText` spells them. */
  readonly addresses: ReadonlySet<string>;
}

export interface PinnedScanOptions {
  /** Prefix under which the host's files are seen. */
  readonly hostRoot: string;
  /** Whether anybody looks for a namespace of this `Netns.key`; the others are not opened. */
  readonly isSought: (key: string) => boolean;
  /** Addresses by which it would be known. */
  readonly ips: readonly string[];
}

/** Where container runtimes keep them, below the host's root. One may be a link to the other, or not be there. */
const folders = ["var/run/netns", "run/netns"];
const maxNamespaces = 4_096;

/**
 * Looks into each pinned namespace that is sought, one after the other. What cannot be opened or asked is left out: it may
 * have gone meanwhile. The mount table says what is a namespace, so that no other file is touched: a FIFO or a mount that
 * hangs holds nobody up.
 */
export async function scanPinned(options: PinnedScanOptions): Promise<PinnedNetns[]> {
  const places = folders.flatMap((folder) => realPath(join(options.hostRoot, folder)) ?? []);
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  const found: PinnedNetns[] = [];
  for (const file of parsePinned(mounts, places)) {
    if (!options.isSought(file.key)) continue;
    const addresses = await addressesOf(file, options.ips).catch(() => undefined);
    if (addresses !== undefined) found.push({ ...file, addresses });
  }
  return found;
}

/**
 * The network namespaces mounted right below these folders, each once, in the text of a mountinfo file.
 * Source: proc_pid_mountinfo(5); linux fs/nsfs.c, nsfs_show_path, for the form of the root: `net:[inode]`.
 */
export function parsePinned(mountinfo: string, folders: readonly string[]): PinnedFile[] {
  const found = new Map<string, PinnedFile>();
  for (const line of mountinfo.split("\n")) {
    const [, , device = "", root = "", mountPoint = ""] = line.split(" ");
    const inode = /^net:\[(\d+)\]$/.exec(root)?.[1];
    if (inode === undefined) continue;
    const path = withoutEscapes(mountPoint);
    const cut = path.lastIndexOf("/");
    const key = `${deviceNumber(device)}:${inode}`;
    if (folders.includes(path.slice(0, cut)) && !found.has(key)) found.set(key, { path, key });
    if (found.size >= maxNamespaces) break;
  }
  return [...found.values()];
}

async function addressesOf(
  { path, key }: PinnedFile,
  ips: readonly string[],
): Promise<ReadonlySet<string> | undefined> {
  using netns = Netns.open(path);
  if (netns.key !== key) return undefined;
  const addresses = await interfaceAddresses(netns.fd, ips);
  return new Set(addresses.map(({ address }) => address));
}

/** As stat(2) has it. Source: linux/kdev_t.h, new_encode_dev. */
function deviceNumber(text: string): number {
  const [major = 0, minor = 0] = text.split(":").map(Number);
  return (minor & 0xff) + major * 2 ** 8 + (minor >> 8) * 2 ** 20;
}

/** Blanks, line ends and backslashes are written as octal numbers. */
function withoutEscapes(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
