// SPDX-License-Identifier: Apache-2.0
// The engine that pods get their rules by, and those that earlier agents may have used.
import type { LockFiles } from "../linux/lock-files.ts";
import type { Family } from "../netfilter/family.ts";
import { LegacyEngine } from "../netfilter/legacy/legacy-engine.ts";
import { NativeEngine } from "../netfilter/native/native-engine.ts";
import type { NativeLayout } from "../netfilter/native/native-layout.ts";
import { NftEngine } from "../netfilter/nft/nft-engine.ts";
import type { NetnsCall, RuleEngine } from "../netfilter/rule-engine.ts";
import { TablesProgram } from "../netfilter/tables-program.ts";
import type { OwnTable } from "../netfilter/told-rules.ts";
import { BackendError, type RedirectBackend, writesIpv6 } from "../netfilter/variant.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";

export interface PodEnginesOptions {
  /** All that can be ours in a pod. */
  readonly own: readonly OwnTable[];
  /** Where it stands natively. */
  readonly layout: NativeLayout;
  /** Families that are written at all. */
  readonly families: readonly Family[];
  readonly timeoutMs: number;
  /** Throws where a namespace must not be looked at or written, or its handle is no longer its own. */
  readonly assertUsable: (call: NetnsCall) => void;
  /** What iptables-legacy locks in place of the machine's file. */
  readonly locks?: LockFiles | undefined;
}

/** The one in use, and those of which leftovers are removed. */
export interface PodEngines {
  readonly engine: RuleEngine;
  readonly others: readonly RuleEngine[];
}

/** @throws {BackendError} when IPv6 is wanted and its programs are not installed */
export function podEngines(backend: RedirectBackend, options: PodEnginesOptions): PodEngines {
  const { variant, installed, runner } = backend;
  const { own, layout, families, timeoutMs, assertUsable, locks } = options;
  if (families.includes(6) && !writesIpv6(backend)) {
    throw new BackendError(
      `Cannot redirect IPv6: ip6tables of variant "${variant}" is not in PATH; ` +
        "use an agent image that holds it, or set AMBIENT_IPV6=false",
    );
  }
  const programOf = (found: VariantTools | undefined) =>
    found &&
    new TablesProgram(found, { runner, timeoutMs, assertUsable: (netns) => assertUsable({ netns }), locks });
  const shared = { own, assertUsable, timeoutMs };
  const engines: Readonly<Record<RuleEngine["variant"], RuleEngine>> = {
    nft: new NftEngine({ ...shared, families, program: programOf(installed.nft) }),
    legacy: new LegacyEngine({ ...shared, program: programOf(installed.legacy) }),
    native: new NativeEngine({ layout, assertUsable }),
  };
  return {
    engine: engines[variant],
    others: Object.values(engines).filter((engine) => engine.variant !== variant),
  };
}
