// SPDX-License-Identifier: Apache-2.0
// Policy routing of a pod (rule and local route), through rtnetlink(7).

import type { NetnsAt } from "../netns-visit.ts";
import { check, errorCode, exchange, NetlinkError, read } from "./exchange.ts";
import type { NetlinkAnswer, NetlinkRequest } from "./message.ts";
import {
  AF,
  AMBIENT_ROUTE,
  addRouteRequest,
  addRuleRequest,
  decodeLo,
  deleteRouteRequest,
  deleteRuleRequest,
  dumpRequests,
  type Family,
  isNarrow,
  isOurRoute,
  isOurRule,
  isUnsupported,
  loRequest,
  type MarkRoute,
  RTM,
} from "./routing-messages.ts";

const NETLINK_ROUTE = 0;

/**
 * Of a pod's rules and routes: some 60,000. Whoever is root in a pod can make as many as it likes: 300,000 took 90 MB
 * and the event loop 100 ms when each became a value of ours.
 */
const MAX_ROUTING_BYTES = 4 << 20;

const ROUTING = "route redirected packets";
const CONTENDED = "something else changes rules and routes here; try again later";
/** Why nothing is routed, or given to, the loopback device. */
export const LO_DOWN =
  'ENETDOWN: the loopback device "lo" is down in this network namespace; the CNI loopback plugin should have brought it up';

/** Which policy routing is meant, and where. */
export interface RoutingScope {
  /** IPv6 as well. */
  readonly v6: boolean;
  /** Default: ambient mode's. */
  readonly route?: MarkRoute;
}

/** What one address family has of the redirection's policy routing. */
export interface FamilyRouting {
  /** The family is in use here. False for IPv6 that was not asked for, or is off in the namespace. */
  readonly supported: boolean;
  /** `fwmark 0x111/0xfff pref 32764 lookup 100`, exactly; or that of another {@link RoutingScope}. */
  readonly rule: boolean;
  /** `local default dev lo table 100`. */
  readonly route: boolean;
}

/** Policy routing found in a namespace. */
export interface RoutingState {
  readonly v4: FamilyRouting;
  readonly v6: FamilyRouting;
}

/** What one look at a namespace shows. */
export interface RoutingLook {
  readonly state: RoutingState;
  /** The loopback device is up. */
  readonly loUp: boolean;
}

/**
 * What to take for found in a namespace in which nothing of ours can be, without a look. That it may be without IPv6, or "lo" down, its
 * answer to a write tells.
 */
export function nothingFound({ v6 }: { v6: boolean }): RoutingLook {
  const nothing = { rule: false, route: false };
  return { state: { v4: { supported: true, ...nothing }, v6: { supported: v6, ...nothing } }, loUp: true };
}

/** Policy routing as it was left by {@link ensureRedirectRouting}. */
export interface RoutingReport extends RoutingState {
  /** Something was missing and has been added. */
  readonly changed: boolean;
}

interface Found {
  readonly error: NetlinkAnswer | undefined;
  readonly rules: number;
  readonly routes: number;
}

/**
 * Brings the rule and the route of the redirection about, in both families; writes only what is missing.
 *
 * IPv6 that is off in the namespace (no module, or `net.ipv6.conf.lo.disable_ipv6=1`) is reported, not an error.
 *
 * @param options.found what {@link lookAtRouting} has just shown, or {@link nothingFound}; default: it is looked at
 * @throws NetlinkError ENETDOWN if the loopback device is down (nothing was written if it was looked at), EPERM, …
 * @throws NativeError if the conversation with the kernel failed
 */
export async function ensureRedirectRouting(
  at: NetnsAt,
  families: RoutingScope,
  options: { readonly found?: RoutingLook | undefined } = {},
): Promise<RoutingReport> {
  let changed = false;
  let { found } = options;
  for (const exclusive of [true, false, false]) {
    const { state, loUp } = found ?? (await lookAtRouting(at, families));
    found = undefined;
    if (!loUp) throw new NetlinkError(ROUTING, "ENETDOWN", LO_DOWN);
    if (isRoutingComplete(state)) return { ...state, changed };
    changed = true;
    const after = await addMissing(at, { state, scope: families, exclusive });
    if (after !== undefined && isRoutingComplete(after)) return { ...after, changed };
  }
  throw new NetlinkError(ROUTING, "EAGAIN", CONTENDED);
}

/**
 * Writes, and looks at what came of it in the same conversation.
 * @returns undefined if it has to be looked at again, because the kernel found something that we had not seen
 */
async function addMissing(
  at: NetnsAt,
  { state, scope, exclusive }: { state: RoutingState; scope: RoutingScope; exclusive: boolean },
): Promise<RoutingState | undefined> {
  const missingOf = (family: Family, found: FamilyRouting) =>
    missing(family, found, { exclusive, route: scope.route ?? AMBIENT_ROUTE }).map((request) => ({
      ...request,
      family,
    }));
  const wanted = [...missingOf(AF.inet, state.v4), ...missingOf(AF.inet6, state.v6)];
  const answers = await exchange(at, NETLINK_ROUTE, [...wanted, ...lookRequests(scope)], {
    maxBytes: MAX_ROUTING_BYTES,
    isSkipped: isNarrow,
  });
  const looked = answers.slice(wanted.length);
  let certain = !looked.some(({ interrupted }) => interrupted);
  wanted.forEach(({ family, type }, index) => {
    const answer = answers[index] as NetlinkAnswer;
    const code = errorCode(answer.error);
    // The kernel also says EEXIST for a rule that differs from ours in source, destination, TOS or "not".
    const collision = type === RTM.newRule && code === "EEXIST";
    // IPv6 may be switched off between our look and our write.
    const switchedOff = family === AF.inet6 && (code === "EACCES" || isUnsupported(code));
    if (collision || switchedOff) certain = false;
    else check(`add the ${type === RTM.newRule ? "rule" : "route"} for redirected packets`, answer);
  });
  return certain ? decodeLook(looked, scope).state : undefined;
}

