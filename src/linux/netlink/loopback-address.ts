// SPDX-License-Identifier: Apache-2.0
// The loopback device of a namespace: whether it is up, that it is, and one more IPv6 address on it, through rtnetlink(7).
import { addressBytes } from "../address.ts";
import type { NetnsAt } from "../netns-visit.ts";
import { check, exchange } from "./exchange.ts";
import { concatBytes, encodeAttribute, type NetlinkAnswer, NLM } from "./message.ts";
import { AF, decodeLo, loRequest, raiseLoRequest } from "./routing-messages.ts";

const NETLINK_ROUTE = 0;
// Source: linux/rtnetlink.h, linux/if_addr.h.
const RTM_NEWADDR = 20;
const IFA_ADDRESS = 1;
const SCOPE_UNIVERSE = 0;
/** The loopback device is the first of every namespace. */
const LO_INDEX = 1;

/**
 * Gives "lo" an address; that it has it already is success.
 * @throws NetlinkError EACCES where IPv6 is off on it, EOPNOTSUPP in a kernel without IPv6; NativeError
 */
export async function ensureLoopbackAddress(at: NetnsAt, address: string): Promise<void> {
  // struct ifaddrmsg: family, prefix length, flags, scope, u32 index
  const body = concatBytes(
    Uint8Array.of(AF.inet6, 128, 0, SCOPE_UNIVERSE, LO_INDEX, 0, 0, 0),
    encodeAttribute(IFA_ADDRESS, addressBytes(address)),
  );
  const flags = NLM.ack | NLM.create | NLM.replace;
  const [answer] = await exchange(at, NETLINK_ROUTE, [{ type: RTM_NEWADDR, flags, body }]);
  check(`give "lo" the address ${address}`, answer as NetlinkAnswer);
}

/** Whether "lo" is up. @throws NetlinkError when the kernel does not say; NativeError */
export async function isLoopbackUp(at: NetnsAt): Promise<boolean> {
  const [answer] = await exchange(at, NETLINK_ROUTE, [loRequest()]);
  check('look at "lo"', answer as NetlinkAnswer);
  return decodeLo(answer?.messages[0]).up;
}

/** Brings "lo" up; that it is already is success. @throws NetlinkError EPERM; NativeError */
export async function raiseLoopback(at: NetnsAt): Promise<void> {
  const [answer] = await exchange(at, NETLINK_ROUTE, [raiseLoRequest()]);
  check('bring "lo" up', answer as NetlinkAnswer);
}
