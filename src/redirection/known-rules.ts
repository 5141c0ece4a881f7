// SPDX-License-Identifier: Apache-2.0
// The redirection's rules as the netfilter engine is told them, and how the programs write them for it to record.
import { Netns } from "../linux/netns.ts";
import type { ToolRunner } from "../linux/run-tool.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import { KnownBytes, type ToldRule, type ToldRules } from "../netfilter/known-bytes.ts";
import type { OwnTable } from "../netfilter/own-tables.ts";
import { normaliseRule } from "../netfilter/rule-tokens.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { compareStates, desiredState } from "./fingerprint.ts";
import { NetnsRules } from "./netns-rules.ts";
import { RedirectionError } from "./redirection-error.ts";
import { renderRestoreText } from "./restore-text.ts";
import {
  CHAIN_HOOKS,
  CHAIN_NAMES,
  type RedirectOptions,
  redirectRules,
  redirectTables,
  TABLE_NAMES,
} from "./rules.ts";

/** The rules of a set of options. */
export interface ToldRedirection extends ToldRules {
  readonly options: RedirectOptions;
  readonly families: readonly Family[];
}

const PROTOCOL_NUMBERS: Readonly<Record<string, number>> = { tcp: 6, udp: 17 };

/** All that can be ours in these families, in the order of {@link TABLE_NAMES}. */
export function ownTables(families: readonly Family[]): OwnTable[] {
  const chains = CHAIN_NAMES.map((chain) => ({ chain, hook: CHAIN_HOOKS[chain] }));
  return families.flatMap((family) => TABLE_NAMES.map((table) => ({ family, table, chains })));
}

/** @throws {RedirectOptionsError} as redirectRules does */
export function toldRedirection(options: RedirectOptions, families: readonly Family[]): ToldRedirection {
  const wanted = redirectTables(options);
  return {
    options,
    families,
    own: ownTables(families),
    wanted: families.flatMap((family) => wanted.map((table) => ({ family, table }))),
    rules: families.flatMap((family) =>
      redirectRules(options, family).map(
        ({ table, chain, args }): ToldRule => ({
          family,
          table,
          chain,
          words: normaliseRule(args).tokens.join(" "),
          protocol: protocolOf(args),
        }),
      ),
    ),
  };
}

/** Records what the programs of iptables-nft make of redirections. */
export function knownRedirections(
  tools: VariantTools,
  { runner, timeoutMs }: { readonly runner: ToolRunner; readonly timeoutMs: number },
): KnownBytes<ToldRedirection> {
  const rules = new NetnsRules(tools, { runner, hostNetns: new Set(), timeoutMs });
  return new KnownBytes({
    makeNetns: () => Netns.makeTemporary(),
    write: async (netns, { options, families }) => {
      await allDone(
        families.map(async (family) => {
          await rules.restore({ netns }, { family, text: renderRestoreText(options, family) });
          const [first] = compareStates(
            await rules.read({ netns }, family),
            desiredState(options, family),
            family,
          );
          if (first === undefined) return;
          throw new RedirectionError(
            "NOT_CONVERGED",
            `${tools[family]?.save} shows other rules of IPv${family} than ${tools[family]?.restore} was told: ${first.detail}`,
          );
        }),
      );
    },
  });
}

function protocolOf(args: readonly string[]): ToldRule["protocol"] {
  const at = args.indexOf("-p");
  if (at < 0) return undefined;
  const name = args[at + 1] ?? "";
  const protocol = PROTOCOL_NUMBERS[name];
  if (protocol === undefined)
    throw new RangeError(`Cannot tell the kernel of protocol "${name}": its number is not known`);
  return { protocol, inverted: args[at - 1] === "!" };
}
