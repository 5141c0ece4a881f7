// SPDX-License-Identifier: Apache-2.0
// Policy rules and host routes of a namespace that others keep as well: listed, added and deleted one by one, through rtnetlink(7).
import { addressBytes, addressText } from "../address.ts";
import type { NetnsAt } from "../netns-visit.ts";
import { check, errorCode, exchange, read } from "./exchange.ts";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  decodeUint32,
  encodeAttribute,
  encodeUint32Attribute,
  type NetlinkAnswer,
  type NetlinkRequest,
  NLM,
  viewOf,
} from "./message.ts";
import { AF, dumpRequests, isUnsupported, RTM } from "./routing-messages.ts";

const NETLINK_ROUTE = 0;
// Source: linux/fib_rules.h, linux/rtnetlink.h, linux/if_link.h.
const FRA = { destination: 1, iif: 3, priority: 6, suppressIfgroup: 13, suppressPrefixLength: 14, table: 15 };
const FRA_PAD = 18;
const FRA_PROTOCOL = 21;
const FR_ACT_TO_TBL = 1;
const FIB_RULE_INVERT = 2;
const RTA = { destination: 1, interface: 4, table: 15 } as const;
const RTN_UNICAST = 1;
const IFLA_IFNAME = 3;
const NO_LIMIT = 0xffffffff;

type Family = 4 | 6;

/** `ip rule` with a destination address or an incoming interface and a table, and nothing else that narrows it. */
export interface PolicyRule {
  readonly family: Family;
  readonly priority: number;
  readonly table: number;
  /** One address, never a network. */
  readonly to?: string | undefined;
  readonly iif?: string | undefined;
  /** Who made it, in the maker's own words: a number of 1 byte; 0: not said. Source: rtnetlink(7), rtm_protocol. */
  readonly protocol: number;
}

/** A route to one address over one interface. */
export interface HostRoute {
  readonly family: Family;
  readonly table: number;
  readonly address: string;
  readonly device: string;
}

/** The rules of that form; all others are left out. A kernel without policy rules has none. @throws NetlinkError, NativeError */
export async function readPolicyRules(at: NetnsAt, families: readonly Family[]): Promise<PolicyRule[]> {
  const answers = await read(at, NETLINK_ROUTE, families.map(rulesRequest));
  return families.flatMap((family, index) => {
    const answer = answers[index] as NetlinkAnswer;
    if (isUnsupported(errorCode(answer.error))) return [];
    check("list policy rules", answer);
    return answer.messages.flatMap(({ body }) => decodeRule(family, body) ?? []);
  });
}

/** Host routes of some tables; those whose interface has gone meanwhile are left out. @throws NetlinkError, NativeError */
export async function readHostRoutes(
  netnsFd: number,
  families: readonly Family[],
  tables: ReadonlySet<number>,
): Promise<HostRoute[]> {
  const answers = await read(netnsFd, NETLINK_ROUTE, families.map(routesRequest));
  const found = families.flatMap((family, index) => {
    const answer = answers[index] as NetlinkAnswer;
    check("list routes", answer);
    return answer.messages.flatMap(({ body }) => decodeHostRoute(family, body) ?? []);
  });
  const wanted = found.filter(({ table }) => tables.has(table));
  const names = await linkNames(netnsFd, new Set(wanted.map(({ index }) => index)));
  return wanted.flatMap(({ index, ...route }) => {
    const device = names.get(index);
    return device === undefined ? [] : [{ ...route, device }];
  });
}

/** Adds them in this order; stops at the first that is refused. @throws NetlinkError, NativeError */
export async function addPolicyRules(netnsFd: number, rules: readonly PolicyRule[]): Promise<void> {
  for (const rule of rules) {
    const [answer] = await exchange(netnsFd, NETLINK_ROUTE, [
      ruleRequest(RTM.newRule, NLM.ack | NLM.create, rule),
    ]);
    check(`add the rule "${describeRule(rule)}"`, answer as NetlinkAnswer);
  }
}

/** Deletes them in this order; absence is success. @throws NetlinkError, NativeError */
export async function deletePolicyRules(netnsFd: number, rules: readonly PolicyRule[]): Promise<void> {
  for (const rule of rules) {
    const [answer] = await exchange(netnsFd, NETLINK_ROUTE, [ruleRequest(RTM.deleteRule, NLM.ack, rule)]);
    if (errorCode(answer?.error) !== "ENOENT")
      check(`delete the rule "${describeRule(rule)}"`, answer as NetlinkAnswer);
  }
}

/** As `ip rule` prints it. */
export function describeRule({ priority, table, to, iif }: PolicyRule): string {
  const selector = [...(to === undefined ? [] : ["to", to]), ...(iif === undefined ? [] : ["iif", iif])];
  return `${priority}: from all ${selector.join(" ")} lookup ${table === 255 ? "local" : table}`;
}

