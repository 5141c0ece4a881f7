// SPDX-License-Identifier: Apache-2.0
// Redirection of one pod's namespace as a whole: rules, ip rule and route, checked, brought about and removed.

import { hasIpv6 } from "../linux/host-netns.ts";
import type { LockFiles } from "../linux/lock-files.ts";
import {
  hasRouting,
  isRoutingComplete,
  lookAtRouting,
  nothingFound,
  type RoutingLook,
  type RoutingState,
  readRedirectRouting,
  removeRedirectRouting,
} from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import type { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";
import { KeyedMutex } from "../loop/keyed-mutex.ts";
import type { Family } from "../netfilter/family.ts";
import type {
  Applied,
  NetnsCall,
  RuleEngine,
  RuleState,
  SeenRules,
  WantedRules,
} from "../netfilter/rule-engine.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { type ClearedLeftovers, type EarlierLook, EarlierRules, NOT_LOOKED } from "./earlier-rules.ts";
import { type Drift, fingerprint } from "./fingerprint.ts";
import { named } from "./named-faults.ts";
import { NATIVE_LAYOUT } from "./native-rules.ts";
import { podEngines } from "./pod-engines.ts";
import { assertUsable, visitOf } from "./pod-netns.ts";
import { ensureRouting, familiesOf, type SkippedFamily } from "./pod-routing.ts";
import { RedirectionError } from "./redirection-error.ts";
import { routingDrift } from "./routing-drift.ts";
import type { RedirectOptions } from "./rules.ts";
import { ALL_FAMILIES, REDIRECT_TABLES, wantedRedirection } from "./told-redirection.ts";

export interface PodRedirectionOptions {
  readonly backend: RedirectBackend;
  /** `Netns.key` of every namespace that is never written. */
  readonly hostNetns: ReadonlySet<string>;
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
  /** For each program run, waiting for its turn included; default 10 s. */
  readonly timeoutMs?: number;
  /** What iptables-legacy locks in place of the machine's file. */
  readonly locks?: LockFiles;
}

/** How a single call is made. */
export interface RedirectionCall {
  readonly signal?: AbortSignal;
  /**
   * The runtime made the namespace just now (CNI ADD): no earlier agent can have left anything in it, so neither the other
   * iptables variant nor istio-cni's tables are looked at. Default false: it is, once for each handle. Wrongly true, it costs a round more.
   */
  readonly isNew?: boolean;
  /**
   * Processes run in it, and a moment ago nothing of any agent was there: it is not read first, and not searched for earlier agents.
   * Default false; wrongly true, it costs a round more.
   */
  readonly isUntouched?: boolean;
}

/** What a namespace has of its redirection. */
export interface Verification {
  readonly intact: boolean;
  readonly drift: readonly Drift[];
  readonly skippedFamilies: readonly SkippedFamily[];
  readonly routing: RoutingState;
  /** Hash of our chains as they are, by family; rules that count as ours in another form hash as ours. */
  readonly fingerprints: ReadonlyMap<Family, string>;
}

/** What bringing a namespace's redirection about took. */
export interface ApplyReport {
  readonly changed: boolean;
  /** Batches, or runs of iptables-restore. */
  readonly writes: number;
  /** What differed before. */
  readonly repaired: readonly Drift[];
  readonly skippedFamilies: readonly SkippedFamily[];
  /** Why something that an earlier agent left is still there beside ours; it is tried again with the next call. */
  readonly leftoverFault?: string;
  /** Equal for two looks between which nobody changed nf_tables in the namespace; absent where that is not known, or something was written. */
  readonly generation?: number;
  /** Why iptables-restore wrote the rules, which takes many times longer than the batch that could not be. */
  readonly fallback?: string;
  readonly durationMs: number;
}

/** A call that has a visit under way. */
interface Visiting extends NetnsCall {
  readonly visit: NetnsVisit;
}

/** What bringing our own rules and routing about took. */
interface Written {
  readonly before: RoutingState;
  readonly skippedFamilies: readonly SkippedFamily[];
  readonly rules: Omit<Applied, "before"> & { readonly before: Pick<RuleState, "findings" | "generation"> };
}

const DEFAULT_TIMEOUT_MS = 10_000;
/** Somebody else may use the rules of an earlier agent again as soon as they are taken away. */
const MAX_ROUNDS = 2;
/** Options are a pod's to choose: names of its interfaces are among them. */
const MAX_POSSIBLE = 64;

/** Redirects pods. Calls for different namespaces run in parallel, calls for the same one after each other. */
export class PodRedirection {
  readonly #options: PodRedirectionOptions;
  readonly #engine: RuleEngine;
  readonly #earlier: EarlierRules;
  /** Families that are written at all. */
  readonly #families: readonly Family[];
  /** Handles whose namespace was searched for rules of earlier agents. */
  readonly #searched = new WeakSet<Netns>();
  readonly #queue = new KeyedMutex();
  /** Keys of options that rules can hold. */
  readonly #possible = new Set<string>();
  /** Families that the last new namespace could have. */
  #newFamilies: readonly Family[];

  /** @throws {BackendError} when IPv6 is wanted and its programs are not installed. @throws {RangeError} without host namespaces. */
  constructor(options: PodRedirectionOptions) {
    const { hostNetns, ipv6, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    if (hostNetns.size === 0)
      throw new RangeError("Cannot redirect pods: the host's network namespace is not known");
    this.#options = options;
    // a kernel without IPv6 takes no rules of it, not even where they would be recorded
    this.#families = ipv6 && hasIpv6() ? ALL_FAMILIES : [4];
    this.#newFamilies = this.#families;
    const { engine, others } = podEngines(options.backend, {
      own: REDIRECT_TABLES,
      layout: NATIVE_LAYOUT,
      families: this.#families,
      timeoutMs,
      locks: options.locks,
      assertUsable: (call) => assertUsable(call, this.#options.hostNetns),
    });
    this.#engine = engine;
    this.#earlier = new EarlierRules(others);
  }

  /**
   * Does beforehand what the first pod with these options would wait for: some 50 ms.
   * @throws {RedirectionError} NO_KNOWN_BYTES: it is tried again when a pod asks
   */
  async prepare(options: RedirectOptions): Promise<void> {
    await named({}, () => this.#engine.prepare(this.#wanted(options, this.#families)));
  }

  /**
   * Compares what is there with what should be; writes nothing.
   * @throws {RedirectionError} @throws {ToolError} and NetlinkError, NativeError when it cannot be read
   */
  verify(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<Verification> {
    return this.#queue.run(netns.key, () => named(call, () => this.#verify({ netns, ...call }, options)));
  }

  /**
   * The rules as they stand in both families, with what the kernel counted on them, named as the engine names them; writes nothing.
   * @param options undefined for a pod that should have none: what is there of our chains, without findings
   * @throws as {@link verify}
   */
  rules(netns: Netns, options: RedirectOptions | undefined, call: RedirectionCall = {}): Promise<RuleState> {
    return this.#queue.run(netns.key, () => named(call, () => this.#rules({ netns, ...call }, options)));
  }

  /**
   * Brings rules, ip rule and route about and verifies them; writes nothing where they are right already.
   * @throws {RedirectOptionsError} before anything is written
   * @throws {RedirectionError} HOST_NETNS, NETNS_CLOSED, NOT_CONVERGED and those of the engine
   * @throws {ToolError} when a program is missing, fails or does not end; NetlinkError when the kernel refuses the routing
   */
  apply(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<ApplyReport> {
    return this.#queue.run(netns.key, () => named(call, () => this.#apply({ netns, ...call }, options)));
  }

  /**
   * Stops the redirection of new connections and leaves everything else: connections that are open stay translated until
   * {@link remove}, which belongs after a moment in which ztunnel can end them. Both families and all engines, whatever the
   * settings are now; absence is success. {@link apply} puts back what was taken.
   * @throws as {@link apply}
   */
  open(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#queue.run(netns.key, () => named(call, () => this.#open({ netns, ...call })));
  }

  /**
   * Removes everything of ours, in both families and of all engines, whatever the settings are now; absence is success.
   * @throws as {@link apply}
   */
  remove(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#queue.run(netns.key, () => named(call, () => this.#remove({ netns, ...call })));
  }

  async #verify(call: NetnsCall, options: RedirectOptions): Promise<Verification> {
    assertUsable(call, this.#options.hostNetns);
    const { netns } = call;
    const visit = visitOf(call, this.#options.hostNetns);
    // one look for all families: which of them the namespace can have is told by the other
    const [routing, rules] = await allDone([
      readRedirectRouting(visit, { v6: this.#options.ipv6 }),
      this.#engine.verify({ ...call, visit }, this.#wanted(options, this.#families)),
    ]);
    const { families, skippedFamilies } = await familiesOf(netns, { routing, ipv6: this.#options.ipv6 });
    const findings = rules.findings.filter(({ family }) => families.includes(family));
    const drift = [...routingDrift(routing), ...findings];
    const fingerprints = new Map(
      families.map((family) => [
        family,
        fingerprint(rules.chains.filter((chain) => chain.family === family)),
      ]),
    );
    return { intact: drift.length === 0, drift, skippedFamilies, routing, fingerprints };
  }

  async #rules(call: NetnsCall, options: RedirectOptions | undefined): Promise<RuleState> {
    assertUsable(call, this.#options.hostNetns);
    if (options === undefined) return { findings: [], chains: await this.#engine.present(call) };
    return await this.#engine.verify(call, this.#wanted(options, this.#families));
  }

  async #apply(call: NetnsCall & RedirectionCall, options: RedirectOptions): Promise<ApplyReport> {
    const startMs = performance.now();
    assertUsable(call, this.#options.hostNetns);
    const { netns, isNew = false, isUntouched = false } = call;
    this.#assertPossible(options);
    const urgent = { ...call, isUrgent: isNew };
    const visiting = { ...urgent, visit: visitOf(urgent, this.#options.hostNetns) };
    const [{ before, skippedFamilies, rules }, earlier] = await allDone([
      isNew || isUntouched
        ? this.#applyFirst(visiting, options, { isRunning: !isNew })
        : this.#applyAgain(visiting, options),
      isNew || isUntouched || this.#searched.has(netns)
        ? Promise.resolve(NOT_LOOKED)
        : this.#earlier.look(visiting),
    ]);
    // Only now: until our rules stand, the earlier ones keep the pod in the mesh.
    const leftovers = await this.#removeEarlier(call, earlier);
    const { generation } = rules.before;
    const repaired = [...routingDrift(before), ...rules.before.findings, ...leftovers.drift];
    return {
      changed: repaired.length > 0,
      writes: rules.writes + leftovers.writes,
      repaired,
      skippedFamilies,
      ...(leftovers.fault === undefined ? {} : { leftoverFault: leftovers.fault }),
      ...(rules.fallback === undefined ? {} : { fallback: rules.fallback }),
      ...(generation === undefined || repaired.length > 0 ? {} : { generation }),
      durationMs: performance.now() - startMs,
    };
  }

  /** Nothing of ours is there. Where nobody replies yet all is written with one visit. */
  async #applyFirst(
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
    const before = nothingFound({ v6: routing.v6.supported }).state;
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
  async #applyAgain(call: Visiting, options: RedirectOptions): Promise<Written> {
    const wanted = this.#wanted(options, this.#families);
    // where nothing was changed since the last look the rules are not read again
    const unchanged = this.#engine.unchanged?.(call, wanted);
    const [found, known] = await allDone([
      lookAtRouting(call.visit, { v6: this.#options.ipv6 }),
      unchanged ?? this.#look(call, wanted),
    ]);
    const seen = known ?? (await this.#look(call, wanted));
    const before = found.state;
    const { families, skippedFamilies } = await this.#familiesOf(call, before);
    const isIntact = seen.findings.every(({ family }) => !families.includes(family));
    if (isIntact && isRoutingComplete(before))
      return { before, skippedFamilies, rules: { before: { ...seen, findings: [] }, writes: 0 } };
    // as for a running pod that is written for the first time
    if (!isRoutingComplete(before)) await this.#ensureRouting(call, { isNew: false, found });
    const isNew = !seen.hasChains;
    const rules = await this.#engine.apply(call, this.#wanted(options, families), { isNew });
    return { before, skippedFamilies, rules };
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
    return this.#engine.variant === "native" ? { ...of, families: this.#families } : of;
  }

  /** What cannot be removed is looked for again. */
  async #removeEarlier(call: NetnsCall, look: EarlierLook): Promise<ClearedLeftovers> {
    const cleared = await this.#earlier.clear(call, look);
    if (cleared.fault === undefined) this.#searched.add(call.netns);
    return cleared;
  }

  async #open(call: NetnsCall): Promise<{ changed: boolean }> {
    assertUsable(call, this.#options.hostNetns);
    const [ownCount, { suspects, fault }] = await allDone([
      this.#engine.open(call, "nat"),
      this.#earlier.look(call),
    ]);
    let earlierCount = 0;
    for (let round = 0; ; round++) {
      const count = await this.#earlier.open(call, suspects);
      if (count === 0 && fault !== undefined) throw fault;
      if (count === 0) return { changed: ownCount + earlierCount > 0 };
      if (round === MAX_ROUNDS)
        throw new RedirectionError(
          "NOT_CONVERGED",
          `Cannot open the redirection of network namespace ${call.netns.key}: our chains are used again right after ` +
            "that; look for another program that writes ISTIO_PRERT or ISTIO_OUTPUT in this pod",
        );
      earlierCount += count;
    }
  }

  async #remove(call: NetnsCall): Promise<{ changed: boolean }> {
    assertUsable(call, this.#options.hostNetns);
    const { netns } = call;
    const [removedCount, { suspects, fault }] = await allDone([
      this.#engine.remove(call),
      this.#earlier.look(call),
    ]);
    const leftovers = await this.#earlier.remove(call, suspects);
    const hadRouting = hasRouting(await readRedirectRouting(netns.fd, { v6: true }));
    assertUsable(call, this.#options.hostNetns);
    await removeRedirectRouting(netns.fd);
    // last: what is ours by this engine is gone, whatever another one keeps
    if (fault !== undefined) throw fault;
    return { changed: hadRouting || removedCount > 0 || leftovers.writes > 0 };
  }

  #wanted(options: RedirectOptions, families: readonly Family[]) {
    return wantedRedirection(options, { families, known: this.#families });
  }

  /** Before anything is written. @throws {RedirectOptionsError} for options that no rule can hold */
  #assertPossible(options: RedirectOptions): void {
    const { key, told } = this.#wanted(options, this.#families);
    if (this.#possible.has(key)) return;
    // all rules are made for it: as long as a conversation with the kernel takes
    told();
    if (this.#possible.size === MAX_POSSIBLE) this.#possible.clear();
    this.#possible.add(key);
  }
}
