// SPDX-License-Identifier: Apache-2.0
// Redirection of one pod's namespace as a whole: rules, ip rule and route, checked, brought about and removed.

import {
  isRoutingComplete,
  type RoutingState,
  readRedirectRouting,
  removeRedirectRouting,
} from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import { allDone } from "../loop/all-done.ts";
import { KeyedMutex } from "../loop/keyed-mutex.ts";
import type { Family } from "../netfilter/family.ts";
import { findNativeTables } from "../netfilter/native-tables.ts";
import { BackendError, type RedirectBackend } from "../netfilter/variant.ts";
import { type Drift, desiredState, fingerprint } from "./fingerprint.ts";
import { knownRedirections } from "./known-rules.ts";
import { EarlierRules, type Leftovers, NO_SUSPECTS, type Suspects } from "./leftovers.ts";
import { assertPodNetns, type NetnsCall, NetnsRules } from "./netns-rules.ts";
import { NftEngine } from "./nft-engine.ts";
import { ensureRouting, familiesOf, type SkippedFamily } from "./pod-routing.ts";
import { RedirectionError } from "./redirection-error.ts";
import { routingDrift } from "./routing-drift.ts";
import type { RuleEngine, RulesetLook } from "./rule-engine.ts";
import { ALL_FAMILIES, MAX_ROUNDS, notConverged, RuleWriter } from "./rule-writer.ts";
import type { RedirectOptions } from "./rules.ts";

export interface PodRedirectionOptions {
  readonly backend: RedirectBackend;
  /** `Netns.key` of every namespace that is never written. */
  readonly hostNetns: ReadonlySet<string>;
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
  /** For each program run, waiting for its turn included; default 10 s. */
  readonly timeoutMs?: number;
}

/** How a single call is made. */
export interface RedirectionCall {
  readonly signal?: AbortSignal;
  /**
   * The runtime made the namespace just now (CNI ADD): no earlier agent can have left anything in it, so neither the other
   * iptables variant nor istio-cni's tables are looked at. Default false: it is, once for each handle. Wrongly true, it costs a round more.
   */
  readonly isNew?: boolean;
  /** /proc/PID/net of a process in the namespace, if one is known: spares a process at the first apply. */
  readonly procNetDir?: string;
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
  /** Why iptables-restore wrote the rules, which takes many times longer than the batch that could not be. */
  readonly fallback?: string;
  readonly durationMs: number;
}

const DEFAULT_TIMEOUT_MS = 10_000;

/** Redirects pods. Calls for different namespaces run in parallel, calls for the same one after each other. */
export class PodRedirection {
  readonly #options: PodRedirectionOptions;
  readonly #engine: RuleEngine;
  readonly #earlier: EarlierRules;
  /** Handles whose namespace was searched for rules of earlier agents. */
  readonly #searched = new WeakSet<Netns>();
  readonly #queue = new KeyedMutex();

