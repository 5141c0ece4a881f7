// SPDX-License-Identifier: Apache-2.0
// IP addresses compare by value, not by spelling.
import { isIPv6, SocketAddress } from "node:net";

/** True when both texts name one address, however they are written (IPv6 has many spellings). */
export function sameAddress(a: string, b: string): boolean {
  return a === b || (isIPv6(a) && isIPv6(b) && canonicalAddress(a) === canonicalAddress(b));
}

/** The one spelling of an address to index it by; what is no IPv6 address is left as it is. */
export function canonicalAddress(ip: string): string {
  return isIPv6(ip) ? new SocketAddress({ address: ip, family: "ipv6" }).address : ip;
}
