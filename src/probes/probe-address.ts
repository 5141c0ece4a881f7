// SPDX-License-Identifier: Apache-2.0
// Addresses and names as an ipset can hold them, in one spelling.
import { isIP, SocketAddress } from "node:net";
import type { Family } from "../netfilter/family.ts";

/** The family an address belongs to. */
export function familyOf(address: string): Family {
  return address.includes(":") ? 6 : 4;
}

/**
 * The spelling the kernel's tools print.
 * @throws RangeError for what is no address, has a zone, or is the unspecified address, which no hash set holds.
 */
export function canonicalAddress(text: string): string {
  if (isIP(text) === 0 || text.includes("%")) {
    throw new RangeError(`Cannot let probes pass to "${text}": not an IP address`);
  }
  const family = familyOf(text) === 4 ? "ipv4" : "ipv6";
  const { address } = new SocketAddress({ address: text, family });
  if (address === "0.0.0.0" || address === "::") {
    throw new RangeError(`Cannot let probes pass to "${text}": it is the unspecified address`);
  }
  return address;
}

/**
 * Whether a text can stand in the input of `ipset restore` as it is: a set's comments name pods, and a line break or quote
 * in one would be a command.
 */
export function isUid(text: string): boolean {
  return /^[A-Za-z0-9._:-]{1,253}$/.test(text);
}

/** @throws RangeError for what {@link isUid} refuses */
export function checkedUid(uid: string): string {
  if (isUid(uid)) return uid;
  throw new RangeError(`Cannot let probes pass to the pod with UID ${JSON.stringify(uid)}: not a UID`);
}
