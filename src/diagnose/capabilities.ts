// SPDX-License-Identifier: Apache-2.0
// Which capabilities a process has of those that the agent needs.
import { readFile } from "node:fs/promises";
import { holds, parseCapabilities } from "../linux/process-capabilities.ts";
import { type Finding, failing, fine } from "./finding.ts";

/** What each is for. */
const NEEDED = [
  { name: "NET_ADMIN", use: "rules, routes and sets" },
  { name: "NET_RAW", use: "iptables" },
  { name: "SYS_ADMIN", use: "entering pods' network namespaces" },
  { name: "SYS_PTRACE", use: "finding pods' network namespaces in /proc" },
  { name: "DAC_OVERRIDE", use: "files of the runtime that belong to others" },
] as const;

/** Looks at CapEff in the text of /proc/PID/status. Pure. */
export function judgeCapabilities(status: string): Finding {
  const { effective } = parseCapabilities(status);
  const missing = NEEDED.filter(({ name }) => !holds(effective, name));
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
