// SPDX-License-Identifier: Apache-2.0
// What the kernel says about a network namespace, asked with the system's own tools: the judge in tests and demo.
import { readdir, readFile, stat } from "node:fs/promises";
import { type RunResult, run } from "./run.ts";

/** IP version. */
export type Family = 4 | 6;

/** Runs a command in a network namespace given by path. */
export async function inNetns(netns: string, argv: readonly string[], mayFail = false): Promise<RunResult> {
  return run(["nsenter", `--net=${netns}`, "--", ...argv], { mayFail });
}

/** What iptables-save prints, without its comments (they hold the time). Counters only when asked for. */
export async function iptablesSave(
  netns: string,
  family: Family,
  options: { readonly counters?: boolean; readonly variant?: "nft" | "legacy" } = {},
): Promise<string> {
  const variant = options.variant === undefined ? "" : `-${options.variant}`;
  const tool = family === 4 ? `iptables${variant}-save` : `ip6tables${variant}-save`;
  const { stdout } = await inNetns(netns, options.counters === true ? [tool, "-c"] : [tool]);
  const lines = stdout.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return (options.counters === true ? lines : lines.map((line) => line.replace(/ \[\d+:\d+\]$/, ""))).join(
    "\n",
  );
}

/** How often each rule has matched, by its text. */
export async function ruleCounters(
  netns: string,
  family: Family,
): Promise<Map<string, { packets: number; bytes: number }>> {
  const counters = new Map<string, { packets: number; bytes: number }>();
  let table = "";
  for (const line of (await iptablesSave(netns, family, { counters: true })).split("\n")) {
    if (line.startsWith("*")) table = line.slice(1);
    const [, packets, bytes, rule] = /^\[(\d+):(\d+)\] -A (.*)$/.exec(line) ?? [];
    if (rule !== undefined)
      counters.set(`${table} ${rule}`, { packets: Number(packets), bytes: Number(bytes) });
  }
  return counters;
}

/** Lines of `ip rule`. */
export async function ipRules(netns: string, family: Family): Promise<string[]> {
  return nonEmptyLines((await inNetns(netns, ["ip", `-${family}`, "rule", "show"])).stdout);
}

/** Lines of `ip route show table N`; a table that was never used is empty. */
export async function ipRoutes(netns: string, family: Family, table: number): Promise<string[]> {
  const argv = ["ip", `-${family}`, "route", "show", "table", String(table)];
  return nonEmptyLines((await inNetns(netns, argv, true)).stdout);
}

/** A socket that waits for peers. */
export interface ListeningSocket {
  readonly protocol: "tcp" | "udp";
  /** As ss prints it: `127.0.0.1`, `[::1]`, `*` for both families. */
  readonly address: string;
  readonly port: number;
}

/** All listening TCP and bound UDP sockets. Source: ss(8). */
export async function listeningSockets(netns: string): Promise<ListeningSocket[]> {
  const { stdout } = await inNetns(netns, ["ss", "-Hltnu"]);
  return nonEmptyLines(stdout).map((line) => {
    const [protocol = "", , , , local = ""] = line.split(/\s+/);
    const colon = local.lastIndexOf(":");
    return {
      protocol: protocol as "tcp" | "udp",
      address: local.slice(0, colon),
      port: Number(local.slice(colon + 1)),
    };
  });
}

/** An established TCP connection, ends as ss prints them. */
export interface TcpConnection {
  readonly local: string;
  readonly peer: string;
}

/** All established TCP connections. */
export async function tcpConnections(netns: string): Promise<TcpConnection[]> {
  const { stdout } = await inNetns(netns, ["ss", "-Htn", "state", "established"]);
  return nonEmptyLines(stdout).map((line) => {
    const [, , local = "", peer = ""] = line.trim().split(/\s+/);
    return { local, peer };
  });
}

/** Lines of the connection tracking table. Source: /proc/net/nf_conntrack of a process in that namespace. */
export async function conntrackEntries(netns: string): Promise<string[]> {
  return nonEmptyLines((await inNetns(netns, ["cat", "/proc/net/nf_conntrack"])).stdout);
}

/**
 * All nftables rules with their handles: the kernel never gives a handle twice, so equal text before and after means that
 * no rule was replaced.
 */
export async function rulesWithHandles(netns: string): Promise<string> {
  const { stdout } = await inNetns(netns, ["nft", "--handle", "--stateless", "list", "ruleset"]);
  // printed for tables that iptables-nft made; no part of the state
  return nonEmptyLines(stdout)
    .filter((line) => !line.startsWith("#"))
    .join("\n");
}

/** Names of the links in a namespace. */
export async function linkNames(netns: string): Promise<string[]> {
  const { stdout } = await inNetns(netns, ["ip", "-o", "link", "show"]);
  return nonEmptyLines(stdout).map((line) => (line.split(": ")[1] ?? "").split("@")[0] as string);
}

/** Whether a process waits for nftables events in this namespace. Source: netlink(7), /proc/net/netlink. */
export async function hearsNftables(pid: number): Promise<boolean> {
  const nfnetlink = "12";
  const table = await readFile(`/proc/${pid}/net/netlink`, "utf8");
  return nonEmptyLines(table).some((line) => {
    const [, protocol, , groups] = line.trim().split(/\s+/);
    return protocol === nfnetlink && groups !== undefined && !/^0+$/.test(groups);
  });
}

/** Lists the processes that are in a namespace or hold a descriptor of it, given by inode number. */
export async function netnsUsers(inode: number): Promise<number[]> {
  const { dev } = await stat("/proc/self/ns/net");
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const users: number[] = [];
  for (const pid of pids) {
    const descriptors = await readdir(`/proc/${pid}/fd`).catch((): string[] => []);
    const paths = [`/proc/${pid}/ns/net`, ...descriptors.map((fd) => `/proc/${pid}/fd/${fd}`)];
    // a process may end while we look; stat follows the link to what is open, mounted somewhere or not
    const files = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
    if (files.some((file) => file?.ino === inode && file.dev === dev)) users.push(Number(pid));
  }
  return users;
}

function nonEmptyLines(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}
