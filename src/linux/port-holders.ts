// SPDX-License-Identifier: Apache-2.0
// Which processes hold given ports in a network namespace: the sockets from the kernel, their owners from /proc.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { allDone } from "../loop/all-done.ts";
import { netnsKeyAt } from "./host-netns.ts";
import { type InetSocket, visitSockets } from "./netlink/inet-diag.ts";
import type { Netns } from "./netns.ts";

/** Somebody who holds a port. */
export interface PortHolder {
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  /** As `procRoot` numbers processes; absent when the owner was not found: it is in another namespace, or has ended. */
  readonly pid?: number;
  /** The program as it was called, without arguments; at most 64 printable characters. */
  readonly command?: string;
}

interface HeldSocket {
  readonly port: number;
  readonly protocol: "tcp" | "udp";
  readonly inode: number;
}

/** Processes looked at between two turns of the event loop: about 2.5 ms. */
const PROCESSES_PER_TURN = 25;
const FDS_PER_TURN = 500;
/** Bounds on what is read; beyond them an owner is not found. */
const MAX_PROCESSES = 50_000;
const MAX_PROCESSES_INSIDE = 500;
const MAX_FDS = 20_000;
const MAX_SOCKETS = 64;
const MAX_COMMAND_CHARACTERS = 64;

/**
 * Finds who listens on ports of a namespace, or has them bound. One entry for each port, protocol and process; none for a port
 * that is free.
 * @param options.procRoot the /proc folder in which the namespace's processes are seen
 * @throws NetlinkError or NativeError when the sockets cannot be listed; a process that ends meanwhile is no fault
 */
export async function portHolders(
  netns: Netns,
  ports: readonly number[],
  options: { readonly procRoot: string },
): Promise<PortHolder[]> {
  const held = await heldSockets(netns.fd, ports);
  const holders = new Map<string, PortHolder>();
  const open = new Map(held.map((socket) => [`socket:[${socket.inode}]`, socket]));
  const left = new Set(open.keys());
  let insideCount = 0;
  for (const [index, pid] of listProcesses(options.procRoot).entries()) {
    if (left.size === 0 || insideCount === MAX_PROCESSES_INSIDE) break;
    if (index % PROCESSES_PER_TURN === PROCESSES_PER_TURN - 1) await nextTurn();
    const folder = join(options.procRoot, pid);
    if (readOrUndefined(() => netnsKeyAt(join(folder, "ns/net"))) !== netns.key) continue;
    insideCount++;
    for (const link of await socketLinks(folder, open)) {
      const { port, protocol } = open.get(link) as HeldSocket;
      left.delete(link);
      const holder = { port, protocol, pid: Number(pid), ...commandOf(folder) };
      holders.set(`${protocol} ${port} ${pid}`, holder);
    }
  }
  for (const link of left) {
    const { port, protocol } = open.get(link) as HeldSocket;
    const isKnown = [...holders.values()].some((each) => each.port === port && each.protocol === protocol);
    if (!isKnown) holders.set(`${protocol} ${port}`, { port, protocol });
  }
  return [...holders.values()].sort(
    (a, b) => a.port - b.port || (a.protocol < b.protocol ? -1 : a.protocol > b.protocol ? 1 : 0),
  );
}

async function heldSockets(netnsFd: number, ports: readonly number[]): Promise<HeldSocket[]> {
  const held: HeldSocket[] = [];
  const add =
    (protocol: "tcp" | "udp") =>
    ({ local: { port }, inode }: InetSocket): void => {
      if (ports.includes(port) && held.length < MAX_SOCKETS) held.push({ port, protocol, inode });
    };
  await allDone([
    visitSockets(netnsFd, { protocol: "tcp", states: ["listen"] }, add("tcp")),
    visitSockets(netnsFd, { protocol: "udp", states: ["close", "established"] }, add("udp")),
  ]);
  return held;
}

function listProcesses(procRoot: string): string[] {
  const names = readOrUndefined(() => readdirSync(procRoot)) ?? [];
  return names.filter((name) => /^\d+$/.test(name)).slice(0, MAX_PROCESSES);
}

/** Those of the wanted links that a process has open. */
async function socketLinks(folder: string, wanted: ReadonlyMap<string, unknown>): Promise<Set<string>> {
  const found = new Set<string>();
  const fds = (readOrUndefined(() => readdirSync(join(folder, "fd"))) ?? []).slice(0, MAX_FDS);
  for (const [index, fd] of fds.entries()) {
    if (found.size === wanted.size) break;
    if (index % FDS_PER_TURN === FDS_PER_TURN - 1) await nextTurn();
    const link = readOrUndefined(() => readlinkSync(join(folder, "fd", fd)));
    if (link !== undefined && wanted.has(link)) found.add(link);
  }
  return found;
}

/** Arguments may hold secrets, and the answer goes into Events: only the program's name is told. */
function commandOf(folder: string): { command?: string } {
  const [program = ""] = (readOrUndefined(() => readFileSync(join(folder, "cmdline"), "utf8")) ?? "").split(
    "\0",
    1,
  );
  const text = program === "" ? readOrUndefined(() => readFileSync(join(folder, "comm"), "utf8")) : program;
  const printable = text?.trim().replaceAll(/[^\x20-\x7e]/g, "?");
  return printable === undefined || printable === ""
    ? {}
    : { command: printable.slice(0, MAX_COMMAND_CHARACTERS) };
}

/** A process may end between any two reads; that is no fault. */
function readOrUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