/**
 * Reads what is there of the rule and the route of the redirection.
 *
 * @throws NetlinkError EAGAIN if the tables changed during each of several readings; EMSGSIZE if there is more than is read
 * @throws NativeError if the conversation with the kernel failed
 */
export async function readRedirectRouting(at: NetnsAt, families: RoutingScope): Promise<RoutingState> {
  return (await lookAtRouting(at, families)).state;
}

/**
 * Removes the rule and the route of the redirection from both families, duplicates too. Absence is success.
 *
 * @throws NetlinkError if the kernel refused, for another reason than absence
 * @throws NativeError if the conversation with the kernel failed
 */
export async function removeRedirectRouting(at: NetnsAt): Promise<void> {
  // More than once, because the kernel may delete a narrower rule of somebody else's first.
  for (let round = 0; round < 3; round++) {
    const requests = await deleteRequests(at);
    if (requests.length === 0) return;
    for (const answer of await exchange(at, NETLINK_ROUTE, requests)) {
      if (!["ENOENT", "ESRCH", "ENODEV"].includes(errorCode(answer.error))) {
        check("remove the routing of redirected packets", answer);
      }
    }
  }
  throw new NetlinkError("remove the routing of redirected packets", "EAGAIN", CONTENDED);
}

async function deleteRequests(at: NetnsAt): Promise<NetlinkRequest[]> {
  const answers = await read(at, NETLINK_ROUTE, [...dumpRequests(AF.inet), ...dumpRequests(AF.inet6)]);
  const found = [
    { family: AF.inet, ...findOurs(AF.inet, answers.slice(0, 2)) },
    { family: AF.inet6, ...findOurs(AF.inet6, answers.slice(2)) },
  ];
  return found.flatMap(({ family, rules, routes }) => [
    ...Array.from({ length: rules }, () => deleteRuleRequest(family)),
    ...Array.from({ length: routes }, () => deleteRouteRequest(family)),
  ]);
}

/** Whether anything of it is there. */
export function hasRouting({ v4, v6 }: RoutingState): boolean {
  return v4.rule || v4.route || v6.rule || v6.route;
}

/** The redirection's routing is complete in each family in use. */
export function isRoutingComplete({ v4, v6 }: RoutingState): boolean {
  return v4.rule && v4.route && (!v6.supported || (v6.rule && v6.route));
}

/** As {@link readRedirectRouting}, and what else matters to who wants to write. @throws as that */
export async function lookAtRouting(at: NetnsAt, families: RoutingScope): Promise<RoutingLook> {
  const maxBytes = MAX_ROUTING_BYTES;
  return decodeLook(
    await read(at, NETLINK_ROUTE, lookRequests(families), { maxBytes, isSkipped: isNarrow }),
    families,
  );
}

function lookRequests({ v6 }: { v6: boolean }): NetlinkRequest[] {
  return [loRequest(), ...dumpRequests(AF.inet), ...(v6 ? dumpRequests(AF.inet6) : [])];
}

function decodeLook([link, ...dumps]: readonly NetlinkAnswer[], scope: RoutingScope): RoutingLook {
  check("look at the loopback device", link as NetlinkAnswer);
  const lo = decodeLo((link as NetlinkAnswer).messages[0]);
  const v4 = describeFamily(findOurs(AF.inet, dumps.slice(0, 2), scope.route));
  const v6 = describeFamily(findOurs(AF.inet6, dumps.slice(2), scope.route));
  return { state: { v4, v6: { ...v6, supported: scope.v6 && lo.v6 && v6.supported } }, loUp: lo.up };
}

function describeFamily({ error, rules, routes }: Found): FamilyRouting {
  if (error !== undefined && !isUnsupported(errorCode(error.error))) check("list rules and routes", error);
  return { supported: error === undefined, rule: rules > 0, route: routes > 0 };
}

function findOurs(family: Family, [rules, routes]: readonly NetlinkAnswer[], route?: MarkRoute): Found {
  return {
    error: [rules, routes].find((answer) => answer !== undefined && answer.error !== 0),
    rules: rules?.messages.filter(({ body }) => isOurRule(family, body, route)).length ?? 0,
    routes: routes?.messages.filter(({ body }) => isOurRoute(family, body, route)).length ?? 0,
  };
}

function missing(
  family: Family,
  found: FamilyRouting,
  { exclusive, route }: { readonly exclusive: boolean; readonly route: MarkRoute },
): NetlinkRequest[] {
  if (!found.supported) return [];
  return [
    ...(found.rule ? [] : [addRuleRequest(family, exclusive, route)]),
    ...(found.route ? [] : [addRouteRequest(family, route)]),
  ];
}
