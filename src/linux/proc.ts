// SPDX-License-Identifier: Apache-2.0
// The one walk over /proc, and what is read of a process on it. A process may end between any two reads; that is no fault.
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { type CgroupOwner, cgroupOwner, type NodeCgroup, nodeCgroup } from "./cgroup-path.ts";
import { netnsKeyAt } from "./host-netns.ts";

/** Processes looked at between two turns of the event loop: about 2.5 ms. */
const chunkSize = 25;

/** A process; what is asked of it is read then, and undefined once it has ended. */
export class Process {
  readonly pid: number;
  /** Its folder in /proc. */
  readonly folder: string;

  constructor(procRoot: string, pid: number) {
    this.pid = pid;
    this.folder = join(procRoot, String(pid));
  }

  get netnsPath(): string {
    return join(this.folder, "ns/net");
  }

  /** `Netns.key` of its network namespace. */
  netnsKey(): string | undefined {
    return unlessGone(() => netnsKeyAt(this.netnsPath));
  }

  /** Identity (`dev:ino`) of its user namespace. */
  userNamespaceKey(): string | undefined {
    return unlessGone(() => netnsKeyAt(join(this.folder, "ns/user")));
  }

  /** The program's name, at most 15 bytes. */
  comm(): string | undefined {
    return this.read("comm")?.trim();
  }

  /** Its pod and container. @param node as {@link nodeCgroupOf} has it */
  owner(node: NodeCgroup): CgroupOwner | undefined {
    const text = this.read("cgroup");
    return text === undefined ? undefined : cgroupOwner(text, node);
  }

  /** Clock ticks since boot at which it started; field 22, the second one may hold spaces and parentheses. Source: proc_pid_stat(5). */
  startTime(): number | undefined {
    const stat = this.read("stat");
    const ticks = Number(stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19]);
    return Number.isFinite(ticks) ? ticks : undefined;
  }

  uid(): number | undefined {
    return unlessGone(() => statSync(this.folder).uid);
  }

  /** The text of one of its files. */
  read(name: string): string | undefined {
    return unlessGone(() => readFileSync(join(this.folder, name), "utf8"));
  }
}

/**
 * Every process of a /proc once. Reads are synchronous, in short chunks: the files are in memory, and asynchronous reads cost twenty
 * times as much.
 * @param options.mayLack a folder that cannot be read has no processes; default false
 * @throws Error when the folder cannot be read
 */
export async function* processesIn(
  procRoot: string,
  { mayLack = false } = {},
): AsyncGenerator<Process, void, undefined> {
  const list = () => readdirSync(procRoot);
  const names = mayLack ? (unlessGone(list) ?? []) : list();
  const pids = names.filter((name) => /^\d+$/.test(name));
  for (const [index, pid] of pids.entries()) {
    if (index % chunkSize === chunkSize - 1) await nextTurn();
    yield new Process(procRoot, Number(pid));
  }
}

/** Where the cgroups of the node begin whose /proc this is: by this process as it is seen there, and the node's first one. */
export function nodeCgroupOf(procRoot: string): NodeCgroup {
  const textOf = (name: string) => unlessGone(() => readFileSync(join(procRoot, name, "cgroup"), "utf8"));
  return nodeCgroup({ own: textOf("self"), init: textOf("1") });
}

/** What may be gone by the time that it is read. */
export function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
