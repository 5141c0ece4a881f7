// SPDX-License-Identifier: Apache-2.0
// Which capabilities a process has of those that the agent needs.
import { readFile } from "node:fs/promises";
import { type Finding, failing, fine } from "./finding.ts";

/** Bits and what they are for. Source: linux/capability.h */
const NEEDED = [
  { name: "NET_ADMIN", bit: 12, use: "rules, routes and sets" },
  { name: "NET_RAW", bit: 13, use: "iptables" },
  { name: "SYS_ADMIN", bit: 21, use: "entering pods' network namespaces" },
  { name: "SYS_PTRACE", bit: 19, use: "finding pods' network namespaces in /proc" },
  { name: "DAC_OVERRIDE", bit: 1, use: "files of the runtime that belong to others" },
] as const;

/** Looks at CapEff in the text of /proc/PID/status. Pure. */
export function judgeCapabilities(status: string): Finding {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  const effective = hex === undefined ? 0n : BigInt(`0x${hex}`);
  const missing = NEEDED.filter(({ bit }) => (effective & (1n << BigInt(bit))) === 0n);
  if (missing.length === 0)
    return fine("capabilities", `all there: ${NEEDED.map(({ name }) => name).join(", ")}`);
  const list = missing.map(({ name, use }) => `${name} (${use})`).join(", ");
  const names = missing.map(({ name }) => name).join(", ");
  return failing(
    "capabilities",
    `missing: ${list}`,
    `add ${names} to securityContext.capabilities.add of the agent's container`,
  );
}

/** Of a process; default this one. */
export async function checkCapabilities(statusPath = "/proc/self/status"): Promise<Finding> {
  return judgeCapabilities(await readFile(statusPath, "utf8"));
}
