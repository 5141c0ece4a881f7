// SPDX-License-Identifier: Apache-2.0
// The addresses in a namespace, through rtnetlink(7).
import { isIP } from "node:net";
import { addressBytes, addressText } from "../address.ts";
import type { NetnsAt } from "../netns-visit.ts";
import { check, read } from "./exchange.ts";
import { decodeAttributes, forEachAttribute, type NetlinkAnswer, NLM, type Skip, viewOf } from "./message.ts";
import { AF } from "./routing-messages.ts";

const NETLINK_ROUTE = 0;
// Source: linux/rtnetlink.h, linux/if_addr.h.
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const IFA = { address: 1, local: 2 } as const;
/** struct ifaddrmsg: family, prefix length, flags, scope, u32 index */
const HEADER_BYTES = 8;

/** An address on an interface of a namespace. */
export interface InterfaceAddress {
  readonly ifindex: number;
  readonly family: 4 | 6;
  /** Numeric, IPv6 in the form of RFC 5952. */
  readonly address: string;
  readonly prefixLength: number;
}

/**
 * Lists the addresses of all interfaces, loopback included.
 *
 * @param only where no others matter: nothing is made of those, of which a pod can have as many as it likes
 * @throws NetlinkError EAGAIN if they changed during each of several readings
 * @throws NativeError if the conversation with the kernel failed
 */
export async function interfaceAddresses(at: NetnsAt, only?: readonly string[]): Promise<InterfaceAddress[]> {
  const dump = { type: RTM_GETADDR, flags: NLM.dump, body: new Uint8Array(HEADER_BYTES) };
  const isSkipped = only === undefined ? undefined : othersThan(only);
  const [answer] = (await read(at, NETLINK_ROUTE, [dump], { isSkipped })) as [NetlinkAnswer];
  check("list interface addresses", answer);
  return answer.messages.flatMap(({ body }) => decodeAddress(body) ?? []);
}

/** What has one of these as its own or, point to point, as the other side's is left to be decoded. */
function othersThan(ips: readonly string[]): Skip {
  const wanted = ips.filter((ip) => isIP(ip) !== 0 && !ip.includes("%")).map(addressBytes);
  return (received, { type, start, end }) => {
    let isOther = type === RTM_NEWADDR;
    forEachAttribute(received, start + HEADER_BYTES, end, (attribute, from, to) => {
      if (attribute !== IFA.local && attribute !== IFA.address) return;
      if (wanted.some((bytes) => isAt(received, from, to, bytes))) isOther = false;
    });
    return isOther;
  };
}

function isAt(received: Uint8Array, from: number, to: number, bytes: Uint8Array): boolean {
  return to - from === bytes.length && bytes.every((byte, index) => received[from + index] === byte);
}

function decodeAddress(body: Uint8Array): InterfaceAddress | undefined {
  const family = body[0];
  if (body.length < HEADER_BYTES || (family !== AF.inet && family !== AF.inet6)) return undefined;
  const attributes = decodeAttributes(body, HEADER_BYTES);
  // On a point-to-point interface IFA_ADDRESS is the other side. Source: rtnetlink(7), RTM_NEWADDR.
  const bytes = attributes.get(IFA.local) ?? attributes.get(IFA.address);
  if (bytes?.length !== (family === AF.inet ? 4 : 16)) return undefined;
  return {
    ifindex: viewOf(body).getUint32(4, true),
    family: family === AF.inet ? 4 : 6,
    address: addressText(bytes),
    prefixLength: body[1] ?? 0,
  };
}
