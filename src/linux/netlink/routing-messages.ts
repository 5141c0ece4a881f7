// SPDX-License-Identifier: Apache-2.0
// The messages of policy routing by mark: what to send, and what counts as ours among what is listed.
import {
  concatBytes,
  decodeAttributes,
  decodeUint32,
  encodeUint32Attribute,
  type NetlinkMessage,
  type NetlinkRequest,
  NLM,
  viewOf,
} from "./message.ts";

/** A rule that leads marked packets to a table, in which a route leads all of them to sockets of the namespace itself. */
export interface MarkRoute {
  readonly mark: number;
  readonly mask: number;
  readonly priority: number;
  /** Below 256. */
  readonly table: number;
}

/** Of ambient mode. Source: istio tools/istio-iptables/pkg/constants and cni/pkg/iptables, what ztunnel's in-pod mode relies on. */
export const AMBIENT_ROUTE: MarkRoute = { mark: 0x111, mask: 0xfff, priority: 32764, table: 100 };

/**
 * Of a sidecar that is given connections with their addresses (TPROXY). The priority is what the kernel gives the first rule of a namespace.
 * Source: istio/istio tools/common/config/config.go, InboundTProxyMark and InboundTProxyRouteTable; tools/common/tproxy.
 */
export const TPROXY_ROUTE: MarkRoute = { mark: 1337, mask: 0xffffffff, priority: 32765, table: 133 };

// Source: linux/rtnetlink.h, linux/fib_rules.h, linux/if_link.h, linux/ipv6.h.
export const RTM = {
  newLink: 16,
  getLink: 18,
  newRoute: 24,
  deleteRoute: 25,
  getRoute: 26,
  newRule: 32,
  deleteRule: 33,
  getRule: 34,
} as const;
export const AF = { inet: 2, inet6: 10 } as const;
export type Family = (typeof AF)[keyof typeof AF];
const FRA = {
  priority: 6,
  fwmark: 10,
  suppressIfgroup: 13,
  suppressPrefixLength: 14,
  table: 15,
  fwmask: 16,
  pad: 18,
  protocol: 21,
} as const;
const KNOWN_FRA: ReadonlySet<number> = new Set(Object.values(FRA));
const FR_ACT_TO_TBL = 1;
const FIB_RULE_INVERT = 2;
const RTA = { interface: 4, gateway: 5, multipath: 9, table: 15, via: 18 } as const;
const RTN_LOCAL = 2;
const RTPROT_BOOT = 3;
const SCOPE = { universe: 0, host: 254, nowhere: 255 } as const;
const IFLA_AF_SPEC = 26;
const IFLA_INET6_CONF = 2;
const DEVCONF_DISABLE_IPV6 = 26;
const IFF_UP = 1;
/** The loopback device is the first of every namespace. */
const LO_INDEX = 1;
const NO_LIMIT = 0xffffffff;

/**
 * `fwmark MARK/MASK pref PRIORITY lookup TABLE` and nothing that narrows it.
 *
 * struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, u32 flags
 */
export function isOurRule(family: Family, body: Uint8Array, ours: MarkRoute = AMBIENT_ROUTE): boolean {
  if (body.length < 12 || !isOfAll(family, body)) return false;
  if (body[7] !== FR_ACT_TO_TBL || (viewOf(body).getUint32(8, true) & FIB_RULE_INVERT) !== 0) return false;
  const attributes = decodeAttributes(body, 12);
  // Any other attribute is a selector that narrows the rule, or an action of its own.
  if ([...attributes.keys()].some((type) => !KNOWN_FRA.has(type))) return false;
  const value = (type: number, absent: number) => decodeUint32(attributes.get(type)) ?? absent;
  return (
    value(FRA.table, body[4] ?? 0) === ours.table &&
    value(FRA.priority, 0) === ours.priority &&
    value(FRA.fwmark, 0) === ours.mark &&
    value(FRA.fwmask, NO_LIMIT) === ours.mask &&
    value(FRA.suppressPrefixLength, NO_LIMIT) === NO_LIMIT &&
    value(FRA.suppressIfgroup, NO_LIMIT) === NO_LIMIT
  );
}

/**
 * `local default dev lo table TABLE`.
 *
 * struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, u32 flags
 */
export function isOurRoute(family: Family, body: Uint8Array, ours: MarkRoute = AMBIENT_ROUTE): boolean {
  if (body.length < 12 || !isOfAll(family, body) || body[7] !== RTN_LOCAL) return false;
  const attributes = decodeAttributes(body, 12);
  if (attributes.has(RTA.gateway) || attributes.has(RTA.multipath) || attributes.has(RTA.via)) return false;
  return (
    (decodeUint32(attributes.get(RTA.table)) ?? body[4]) === ours.table &&
    decodeUint32(attributes.get(RTA.interface)) === LO_INDEX
  );
}

