// SPDX-License-Identifier: Apache-2.0
// Brings our own rules and routing about in a pod's namespace, with as few entries into it as can be.
import { raiseLoopback } from "../linux/netlink/loopback-address.ts";
import {
  isRoutingComplete,
  lookAtRouting,
  nothingFound,
  type RoutingLook,
  type RoutingState,
} from "../linux/netlink/rtnetlink.ts";
import type { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import type {
  Applied,
  NetnsCall,
  RuleEngine,
  RuleState,
  SeenRules,
  WantedRules,
} from "../netfilter/rule-engine.ts";
import { ensureRouting, familiesOf, type SkippedFamily } from "./pod-routing.ts";
import type { RedirectOptions } from "./rules.ts";
import { wantedRedirection } from "./told-redirection.ts";

/** A call that has a visit under way. */
export interface Visiting extends NetnsCall {
  readonly visit: NetnsVisit;
  /** As in a redirection's call. */
  readonly raisesLoopback?: boolean;
}

/** What bringing our own rules and routing about took. */
export interface Written {
  readonly before: RoutingLook;
  readonly skippedFamilies: readonly SkippedFamily[];
  readonly rules: Omit<Applied, "before"> & { readonly before: Pick<RuleState, "findings" | "generation"> };
}

export interface PodWriterOptions {
  readonly engine: RuleEngine;
  /** `Netns.key` of every namespace that is never written. */
  readonly hostNetns: ReadonlySet<string>;
  /** Whether IPv6 is written at all. */
  readonly ipv6: boolean;
  /** Families that are written at all. */
  readonly families: readonly Family[];
}

/** Writes pods. */
export class PodWriter {
  readonly #options: PodWriterOptions;
  readonly #engine: RuleEngine;
  /** Families that the last new namespace could have. */
  #newFamilies: readonly Family[];

  constructor(options: PodWriterOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#newFamilies = options.families;
  }

  /** Nothing of ours is there. Where nobody replies yet all is written with one visit. */
  async first(
    call: Visiting,
    options: RedirectOptions,
    { isRunning }: { readonly isRunning: boolean },
  ): Promise<Written> {
    const expected = this.#newFamilies;
    // where processes run nothing is written for a loopback device that is down: what cannot be whole is not begun
    const found = isRunning ? undefined : nothingFound({ v6: this.#options.ipv6 });
    const routed = this.#ensureRouting(call, { isNew: !isRunning, found });
    // routes before rules: a reply that the rules mark must find its route
    if (isRunning) await routed;
    const [routing, rules] = await allDone([
      routed,
      this.#engine.apply(call, this.#wanted(options, expected), { isNew: true }),
    ]);
    const before = nothingFound({ v6: routing.v6.supported });
    const { families, skippedFamilies } = await this.#familiesOf(call, routing);
    if (families.length === expected.length) return { before, skippedFamilies, rules };
    // as the last new pod was, the next one usually is
    this.#newFamilies = families;
    const removedCount = await this.#engine.remove(call);
    const again = await this.#engine.apply(call, this.#wanted(options, families), { isNew: false });
    const writes = rules.writes + removedCount + again.writes;
    return { before, skippedFamilies, rules: { ...again, writes } };
  }

  /** One visit shows whether anything is to be done, which is not so most of the time. */
  async again(call: Visiting, options: RedirectOptions): Promise<Written> {
    const wanted = this.#wanted(options, this.#options.families);
    // where nothing was changed since the last look the rules are not read again
    const unchanged = this.#engine.unchanged(call, wanted);
    const [found, known] = await allDone([
      lookAtRouting(call.visit, { v6: this.#options.ipv6 }),
      unchanged ?? this.#look(call, wanted),
    ]);
    const seen = known ?? (await this.#look(call, wanted));
    const { families, skippedFamilies } = await this.#familiesOf(call, found.state);
    const isIntact = seen.findings.every(({ family }) => !families.includes(family));
    const isRouted = found.loUp && isRoutingComplete(found.state);
    if (isIntact && isRouted)
      return { before: found, skippedFamilies, rules: { before: { ...seen, findings: [] }, writes: 0 } };
    const isRaised = !found.loUp && call.raisesLoopback === true;
    if (isRaised) await raiseLoopback(call.visit);
    // as for a running pod that is written for the first time
    if (!isRouted) await this.#ensureRouting(call, { isNew: false, found: isRaised ? undefined : found });
    const isNew = !seen.hasChains;
    const rules = await this.#engine.apply(call, this.#wanted(options, families), { isNew });
    return { before: found, skippedFamilies, rules };
  }

  async #look(call: Visiting, wanted: WantedRules): Promise<SeenRules> {
    const { chains, ...state } = await this.#engine.verify(call, wanted);
    return { ...state, hasChains: chains.length > 0 };
  }

  #ensureRouting(
    { netns, visit }: Visiting,
    look: { readonly isNew: boolean; readonly found: RoutingLook | undefined },
  ): Promise<RoutingState> {
    const { ipv6, hostNetns } = this.#options;
    return ensureRouting(netns, { ipv6, hostNetns, at: visit, ...look });
  }

  /** IPv6 that is off in the namespace changes nothing in tables of both families. */
  async #familiesOf(
    { netns, visit }: Visiting,
    routing: RoutingState,
  ): Promise<{ families: readonly Family[]; skippedFamilies: readonly SkippedFamily[] }> {
    const of = await familiesOf(netns, { routing, ipv6: this.#options.ipv6, at: visit });
    return this.#engine.variant === "native" ? { ...of, families: this.#options.families } : of;
  }

  #wanted(options: RedirectOptions, families: readonly Family[]): WantedRules {
    return wantedRedirection(options, { families, known: this.#options.families });
  }
}
