// SPDX-License-Identifier: Apache-2.0
// What keeps rules from being written or judged over netlink; each concerns one namespace or one set of rules alone.
import type { Finding } from "./rule-engine.ts";

/**
 * - `NO_KNOWN_BYTES`: what the rules look like in the kernel could not be recorded; `cause` says why
 * - `BATCH_REFUSED`: the kernel did not take a batch; nothing of it stayed
 * - `NOT_AS_TOLD`: the kernel took a batch and shows something else than it was told
 * - `TABLE_DORMANT`: somebody put a table to sleep: none of its rules is looked at
 * - `TABLE_OWNED`: a table belongs to another process, and only that one may change it
 * - `HOOK_TAKEN`: a base chain's name is taken by a chain that hangs elsewhere
 * - `TOO_MANY_RULES`: more rules of others than are read stand where our jump should be
 * - `UNREADABLE_TABLE`: the kernel shows a table in a form that is not known here
 * - `UNSTEADY`: the rules changed whenever they were read
 */
export type NetfilterFaultCode =
  | "NO_KNOWN_BYTES"
  | "BATCH_REFUSED"
  | "NOT_AS_TOLD"
  | "TABLE_DORMANT"
  | "TABLE_OWNED"
  | "HOOK_TAKEN"
  | "TOO_MANY_RULES"
  | "UNREADABLE_TABLE"
  | "UNSTEADY";

/** What was found cannot be judged. */
export function unsteadyFault(): NetfilterFault {
  return new NetfilterFault(
    "UNSTEADY",
    "Cannot verify the rules of this network namespace: they change while they are read; " +
      "look for a program in the pod that writes rules without end",
  );
}

/** @param where the table, as it is called in messages */
export function dormantFault(where: string): NetfilterFault {
  return new NetfilterFault(
    "TABLE_DORMANT",
    `Cannot redirect by ${where}: somebody put it to sleep, so that none of its rules is looked at; wake it up with nft`,
  );
}

/** @param holds what of a namespace is ours as a whole */
export function notAsToldFault(findings: readonly Finding[], holds: "chains" | "tables"): NetfilterFault {
  const differences = findings.map(({ family, table, detail }) =>
    holds === "chains" ? `IPv${family} ${table}: ${detail}` : `${table}: ${detail}`,
  );
  return new NetfilterFault(
    "NOT_AS_TOLD",
    `Cannot bring rules about: they differ right after they were written (${differences.join("; ")}); ` +
      `look for another program that writes the same ${holds}`,
  );
}

/** Faults after which the programs may still do what netlink could not. */
const LEFT_TO_PROGRAMS: ReadonlySet<NetfilterFaultCode> = new Set([
  "NO_KNOWN_BYTES",
  "BATCH_REFUSED",
  "NOT_AS_TOLD",
]);

/** Rules cannot be written or judged over netlink; `code` says why. */
export class NetfilterFault extends Error {
  override readonly name = "NetfilterFault";
  readonly code: NetfilterFaultCode;

  constructor(code: NetfilterFaultCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.code = code;
  }

  /** Whether iptables-restore may succeed all the same. */
  get isLeftToPrograms(): boolean {
    return LEFT_TO_PROGRAMS.has(this.code);
  }
}
