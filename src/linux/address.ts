// SPDX-License-Identifier: Apache-2.0
// IP addresses compare by value, not by spelling.
import { isIPv6, SocketAddress } from "node:net";

/** True when both texts name one address, however they are written (IPv6 has many spellings). */
export function sameAddress(a: string, b: string): boolean {
  return a === b || (isIPv6(a) && isIPv6(b) && canonical(a) === canonical(b));
}

function canonical(ip: string): string {
  return new SocketAddress({ address: ip, family: "ipv6" }).address;
}
