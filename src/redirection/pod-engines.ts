// SPDX-License-Identifier: Apache-2.0
// The engine that pods get their rules by, and those that earlier agents may have used.
import type { Family } from "../netfilter/family.ts";
import { NftEngine } from "../netfilter/nft-engine.ts";
import type { NetnsCall, RuleEngine } from "../netfilter/rule-engine.ts";
import { TablesProgram } from "../netfilter/tables-program.ts";
import { BackendError, type RedirectBackend } from "../netfilter/variant.ts";
import { REDIRECT_TABLES } from "./told-redirection.ts";

export interface PodEnginesOptions {
  /** Families that are written at all. */
  readonly families: readonly Family[];
  readonly timeoutMs: number;
  /** Throws where a namespace must not be looked at or written, or its handle is no longer its own. */
  readonly assertUsable: (call: NetnsCall) => void;
}

/** The one in use, and those of which leftovers are removed. */
export interface PodEngines {
  readonly engine: RuleEngine;
  readonly others: readonly RuleEngine[];
}

/** @throws {BackendError} when IPv6 is wanted and its programs are not installed */
export function podEngines(backend: RedirectBackend, options: PodEnginesOptions): PodEngines {
  const { variant, tools, runner } = backend;
  const { families, timeoutMs, assertUsable } = options;
  if (families.includes(6) && tools[6] === undefined) {
    throw new BackendError(
      `Cannot redirect IPv6: ip6tables of variant "${variant}" is not in PATH; ` +
        "use an agent image that holds it, or set AMBIENT_IPV6=false",
    );
  }
  const program = new TablesProgram(tools, {
    runner,
    timeoutMs,
    assertUsable: (netns) => assertUsable({ netns }),
  });
  const nft = new NftEngine({ own: REDIRECT_TABLES, families, program, assertUsable, timeoutMs });
  return { engine: nft, others: [] };
}
