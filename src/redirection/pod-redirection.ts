// SPDX-License-Identifier: Apache-2.0
// Redirection of one pod's namespace as a whole: rules, ip rule and route, checked, brought about and removed.

import { hasIpv6 } from "../linux/host-netns.ts";
import {
  hasRouting,
  lookAtRouting,
  readRedirectRouting,
  removeRedirectRouting,
} from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import type { NetnsCall, RuleState } from "../netfilter/rule-engine.ts";
import { type EarlierLook, type Leftovers, NOT_LOOKED } from "./earlier-rules.ts";
import { fingerprint } from "./fingerprint.ts";
import { NATIVE_LAYOUT } from "./native-rules.ts";
import { PodEngines, type PodEnginesOptions } from "./pod-engines.ts";
import { assertUsable, visitOf } from "./pod-netns.ts";
import { familiesOf, untilLoopbackUp } from "./pod-routing.ts";
import { PodWriter } from "./pod-writer.ts";
import type { ApplyReport, RedirectionCall, Verification } from "./redirection-call.ts";
import { RedirectionError } from "./redirection-error.ts";
import { routingDrift } from "./routing-drift.ts";
import type { RedirectOptions } from "./rules.ts";
import { ALL_FAMILIES, REDIRECT_TABLES, wantedRedirection } from "./told-redirection.ts";

export interface PodRedirectionOptions extends PodEnginesOptions {
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
}

/** Somebody else may use the rules of an earlier agent again as soon as they are taken away. */
const MAX_ROUNDS = 2;

/** Redirects pods. Calls for different namespaces run in parallel, calls for the same one after each other. */
export class PodRedirection {
  readonly #options: PodRedirectionOptions;
  readonly #pods: PodEngines;
  /** Families that are written at all. */
  readonly #families: readonly Family[];
  /** Handles whose namespace was searched for rules of earlier agents. */
  readonly #searched = new WeakSet<Netns>();
  readonly #writer: PodWriter;

