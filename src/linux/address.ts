// SPDX-License-Identifier: Apache-2.0
// IP addresses compare by value, not by spelling.
import { isIPv4, isIPv6, SocketAddress } from "node:net";

/** True when both texts name one address, however they are written (IPv6 has many spellings). */
export function sameAddress(a: string, b: string): boolean {
  return a === b || (isIPv6(a) && isIPv6(b) && canonicalAddress(a) === canonicalAddress(b));
}

/** The one spelling of an address to index it by; what is no IPv6 address is left as it is. */
export function canonicalAddress(ip: string): string {
  return isIPv6(ip) ? new SocketAddress({ address: ip, family: "ipv6" }).address : ip;
}

/** An address in network order, 4 or 16 bytes. @throws RangeError for what is none */
export function addressBytes(address: string): Uint8Array {
  if (isIPv4(address)) return Uint8Array.from(address.split("."), Number);
  if (!isIPv6(address) || address.includes("%"))
    throw new RangeError(`Cannot encode "${address}": it is no IP address`);
  const groups = (part = "") => (part === "" ? [] : part.split(":").map((each) => Number.parseInt(each, 16)));
  const [before, after] = dotless(address).split("::").map(groups) as [number[], number[] | undefined];
  const zeros = new Array<number>(8 - before.length - (after?.length ?? 0)).fill(0);
  const all = [...before, ...(after === undefined ? [] : zeros), ...(after ?? [])];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

/** The spelling of an embedded IPv4 address as two groups. */
function dotless(address: string): string {
  return address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) =>
    [Number(a) * 256 + Number(b), Number(c) * 256 + Number(d)].map((group) => group.toString(16)).join(":"),
  );
}

/**
 * The text of an address of 4 or 16 bytes in network order, as inet_ntop(3) writes it: a host's sets hold hundreds, and a
 * `SocketAddress` for each takes most of the time that reading them does.
 * @throws RangeError for another number of bytes
 */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.length !== 16) throw new RangeError(`Cannot read an address of ${bytes.length} bytes`);
  const groups: number[] = [];
  for (let at = 0; at < 16; at += 2) groups.push(((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0));
  const { start, length } = longestZeros(groups);
  const text = (from: number, to: number) =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(":");
  if (length < 2) return text(0, 8);
  if (start === 0 && length === 6) return `::${bytes.subarray(12).join(".")}`;
  if (start === 0 && length === 5 && groups[5] === 0xffff) return `::ffff:${bytes.subarray(12).join(".")}`;
  return `${text(0, start)}::${text(start + length, 8)}`;
}

/** The first of the longest runs. */
function longestZeros(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let length = 0;
  for (const [at, group] of groups.entries()) {
    length = group === 0 ? length + 1 : 0;
    if (length > best.length) best = { start: at - length + 1, length };
  }
  return best;
}