function afOf(family: Family): (typeof AF)[keyof typeof AF] {
  return family === 4 ? AF.inet : AF.inet6;
}

function rulesRequest(family: Family): NetlinkRequest {
  return dumpRequests(afOf(family))[0] as NetlinkRequest;
}

function routesRequest(family: Family): NetlinkRequest {
  return dumpRequests(afOf(family))[1] as NetlinkRequest;
}

/** struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, u32 flags */
function decodeRule(family: Family, body: Uint8Array): PolicyRule | undefined {
  if (body.length < 12) return undefined;
  const [, destinationLength, sourceLength, tos, table = 0, , , action] = body;
  if (action !== FR_ACT_TO_TBL || sourceLength !== 0 || tos !== 0) return undefined;
  if ((viewOf(body).getUint32(8, true) & FIB_RULE_INVERT) !== 0) return undefined;
  const attributes = decodeAttributes(body, 12);
  const known: readonly number[] = [...Object.values(FRA), FRA_PAD, FRA_PROTOCOL];
  // any other attribute narrows the rule, or is an action of its own
  if ([...attributes.keys()].some((type) => !known.includes(type))) return undefined;
  const value = (type: number, absent: number) => decodeUint32(attributes.get(type)) ?? absent;
  if (value(FRA.suppressPrefixLength, NO_LIMIT) !== NO_LIMIT) return undefined;
  if (value(FRA.suppressIfgroup, NO_LIMIT) !== NO_LIMIT) return undefined;
  const destination = attributes.get(FRA.destination);
  if (destinationLength !== 0 && (destination === undefined || destinationLength !== 8 * destination.length))
    return undefined;
  const iif = attributes.get(FRA.iif);
  return {
    family,
    priority: value(FRA.priority, 0),
    table: value(FRA.table, table),
    ...(destination === undefined ? {} : { to: addressText(destination) }),
    ...(iif === undefined ? {} : { iif: decodeString(iif) }),
    protocol: attributes.get(FRA_PROTOCOL)?.[0] ?? 0,
  };
}

/** struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, u32 flags */
function decodeHostRoute(
  family: Family,
  body: Uint8Array,
): (Omit<HostRoute, "device"> & { readonly index: number }) | undefined {
  if (body.length < 12) return undefined;
  const [, destinationLength, sourceLength, , table = 0, , , type] = body;
  if (type !== RTN_UNICAST || sourceLength !== 0) return undefined;
  const attributes = decodeAttributes(body, 12);
  const destination = attributes.get(RTA.destination);
  const index = decodeUint32(attributes.get(RTA.interface));
  if (destination === undefined || destinationLength !== 8 * destination.length || index === undefined)
    return undefined;
  const address = addressText(destination);
  return { family, table: decodeUint32(attributes.get(RTA.table)) ?? table, address, index };
}

/** struct ifinfomsg: family, pad, u16 type, i32 index, u32 flags, u32 change */
async function linkNames(netnsFd: number, indices: ReadonlySet<number>): Promise<Map<number, string>> {
  const wanted = [...indices];
  const requests = wanted.map((index) => {
    const body = new Uint8Array(16);
    viewOf(body).setInt32(4, index, true);
    return { type: RTM.getLink, flags: NLM.ack, body };
  });
  if (requests.length === 0) return new Map();
  const answers = await read(netnsFd, NETLINK_ROUTE, requests);
  return new Map(
    answers.flatMap(({ messages: [link] }, at) => {
      const name = link === undefined ? undefined : decodeAttributes(link.body, 16).get(IFLA_IFNAME);
      return name === undefined ? [] : [[wanted[at] as number, decodeString(name)] as const];
    }),
  );
}

function ruleRequest(type: number, flags: number, rule: PolicyRule): NetlinkRequest {
  const { family, priority, table, to, iif, protocol } = rule;
  const destination = to === undefined ? new Uint8Array() : addressBytes(to);
  const header = [afOf(family), 8 * destination.length, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
  const body = concatBytes(
    Uint8Array.from(header),
    ...(to === undefined ? [] : [encodeAttribute(FRA.destination, destination)]),
    ...(iif === undefined ? [] : [encodeAttribute(FRA.iif, Buffer.from(`${iif}\0`, "latin1"))]),
    encodeUint32Attribute(FRA.priority, priority),
    encodeUint32Attribute(FRA.table, table),
    ...(protocol === 0 ? [] : [encodeAttribute(FRA_PROTOCOL, Uint8Array.of(protocol))]),
  );
  return { type, flags, body };
}