  /** @throws {BackendError} when IPv6 is wanted and its programs are not installed. @throws {RangeError} without host namespaces. */
  constructor(options: PodRedirectionOptions) {
    const { backend, hostNetns, ipv6, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    const { runner, tools, other } = backend;
    if (hostNetns.size === 0)
      throw new RangeError("Cannot redirect pods: the host's network namespace is not known");
    if (ipv6 && tools[6] === undefined) {
      throw new BackendError(
        `Cannot redirect IPv6: ip6tables of variant "${backend.variant}" is not in PATH; ` +
          "use an agent image that holds it, or set AMBIENT_IPV6=false",
      );
    }
    const shared = { runner, hostNetns, timeoutMs };
    this.#options = options;
    const programs = new RuleWriter(new NetnsRules(tools, shared));
    const families = ipv6 ? ALL_FAMILIES : ([4] as const);
    const known = () => knownRedirections(tools, { runner, timeoutMs });
    this.#engine =
      backend.variant === "nft"
        ? new NftEngine({ known: known(), families, hostNetns, programs, timeoutMs })
        : programs;
    this.#earlier = new EarlierRules(other && new NetnsRules(other, shared), { runner, hostNetns });
  }

  /**
   * Does beforehand what the first pod with these options would wait for: some 50 ms.
   * @throws NetfilterFault: each pod gets its rules by iptables-restore then, until it is tried again
   */
  async prepare(options: RedirectOptions): Promise<void> {
    await this.#engine.prepare(options);
  }

  /**
   * Compares what is there with what should be; writes nothing.
   * @throws {RedirectionError} @throws {ToolError} @throws {SaveParseError} and NetlinkError, NativeError when it cannot be read
   */
  verify(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<Verification> {
    return this.#queue.run(netns.key, () => this.#verify(netns, options, call));
  }

  /**
   * Whether something of an ambient agent may be in the namespace, at the price of two netlink exchanges: our ip rule and route
   * are written first and taken away last; istio-cni writes its own tables before them.
   */
  async isTouched(netns: Netns): Promise<boolean> {
    const { v4, v6 } = await readRedirectRouting(netns.fd, { v6: true });
    if (v4.rule || v4.route || v6.rule || v6.route) return true;
    return (await findNativeTables(netns.fd)).length > 0;
  }

  /**
   * Brings rules, ip rule and route about and verifies them; writes nothing where they are right already.
   * @throws {RedirectOptionsError} before anything is written
   * @throws {RedirectionError} HOST_NETNS, NETNS_CLOSED, UNREADABLE_TABLE, NOT_CONVERGED
   * @throws {ToolError} when a program is missing, fails or does not end; NetlinkError when the kernel refuses the routing
   */
  apply(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<ApplyReport> {
    return this.#queue.run(netns.key, () => this.#apply(netns, options, call));
  }

  /**
   * Stops the redirection of new connections and leaves everything else: connections that are open stay translated until
   * {@link remove}, which belongs after a moment in which ztunnel can end them. Both families, both variants and istio-cni's tables,
   * whatever the settings are now; absence is success. {@link apply} puts back what was taken.
   * @throws as {@link apply}
   */
  open(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#queue.run(netns.key, () => this.#open(netns, call));
  }

  /**
   * Removes everything of ours, in both families and both variants, and istio-cni's tables, whatever the settings are now;
   * absence is success.
   * @throws as {@link apply}
   */
  remove(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#queue.run(netns.key, () => this.#remove(netns, call));
  }

  async #verify(netns: Netns, options: RedirectOptions, call: RedirectionCall): Promise<Verification> {
    assertPodNetns(netns, this.#options.hostNetns);
    const netnsCall = { netns, signal: call.signal };
    const [routing, look] = await this.#look(netnsCall);
    const { families, skippedFamilies } = await familiesOf(netns, { routing, ipv6: this.#options.ipv6 });
    const observations = await this.#engine.observe(netnsCall, { options, families }, look);
    const drift = [...routingDrift(routing), ...observations.flatMap((observation) => observation.drift)];
    const fingerprints = new Map(
      observations.map(({ family, state }) => [family, fingerprint(state ?? desiredState(options, family))]),
    );
    return { intact: drift.length === 0, drift, skippedFamilies, routing, fingerprints };
  }

  async #apply(netns: Netns, options: RedirectOptions, call: RedirectionCall): Promise<ApplyReport> {
    const startMs = performance.now();
    assertPodNetns(netns, this.#options.hostNetns);
    // Throws for options that no rule can hold, before anything is written.
    for (const family of this.#options.ipv6 ? ALL_FAMILIES : ([4] as const)) desiredState(options, family);
    const netnsCall = { netns, signal: call.signal };
    const isNew = call.isNew === true;
    const [before, look] = isNew
      ? [await this.#lookAtRouting(netnsCall), undefined]
      : await this.#look(netnsCall);
    const { families, skippedFamilies } = await familiesOf(netns, {
      routing: before,
      ipv6: this.#options.ipv6,
    });
    const routing = isRoutingComplete(before)
      ? Promise.resolve(before)
      : ensureRouting(netns, { ipv6: this.#options.ipv6, isNew, hostNetns: this.#options.hostNetns });
    // Routes before rules: a reply that the rules mark must find its route. In a new namespace nobody replies yet.
    if (!isNew) await routing;
    const [rules, suspects] = await allDone([
      this.#engine.converge(netnsCall, { options, families }, { look, isNew }),
      this.#lookForLeftovers(netnsCall, call),
      routing,
    ]);
    // Only now: until our rules stand, the earlier ones keep the pod in the mesh.
    const leftovers = await this.#removeEarlier(netnsCall, suspects);
    const repaired = [...routingDrift(before), ...rules.repaired, ...leftovers.drift];
    const writes = rules.writes + leftovers.writes;
    return {
      changed: repaired.length > 0,
      writes,
      repaired,
      skippedFamilies,
      ...(leftovers.fault === undefined ? {} : { leftoverFault: leftovers.fault }),
      ...(rules.fallback === undefined ? {} : { fallback: rules.fallback.message }),
      durationMs: performance.now() - startMs,
    };
  }

  /** A pod that both sets of rules lead to ztunnel is captured: what cannot be removed is no reason to keep it from ztunnel. */
  async #removeEarlier(call: NetnsCall, suspects: Suspects): Promise<Leftovers & { fault?: string }> {
    try {
      const leftovers = await this.#earlier.remove(call, suspects);
      this.#searched.add(call.netns);
      return leftovers;
    } catch (error) {
      if (call.signal?.aborted === true || error instanceof RedirectionError) throw error;
      return { drift: [], writes: 0, fault: (error as Error).message };
    }
  }

  async #open(netns: Netns, call: RedirectionCall): Promise<{ changed: boolean }> {
    assertPodNetns(netns, this.#options.hostNetns);
    const netnsCall = { netns, signal: call.signal };
    const [ownCount, suspects] = await allDone([
      this.#engine.open(netnsCall),
      this.#earlier.look(netnsCall, call),
    ]);
    let earlierCount = 0;
    for (let round = 0; ; round++) {
      const count = await this.#earlier.open(netnsCall, suspects);
      if (count === 0) return { changed: ownCount + earlierCount > 0 };
      if (round === MAX_ROUNDS) throw notConverged(netns, "open");
      earlierCount += count;
    }
  }

  async #remove(netns: Netns, call: RedirectionCall): Promise<{ changed: boolean }> {
    assertPodNetns(netns, this.#options.hostNetns);
    const netnsCall = { netns, signal: call.signal };
    const [removedCount, suspects] = await allDone([
      this.#engine.remove(netnsCall),
      this.#earlier.look(netnsCall, call),
    ]);
    const leftovers = await this.#earlier.remove(netnsCall, suspects);
    const hadRouting = await this.isTouched(netns);
    assertPodNetns(netns, this.#options.hostNetns);
    await removeRedirectRouting(netns.fd);
    return { changed: hadRouting || removedCount > 0 || leftovers.writes > 0 };
  }

  #look(call: NetnsCall): Promise<[RoutingState, RulesetLook]> {
    return allDone([this.#lookAtRouting(call), this.#engine.look(call)]);
  }

  #lookAtRouting({ netns }: NetnsCall): Promise<RoutingState> {
    return readRedirectRouting(netns.fd, { v6: this.#options.ipv6 });
  }

  async #lookForLeftovers(netnsCall: NetnsCall, call: RedirectionCall): Promise<Suspects> {
    if (call.isNew === true || this.#searched.has(netnsCall.netns)) return NO_SUSPECTS;
    return await this.#earlier.look(netnsCall, call);
  }
}
