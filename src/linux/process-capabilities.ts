// SPDX-License-Identifier: Apache-2.0
// What a process may do, by the capabilities that its status file lists. Pure.

/** Bits of a capability set. Source: linux/capability.h */
export const CAPABILITY = {
  DAC_OVERRIDE: 1,
  NET_ADMIN: 12,
  NET_RAW: 13,
  SYS_PTRACE: 19,
  SYS_ADMIN: 21,
} as const;

export type Capability = keyof typeof CAPABILITY;

/** The sets of a process, a bit for each capability; they count in the process' user namespace and those below it. */
export interface ProcessCapabilities {
  /** What it can do now. */
  readonly effective: bigint;
  /** What it can make effective by itself. */
  readonly permitted: bigint;
  /** What it can still get by starting a program that gives it. */
  readonly bounding: bigint;
  /** Starting a program gives it nothing. */
  readonly noNewPrivs: boolean;
}

/** Reads the text of /proc/PID/status; a set that is not in it is empty. Source: proc_pid_status(5), capabilities(7). */
export function parseCapabilities(status: string): ProcessCapabilities {
  const setOf = (name: string): bigint =>
    BigInt(`0x${new RegExp(`^${name}:\\s*([0-9a-f]{1,16})$`, "m").exec(status)?.[1] ?? "0"}`);
  return {
    effective: setOf("CapEff"),
    permitted: setOf("CapPrm"),
    bounding: setOf("CapBnd"),
    noNewPrivs: /^NoNewPrivs:\s*1$/m.test(status),
  };
}

/** Whether a set holds a capability. */
export function holds(set: bigint, name: Capability): boolean {
  return (set & (1n << BigInt(CAPABILITY[name]))) !== 0n;
}
