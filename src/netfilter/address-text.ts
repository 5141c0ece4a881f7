// SPDX-License-Identifier: Apache-2.0
// Brings an address with its mask into one spelling, whoever wrote it.
import { isIPv6, SocketAddress } from "node:net";

/** Address without its default mask, IPv6 compressed, masks as prefix lengths. */
export function normaliseAddress(text: string): string {
  const [address = "", mask] = text.split("/");
  const family = isIPv6(address) ? "ipv6" : "ipv4";
  const canonical = family === "ipv6" ? new SocketAddress({ address, family }).address : address;
  const prefix = mask === undefined ? undefined : prefixLength(mask);
  return prefix === undefined || prefix === (family === "ipv6" ? "128" : "32")
    ? canonical
    : `${canonical}/${prefix}`;
}

function prefixLength(mask: string): string {
  if (/^\d+$/.test(mask)) return mask;
  const bits = isIPv6(mask) ? ipv6Bits(mask) : ipv4Bits(mask);
  return bits !== undefined && /^1*0*$/.test(bits) ? String(bits.replaceAll("0", "").length) : mask;
}

function ipv4Bits(mask: string): string | undefined {
  const bytes = mask.split(".").map(Number);
  if (bytes.length !== 4 || bytes.some((byte) => !(byte >= 0 && byte <= 255))) return undefined;
  return bytes.map((byte) => byte.toString(2).padStart(8, "0")).join("");
}

function ipv6Bits(mask: string): string | undefined {
  const [head = "", tail = ""] = mask.split("::");
  const groups = (text: string) => (text === "" ? [] : text.split(":"));
  const missing = mask.includes("::") ? 8 - groups(head).length - groups(tail).length : 0;
  const all = [...groups(head), ...Array<string>(missing).fill("0"), ...groups(tail)];
  return all.map((group) => Number.parseInt(group, 16).toString(2).padStart(16, "0")).join("");
}
