// SPDX-License-Identifier: Apache-2.0
// Which addresses of a pod the host's probes go to. Pure but for the one question to its namespace, which is seldom asked.
import { sameAddress } from "../linux/address.ts";

/** What the addresses are taken from. */
export interface ProbedPod {
  /** As ADD told, of all attachments that it told of. */
  readonly told: readonly string[];
  /** As the pod's status has them. */
  readonly status: readonly string[];
  /** Which of these an interface in the pod's namespace has. */
  readonly held: (ips: readonly string[]) => Promise<readonly string[]>;
}

/**
 * The kubelet probes what the status says; until that is there, it will be of what ADD told. ADD may have told of other networks too,
 * or of these alone, where their chains have our plugin and that of the pod's first network has not; and a status may still
 * be that of a sandbox before: what ADD did not tell is asked from the namespace.
 *
 * @returns at least one address where any is known
 */
export async function probedAddresses({ told, status, held }: ProbedPod): Promise<readonly string[]> {
  if (told.length === 0) return status;
  const others = status.filter((ip) => !told.some((each) => sameAddress(each, ip)));
  if (others.length === 0) return status.length > 0 ? status : told;
  const found = await held(others);
  if (found.length === others.length) return status;
  return [...told, ...found];
}
