// SPDX-License-Identifier: Apache-2.0
// Which processes hold given ports in a network namespace: the sockets from the kernel, their owners from /proc.
import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { allDone } from "../loop/all-done.ts";
import { type InetSocket, visitSockets } from "./netlink/inet-diag.ts";
import type { Netns } from "./netns.ts";
import { type Process, processesIn, unlessGone } from "./proc.ts";

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
  let count = 0;
  let insideCount = 0;
  for await (const process of processesIn(options.procRoot, { mayLack: true })) {
    if (left.size === 0 || insideCount === MAX_PROCESSES_INSIDE || ++count > MAX_PROCESSES) break;
    if (process.netnsKey() !== netns.key) continue;
    insideCount++;
    for (const link of await socketLinks(process, open)) {
      const { port, protocol } = open.get(link) as HeldSocket;
      left.delete(link);
      const { pid } = process;
      holders.set(`${protocol} ${port} ${pid}`, { port, protocol, pid, ...commandOf(process) });
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

/** Those of the wanted links that a process has open. */
async function socketLinks({ folder }: Process, wanted: ReadonlyMap<string, unknown>): Promise<Set<string>> {
  const found = new Set<string>();
  const fds = (unlessGone(() => readdirSync(join(folder, "fd"))) ?? []).slice(0, MAX_FDS);
  for (const [index, fd] of fds.entries()) {
    if (found.size === wanted.size) break;
    if (index % FDS_PER_TURN === FDS_PER_TURN - 1) await nextTurn();
    const link = unlessGone(() => readlinkSync(join(folder, "fd", fd)));
    if (link !== undefined && wanted.has(link)) found.add(link);
  }
  return found;
}

/** Arguments may hold secrets, and the answer goes into Events: only the program's name is told. */
function commandOf(process: Process): { command?: string } {
  const [program = ""] = (process.read("cmdline") ?? "").split("\0", 1);
  const text = program === "" ? process.read("comm") : program;
  const printable = text?.trim().replaceAll(/[^\x20-\x7e]/g, "?");
  return printable === undefined || printable === ""
    ? {}
    : { command: printable.slice(0, MAX_COMMAND_CHARACTERS) };
}