  /** @throws {BackendError} when IPv6 is wanted and its programs are not installed. @throws {RangeError} without host namespaces. */
  constructor(options: PodRedirectionOptions) {
    const { hostNetns, ipv6 } = options;
    this.#options = options;
    // a kernel without IPv6 takes no rules of it, not even where they would be recorded
    this.#families = ipv6 && hasIpv6() ? ALL_FAMILIES : [4];
    const tables = { own: REDIRECT_TABLES, layout: NATIVE_LAYOUT, families: this.#families };
    this.#pods = new PodEngines(options, tables);
    this.#writer = new PodWriter({
      engine: this.#pods.engine,
      hostNetns,
      ipv6,
      families: this.#families,
    });
  }

  /**
   * Does beforehand what the first pod with these options would wait for: some 50 ms.
   * @throws {RedirectionError} NO_KNOWN_BYTES: it is tried again when a pod asks
   */
  async prepare(options: RedirectOptions): Promise<void> {
    await this.#pods.prepare(this.#wanted(options));
  }

  /**
   * Compares what is there with what should be; writes nothing.
   * @throws {RedirectionError} @throws {ToolError} and NetlinkError, NativeError when it cannot be read
   */
  verify(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<Verification> {
    return this.#pods.inTurn(netns, call, (each) => this.#verify(each, options));
  }

  /**
   * The rules as they stand in both families, with what the kernel counted on them, named as the engine names them; writes nothing.
   * @param options undefined for a pod that should have none: what is there of our chains, without findings
   * @throws as {@link verify}
   */
  rules(netns: Netns, options: RedirectOptions | undefined, call: RedirectionCall = {}): Promise<RuleState> {
    return this.#pods.inTurn(netns, call, (each) => this.#rules(each, options));
  }

  /**
   * Brings rules, ip rule and route about and verifies them; writes nothing where they are right already.
   * @throws {RedirectOptionsError} before anything is written
   * @throws {RedirectionError} HOST_NETNS, NETNS_CLOSED, NOT_CONVERGED and those of the engine
   * @throws {ToolError} when a program is missing, fails or does not end; NetlinkError when the kernel refuses the routing
   */
  apply(netns: Netns, options: RedirectOptions, call: RedirectionCall = {}): Promise<ApplyReport> {
    return this.#pods.inTurn(netns, call, (each) => this.#apply(each, options));
  }

  /**
   * Stops the redirection of new connections and leaves everything else: connections that are open stay translated until
   * {@link remove}, which belongs after a moment in which ztunnel can end them. Both families and all engines, whatever the
   * settings are now; absence is success. {@link apply} puts back what was taken.
   * @throws as {@link apply}
   */
  open(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#pods.inTurn(netns, call, (each) => this.#open(each));
  }

  /**
   * Removes everything of ours, in both families and of all engines, whatever the settings are now; absence is success.
   * @throws as {@link apply}
   */
  remove(netns: Netns, call: RedirectionCall = {}): Promise<{ changed: boolean }> {
    return this.#pods.inTurn(netns, call, (each) => this.#remove(each));
  }

  /**
   * Waits until the loopback device of a new namespace is up, which a runtime may see to beside our ADD. Calls of {@link apply} go on meanwhile.
   * @throws NetlinkError ENETDOWN after 5 s; {@link RedirectionError} HOST_NETNS, NETNS_CLOSED
   */
  async untilUp(netns: Netns): Promise<void> {
    await untilLoopbackUp(visitOf({ netns, isUrgent: true }, this.#options.hostNetns));
  }

  /** Has the next {@link apply} look for rules of other agents again. */
  searchAgain(netns: Netns): void {
    this.#searched.delete(netns);
  }

  async #verify(call: NetnsCall, options: RedirectOptions): Promise<Verification> {
    assertUsable(call, this.#options.hostNetns);
    const { netns } = call;
    const visit = visitOf(call, this.#options.hostNetns);
    // one look for all families: which of them the namespace can have is told by the other
    const [look, rules] = await allDone([
      lookAtRouting(visit, { v6: this.#options.ipv6 }),
      this.#pods.engine.verify({ ...call, visit }, this.#wanted(options)),
    ]);
    const { state: routing } = look;
    const { families, skippedFamilies } = await familiesOf(netns, { routing, ipv6: this.#options.ipv6 });
    const findings = rules.findings.filter(({ family }) => families.includes(family));
    const drift = [...routingDrift(routing, look), ...findings];
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
    if (options === undefined) return { findings: [], chains: await this.#pods.engine.present(call) };
    return await this.#pods.engine.verify(call, this.#wanted(options));
  }

  async #apply(call: NetnsCall & RedirectionCall, options: RedirectOptions): Promise<ApplyReport> {
    const startMs = performance.now();
    assertUsable(call, this.#options.hostNetns);
    const { netns, isNew = false, isUntouched = false } = call;
    this.#pods.assertPossible(this.#wanted(options));
    const urgent = { ...call, isUrgent: isNew };
    const visiting = { ...urgent, visit: visitOf(urgent, this.#options.hostNetns) };
    const [{ before, skippedFamilies, rules }, earlier] = await allDone([
      isNew || isUntouched
        ? this.#writer.first(visiting, options, { isRunning: !isNew })
        : this.#writer.again(visiting, options),
      isNew || isUntouched || this.#searched.has(netns)
        ? Promise.resolve(NOT_LOOKED)
        : this.#pods.earlier.look(visiting),
    ]);
    // Only now: until our rules stand, the earlier ones keep the pod in the mesh.
    const leftovers = await this.#removeEarlier(call, earlier);
    const { generation } = rules.before;
    const repaired = [...routingDrift(before.state, before), ...rules.before.findings, ...leftovers.drift];
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

  /** What cannot be removed is looked for again. */
  async #removeEarlier(call: NetnsCall, look: EarlierLook): Promise<Leftovers> {
    const cleared = await this.#pods.earlier.clear(call, look);
    if (cleared.fault === undefined) this.#searched.add(call.netns);
    return cleared;
  }

  async #open(call: NetnsCall): Promise<{ changed: boolean }> {
    assertUsable(call, this.#options.hostNetns);
    const [ownCount, { suspects, fault }] = await allDone([
      this.#pods.engine.open(call, "nat"),
      this.#pods.earlier.look(call),
    ]);
    let earlierCount = 0;
    for (let round = 0; ; round++) {
      const count = await this.#pods.earlier.open(call, suspects);
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
      this.#pods.engine.remove(call),
      this.#pods.earlier.look(call),
    ]);
    const leftovers = await this.#pods.earlier.remove(call, suspects);
    const hadRouting = hasRouting(await readRedirectRouting(netns.fd, { v6: true }));
    assertUsable(call, this.#options.hostNetns);
    await removeRedirectRouting(netns.fd);
    // last: what is ours by this engine is gone, whatever another one keeps
    if (fault !== undefined) throw fault;
    return { changed: hadRouting || removedCount > 0 || leftovers.writes > 0 };
  }

  #wanted(options: RedirectOptions) {
    return wantedRedirection(options, { families: this.#families, known: this.#families });
  }
}