/** Whether a listed rule or route is for some packets only, and so none of ours: a pod can have any number of them. */
export function isNarrow(
  bytes: Uint8Array,
  at: { readonly type: number; readonly start: number; readonly end: number },
): boolean {
  const { type, start, end } = at;
  if ((type !== RTM.newRoute && type !== RTM.newRule) || end - start < 12) return false;
  return bytes[start + 1] !== 0 || bytes[start + 2] !== 0 || bytes[start + 3] !== 0;
}

/** Of the family, and for all destinations, sources and types of service: the four bytes that both headers begin with. */
function isOfAll(family: Family, body: Uint8Array): boolean {
  return body[0] === family && body[1] === 0 && body[2] === 0 && body[3] === 0;
}

/**
 * Asks for the loopback device.
 *
 * struct ifinfomsg: family, pad, u16 type, i32 index, u32 flags, u32 change
 */
export function loRequest(): NetlinkRequest {
  const body = new Uint8Array(16);
  new DataView(body.buffer).setInt32(4, LO_INDEX, true);
  return { type: RTM.getLink, flags: NLM.ack, body };
}

/** Brings the loopback device up. */
export function raiseLoRequest(): NetlinkRequest {
  const { body } = loRequest();
  viewOf(body).setUint32(8, IFF_UP, true);
  viewOf(body).setUint32(12, IFF_UP, true);
  return { type: RTM.newLink, flags: NLM.ack, body };
}

/** Whether the loopback device is up and has IPv6. */
export function decodeLo(message: NetlinkMessage | undefined): { up: boolean; v6: boolean } {
  if (message === undefined || message.body.length < 16) return { up: false, v6: false };
  const up = (viewOf(message.body).getUint32(8, true) & IFF_UP) !== 0;
  const families = decodeAttributes(message.body, 16).get(IFLA_AF_SPEC);
  const six = families && decodeAttributes(families).get(AF.inet6);
  // The sysctls of the device in the order of linux/ipv6.h; absent when the kernel has no IPv6.
  const sysctls = six && decodeAttributes(six).get(IFLA_INET6_CONF);
  if (sysctls === undefined || sysctls.length <= DEVCONF_DISABLE_IPV6 * 4) return { up, v6: false };
  return { up, v6: viewOf(sysctls).getInt32(DEVCONF_DISABLE_IPV6 * 4, true) === 0 };
}

/** Lists all rules, then all routes. */
export function dumpRequests(family: Family): NetlinkRequest[] {
  const body = new Uint8Array(12);
  body[0] = family;
  return [
    { type: RTM.getRule, flags: NLM.dump, body },
    { type: RTM.getRoute, flags: NLM.dump, body },
  ];
}

/** Exclusive: refused (EEXIST) if there is one that the kernel holds for equal. */
export function addRuleRequest(family: Family, exclusive: boolean, ours: MarkRoute): NetlinkRequest {
  const flags = NLM.ack | NLM.create | (exclusive ? NLM.exclusive : 0);
  return { type: RTM.newRule, flags, body: ruleBody(family, ours) };
}

/** Deletes one rule of ambient mode, the first that fits. */
export function deleteRuleRequest(family: Family): NetlinkRequest {
  return { type: RTM.deleteRule, flags: NLM.ack, body: ruleBody(family, AMBIENT_ROUTE) };
}

/** Replaces a route of another kind with the same destination, if there is one. */
export function addRouteRequest(family: Family, { table }: MarkRoute): NetlinkRequest {
  const scope = family === AF.inet ? SCOPE.host : SCOPE.universe;
  const body = concatBytes(
    Uint8Array.of(family, 0, 0, 0, table, RTPROT_BOOT, scope, RTN_LOCAL, 0, 0, 0, 0),
    encodeUint32Attribute(RTA.interface, LO_INDEX),
  );
  return { type: RTM.newRoute, flags: NLM.ack | NLM.create | NLM.replace, body };
}

/** Deletes one route of ambient mode, of any metric. */
export function deleteRouteRequest(family: Family): NetlinkRequest {
  const scope = family === AF.inet ? SCOPE.nowhere : SCOPE.universe;
  const body = concatBytes(
    // Protocol 0 is "any".
    Uint8Array.of(family, 0, 0, 0, AMBIENT_ROUTE.table, 0, scope, RTN_LOCAL, 0, 0, 0, 0),
    encodeUint32Attribute(RTA.interface, LO_INDEX),
  );
  return { type: RTM.deleteRoute, flags: NLM.ack, body };
}

/** Whether an answer says that the kernel has no such family, or no rules in it. @param code name of the errno */
export function isUnsupported(code: string): boolean {
  return code === "EAFNOSUPPORT" || code === "EOPNOTSUPP" || code === "ENOTSUP" || code === "EPFNOSUPPORT";
}

function ruleBody(family: Family, { mark, mask, priority, table }: MarkRoute): Uint8Array {
  return concatBytes(
    Uint8Array.of(family, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0),
    encodeUint32Attribute(FRA.priority, priority),
    encodeUint32Attribute(FRA.fwmark, mark),
    encodeUint32Attribute(FRA.fwmask, mask),
  );
}
