// SPDX-License-Identifier: Apache-2.0
// A rule of nf_tables as the text that nft lists.
import { isIPv4 } from "node:net";
import { canonicalAddress } from "../../linux/address.ts";
import type { Family } from "../family.ts";
import { CONNECTION_STATES, type End, type NativePart, TCP_FLAGS, type TcpFlag } from "./native-rule.ts";

/** The rule as `nft --stateless list` prints it. Source: nft 1.0.6. */
export function printRule(parts: readonly NativePart[]): string {
  return parts.map(printPart).join(" ");
}

function printPart(part: NativePart): string {
  switch (part.kind) {
    case "device":
      return `${part.way === "in" ? "iifname" : "oifname"} ${not(part)}"${part.name}"`;
    case "family":
      return `meta nfproto ipv${part.family}`;
    case "protocol":
      return `meta l4proto ${part.protocol}`;
    case "address":
      return `${addressField(familyOf(part.address), part.end)} ${not(part)}${range(part)}`;
    case "member":
      return `${addressField(part.family, part.end)} @${part.set}`;
    case "port":
      return `${part.protocol} ${part.end[0]}port ${not(part)}${part.port}`;
    case "tcp-flags":
      return `tcp flags ${flagNames(part.flags)} / ${flagNames(part.mask)}`;
    case "mark": {
      const mark = `${part.of === "packet" ? "meta" : "ct"} mark`;
      if (part.mask === 0xffffffff) return `${mark} ${not(part)}${hex(part.value)}`;
      return `${mark} & ${hex(part.mask)} ${part.isNot ? "!=" : "=="} ${hex(part.value)}`;
    }
    case "socket":
      return "meta skuid >= 0";
    case "owner":
      return `meta ${part.of === "user" ? "skuid" : "skgid"} ${not(part)}${part.id}`;
    case "state":
      return `ct state ${CONNECTION_STATES.filter((state) => part.states.includes(state)).join(",")}`;
    case "jump":
      return `jump ${part.chain}`;
    case "redirect":
      return `redirect to :${part.port}`;
    case "source-nat":
      return `snat ${familyOf(part.address) === 4 ? "ip" : "ip6"} to ${canonicalAddress(part.address)}`;
    case "mark-connection":
      // what is set to one anyway is shown as kept
      return `ct mark set ct mark & ${hex(~part.mask | part.value)} | ${hex(part.value)}`;
    case "set-mark":
      return `meta mark set ${hex(part.value)}`;
    case "restore-mark":
      return "meta mark set ct mark";
    case "save-mark":
      return "ct mark set meta mark";
    case "transparent":
      return `tproxy ${part.family === 4 ? "ip" : "ip6"} to :${part.port}`;
    case "zone":
      return `ct zone set ${part.zone}`;
    default:
      return part.kind;
  }
}

function familyOf(address: string): Family {
  return isIPv4(address) ? 4 : 6;
}

function addressField(family: Family, end: End): string {
  return `${family === 4 ? "ip" : "ip6"} ${end[0]}addr`;
}

/** nft leaves out the length of a whole address. */
function range({ address, length }: { readonly address: string; readonly length: number }): string {
  const text = canonicalAddress(address);
  return length === (familyOf(address) === 4 ? 32 : 128) ? text : `${text}/${length}`;
}

function not({ isNot }: { readonly isNot: boolean }): string {
  return isNot ? "!= " : "";
}

function flagNames(flags: readonly TcpFlag[]): string {
  return TCP_FLAGS.filter((flag) => flags.includes(flag)).join(",");
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16).padStart(8, "0")}`;
}
