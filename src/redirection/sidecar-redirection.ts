// SPDX-License-Identifier: Apache-2.0
// Redirection of one pod's namespace to its sidecar: rules, ip rule, route and address, checked and brought about.

import { hasIpv6 } from "../linux/host-netns.ts";
import { type InterfaceAddress, interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import { TPROXY_ROUTE } from "../linux/netlink/routing-messages.ts";
import { isRoutingComplete, nothingFound, readRedirectRouting } from "../linux/netlink/rtnetlink.ts";
import type { Netns } from "../linux/netns.ts";
import type { NetnsVisit } from "../linux/netns-visit.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import type { Finding, NetnsCall } from "../netfilter/rule-engine.ts";
import { writesIpv6 } from "../netfilter/variant.ts";
import { type Leftovers, NOT_LOOKED } from "./earlier-rules.ts";
import { SIDECAR_LAYOUT } from "./native-sidecar.ts";
import { ensurePassthroughAddress, PASSTHROUGH_V6 } from "./passthrough-address.ts";
import { PodEngines, type PodEnginesOptions } from "./pod-engines.ts";
import { visitOf } from "./pod-netns.ts";
import { ensureRouting } from "./pod-routing.ts";
import { RedirectionError } from "./redirection-error.ts";
import type { SidecarOptions } from "./sidecar-options.ts";
import { SIDECAR_TABLES, wantedSidecar } from "./told-sidecar.ts";

/** How a single call is made. */
export interface SidecarCall {
  readonly signal?: AbortSignal;
  /** The runtime made the namespace just now (CNI ADD) and waits. Default false. */
  readonly isNew?: boolean;
}

/** One way in which what is there differs from what should be there. */
export interface SidecarDrift extends Omit<Finding, "kind"> {
  readonly kind: Finding["kind"] | "missing-routing" | "missing-address";
}

/** What bringing a sidecar's redirection about took. */
export interface SidecarReport {
  /** What differed before. Empty: nothing was written. */
  readonly repaired: readonly SidecarDrift[];
  /** Families whose rules stand. */
  readonly families: readonly Family[];
  /** Why iptables-restore wrote the rules, which takes many times longer than the batch that could not be. */
  readonly fallback?: string;
  /** Why rules that an agent of another setting left still stand beside these; it is tried again with the next call. */
  readonly leftoverFault?: string;
}

/** More than pods with a sidecar fit on a node. */
const MAX_SEARCHED = 4096;

/**
 * Redirects pods to their sidecars. Calls for different namespaces run in parallel, calls for the same one after each other. Nothing is
 * taken away but what an agent of another setting wrote by another engine: a pod without its sidecar is another pod, in another namespace.
 */
export class SidecarRedirection {
  readonly #hostNetns: ReadonlySet<string>;
  readonly #pods: PodEngines;
  /** For which rules are recorded. */
  readonly #families: readonly Family[];
  /** `Netns.key` of namespaces that hold nothing of other engines. */
  readonly #searched = new Set<string>();

  /** @throws {RangeError} without host namespaces. */
  constructor(options: PodEnginesOptions) {
    this.#hostNetns = options.hostNetns;
    this.#families = hasIpv6() && writesIpv6(options.backend) ? [4, 6] : [4];
    const tables = { own: SIDECAR_TABLES, layout: SIDECAR_LAYOUT, families: this.#families };
    this.#pods = new PodEngines(options, tables);
  }

  /**
   * Whether rules count by the users of the pod's own user namespace, where it has one: natively they do, and iptables' are refused.
   * Source: linux net/netfilter/nft_meta.c, nft_meta_get_eval_skugid; xt_owner.c, owner_check.
   */
  get takesOwnUsers(): boolean {
    return this.#pods.engine.variant === "native";
  }

  /** Does beforehand what the first pod with these options would wait for. @throws {RedirectionError} NO_KNOWN_BYTES */
  async prepare(options: SidecarOptions): Promise<void> {
    await this.#pods.prepare(this.#wanted(options, this.#families));
  }

  /**
   * Brings everything about that the sidecar needs, and verifies it; writes nothing where it is right already.
   * @throws {SidecarOptionsError} for more than rules can hold, before anything is written
   * @throws {RedirectionError} HOST_NETNS, NETNS_CLOSED, NOT_CONVERGED and those of the engine
   * @throws {ToolError} when a program is missing, fails or does not end; NetlinkError, NativeError when the kernel refuses
   */
  apply(netns: Netns, options: SidecarOptions, call: SidecarCall = {}): Promise<SidecarReport> {
    return this.#pods.inTurn(netns, call, (each) => this.#apply(each, options));
  }

  /** What is not as it should be; writes nothing. @throws as {@link apply}, when it cannot be read */
  verify(netns: Netns, options: SidecarOptions, call: SidecarCall = {}): Promise<readonly SidecarDrift[]> {
    return this.#pods.inTurn(netns, call, (each) => this.#verify(each, options));
  }

  async #apply(call: NetnsCall & SidecarCall, options: SidecarOptions): Promise<SidecarReport> {
    const { netns, isNew = false } = call;
    this.#pods.assertPossible(this.#wanted(options, this.#families));
    const visit = visitOf({ ...call, isUrgent: isNew }, this.#hostNetns);
    const urgent = { ...call, visit, isUrgent: isNew };
    const addresses = await interfaceAddresses(visit);
    const families = this.#familiesOf(addresses, options);
    const isIpv6 = families.includes(6);
    const missing = await this.#missing(visit, { options, addresses, families, isNew });
    const routed = missing.some(({ kind }) => kind === "missing-routing")
      ? ensureRouting(netns, {
          ipv6: isIpv6,
          isNew,
          hostNetns: this.#hostNetns,
          found: isNew ? nothingFound({ v6: isIpv6 }) : undefined,
          at: visit,
          route: TPROXY_ROUTE,
        })
      : Promise.resolve();
    const addressed = missing.some(({ kind }) => kind === "missing-address")
      ? ensurePassthroughAddress(visit, { addresses, isNew })
      : Promise.resolve();
    // what rules lead to stands before them; where nobody runs yet all is written with one visit
    if (!isNew) await allDone([routed, addressed]);
    const [{ before, fallback }] = await allDone([
      this.#pods.engine.apply(urgent, this.#wanted(options, families), { isNew }),
      routed,
      addressed,
    ]);
    // only now: until these rules stand, the earlier ones lead to the proxy
    const { drift, fault } = await this.#removeEarlier(urgent, { isNew });
    return {
      repaired: [...missing, ...before.findings, ...drift],
      families,
      ...(fallback === undefined ? {} : { fallback }),
      ...(fault === undefined ? {} : { leftoverFault: fault }),
    };
  }

  /** Once for each namespace: this agent writes by one engine. */
  async #removeEarlier(call: NetnsCall, { isNew }: { readonly isNew: boolean }): Promise<Leftovers> {
    const { key } = call.netns;
    const isSearched = isNew || this.#searched.has(key);
    const cleared = await this.#pods.earlier.clear(
      call,
      isSearched ? NOT_LOOKED : await this.#pods.earlier.look(call),
    );
    if (cleared.fault !== undefined) return cleared;
    if (this.#searched.size >= MAX_SEARCHED) this.#searched.clear();
    this.#searched.add(key);
    return cleared;
  }

  async #verify(call: NetnsCall, options: SidecarOptions): Promise<readonly SidecarDrift[]> {
    const visit = visitOf(call, this.#hostNetns);
    const addresses = await interfaceAddresses(visit);
    const families = this.#familiesOf(addresses, options);
    const [missing, { findings }] = await allDone([
      this.#missing(visit, { options, addresses, families, isNew: false }),
      this.#pods.engine.verify({ ...call, visit }, this.#wanted(options, families)),
    ]);
    return [...missing, ...findings];
  }

  /** What rules alone do not do. */
  async #missing(
    visit: NetnsVisit,
    about: {
      readonly options: SidecarOptions;
      readonly addresses: readonly InterfaceAddress[];
      readonly families: readonly Family[];
      readonly isNew: boolean;
    },
  ): Promise<SidecarDrift[]> {
    const { options, addresses, families, isNew } = about;
    const v6 = families.includes(6);
    const drift: SidecarDrift[] = [];
    const hasAddress = addresses.some(({ address }) => address === PASSTHROUGH_V6);
    if (v6 && !hasAddress)
      drift.push({
        kind: "missing-address",
        family: 6,
        table: "",
        chain: "",
        detail: `lo has no address ${PASSTHROUGH_V6}`,
      });
    if (options.mode !== "TPROXY") return drift;
    const state = isNew
      ? nothingFound({ v6 }).state
      : await readRedirectRouting(visit, { v6, route: TPROXY_ROUTE });
    if (!isRoutingComplete(state))
      drift.push({
        kind: "missing-routing",
        family: 4,
        table: `${TPROXY_ROUTE.table}`,
        chain: "",
        detail: `no rule fwmark ${TPROXY_ROUTE.mark} lookup ${TPROXY_ROUTE.table}, or no route local default dev lo there`,
      });
    return drift;
  }

  /**
   * A proxy that is not of both families listens on IPv6 only where the pod has no IPv4: what nobody takes must not be led there.
   * Source: istio/istio tools/common/config/config.go, getLocalIP.
   */
  #familiesOf(addresses: readonly InterfaceAddress[], { dualStack }: SidecarOptions): readonly Family[] {
    const own = addresses.filter(({ ifindex, address }) => ifindex !== LO_INDEX && !isLinkLocal(address));
    const has = (family: Family) => own.some((each) => each.family === family);
    if (!has(6) || (has(4) && !dualStack)) return [4];
    if (this.#families.includes(6)) return this.#families;
    throw new RedirectionError(
      "NO_KNOWN_BYTES",
      "Cannot redirect IPv6 to a sidecar: ip6tables of the variant in use is not in PATH; use an agent image that holds it",
    );
  }

  #wanted(options: SidecarOptions, families: readonly Family[]) {
    return wantedSidecar(options, { families, known: this.#families });
  }
}

/** The loopback device is the first of every namespace. */
const LO_INDEX = 1;

function isLinkLocal(address: string): boolean {
  return address.startsWith("169.254.") || /^fe[89ab]/.test(address);
}
