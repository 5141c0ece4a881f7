// SPDX-License-Identifier: Apache-2.0
// The engine that pods get their rules by, those that earlier agents may have used, and how one pod after the other is worked on.
import type { LockFiles } from "../linux/lock-files.ts";
import type { Netns } from "../linux/netns.ts";
import { KeyedMutex } from "../loop/keyed-mutex.ts";
import type { Family } from "../netfilter/family.ts";
import { LegacyEngine } from "../netfilter/legacy/legacy-engine.ts";
import { NativeEngine } from "../netfilter/native/native-engine.ts";
import type { NativeLayout } from "../netfilter/native/native-layout.ts";
import { NftEngine } from "../netfilter/nft/nft-engine.ts";
import type { NetnsCall, RuleEngine, WantedRules } from "../netfilter/rule-engine.ts";
import { TablesProgram } from "../netfilter/tables-program.ts";
import type { OwnTable } from "../netfilter/told-rules.ts";
import { BackendError, type RedirectBackend, writesIpv6 } from "../netfilter/variant.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { EarlierRules } from "./earlier-rules.ts";
import { named } from "./named-faults.ts";
import { assertUsable } from "./pod-netns.ts";

export interface PodEnginesOptions {
  readonly backend: RedirectBackend;
  /** `Netns.key` of every namespace that is never written. */
  readonly hostNetns: ReadonlySet<string>;
  /** For each program run, waiting for its turn included; default 10 s. */
  readonly timeoutMs?: number;
  /** What iptables-legacy locks in place of the machine's file. */
  readonly locks?: LockFiles;
}

/** What is written in a pod. */
export interface PodTables {
  /** All that can be ours. */
  readonly own: readonly OwnTable[];
  /** Where it stands natively. */
  readonly layout: NativeLayout;
  /** Families that are written at all. */
  readonly families: readonly Family[];
}

const DEFAULT_TIMEOUT_MS = 10_000;
/** Options are a pod's to choose: names of its interfaces are among them. */
const MAX_POSSIBLE = 64;

/** Works in pods' namespaces: on different ones in parallel, on the same one after each other. */
export class PodEngines {
  /** The one in use. */
  readonly engine: RuleEngine;
  /** Those of which leftovers are removed. */
  readonly earlier: EarlierRules;
  readonly #queue = new KeyedMutex();
  /** Keys of options that rules can hold. */
  readonly #possible = new Set<string>();

  /** @throws {BackendError} when IPv6 is wanted and its programs are not installed. @throws {RangeError} without host namespaces. */
  constructor(options: PodEnginesOptions, { own, layout, families }: PodTables) {
    const { backend, hostNetns, timeoutMs = DEFAULT_TIMEOUT_MS, locks } = options;
    const { variant, installed, runner } = backend;
    if (hostNetns.size === 0)
      throw new RangeError("Cannot redirect pods: the host's network namespace is not known");
    if (families.includes(6) && !writesIpv6(backend)) {
      throw new BackendError(
        `Cannot redirect IPv6: ip6tables of variant "${variant}" is not in PATH; ` +
          "use an agent image that holds it, or set AMBIENT_IPV6=false",
      );
    }
    const shared = { own, timeoutMs, assertUsable: (call: NetnsCall) => assertUsable(call, hostNetns) };
    const programOf = (tools: VariantTools | undefined) =>
      tools &&
      new TablesProgram(tools, {
        runner,
        timeoutMs,
        assertUsable: (netns) => assertUsable({ netns }, hostNetns),
        locks,
      });
    const engines: Readonly<Record<RuleEngine["variant"], RuleEngine>> = {
      nft: new NftEngine({ ...shared, program: programOf(installed.nft) }),
      legacy: new LegacyEngine({ ...shared, program: programOf(installed.legacy) }),
      native: new NativeEngine({ layout, assertUsable: shared.assertUsable }),
    };
    this.engine = engines[variant];
    this.earlier = new EarlierRules(Object.values(engines).filter((engine) => engine.variant !== variant));
  }

  /** Does beforehand what the first pod with these rules would wait for: some 50 ms. @throws {RedirectionError} NO_KNOWN_BYTES */
  async prepare(wanted: WantedRules): Promise<void> {
    await named({}, () => this.engine.prepare(wanted));
  }

  /** Works in a namespace when earlier work there has ended. @throws as {@link named} */
  inTurn<Call extends Omit<NetnsCall, "netns">, T>(
    netns: Netns,
    call: Call,
    work: (call: NetnsCall & Call) => Promise<T>,
  ): Promise<T> {
    return this.#queue.run(netns.key, () => named(call, () => work({ netns, ...call })));
  }

  /** Before anything is written. @throws what `told` throws for options that no rules can hold */
  assertPossible({ key, told }: Pick<WantedRules, "key" | "told">): void {
    if (this.#possible.has(key)) return;
    // all rules are made for it: as long as a conversation with the kernel takes
    told();
    if (this.#possible.size === MAX_POSSIBLE) this.#possible.clear();
    this.#possible.add(key);
  }
}
