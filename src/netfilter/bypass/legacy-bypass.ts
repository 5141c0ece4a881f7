// SPDX-License-Identifier: Apache-2.0
// The built-in chains of iptables-legacy that a pod's packets pass before they are translated, out of the kernel's own answer.
import { NativeError } from "../../linux/native.ts";
import { existingXtablesInNetns, type XtablesName } from "../../linux/xtables-netns.ts";
import { allDone } from "../../loop/all-done.ts";
import type { Family } from "../family.ts";
import { INFO } from "../legacy/xtables-entry.ts";
import type { Position } from "./bypass-judgement.ts";
import type { ChainSource, OwnPlaces, RootChain } from "./bypass-walk.ts";
import { LegacyTable } from "./legacy-rule-meaning.ts";

/** Tables whose rules come before those in nat, or are in it. Source: net/ipv4/netfilter/iptable_*.c, their priorities. */
const POSITIONS: Readonly<Record<string, ReadonlySet<Position>>> = {
  raw: new Set<Position>(["hook", "tracking"]),
  mangle: new Set<Position>(["hook"]),
  nat: new Set<Position>(["nat", "hook"]),
};
const HOOKS = [
  ["PREROUTING", "prerouting"],
  ["OUTPUT", "output"],
] as const;
/** Of what is larger no rule is followed, and nothing is read. */
const MAX_TABLE_BYTES = 4 * 1024 * 1024;

/** The built-in chains of one table. */
export interface LegacyRoots {
  readonly roots: readonly RootChain[];
  readonly source: ChainSource;
}

/** @returns tables with their chains; `isComplete` is false when one of them could not be read @throws NativeError EPERM */
export async function legacyRoots(
  netns: { readonly fd: number },
  where: OwnPlaces,
): Promise<{ tables: LegacyRoots[]; isComplete: boolean }> {
  const tables: LegacyRoots[] = [];
  let isComplete = true;
  const families = [...new Set(where.own.map(({ family }) => family))];
  const places = families.flatMap((family) => Object.keys(POSITIONS).map((table) => ({ family, table })));
  for (const [index, bytes] of (await readTables(netns, places)).entries()) {
    const place = places[index];
    if (bytes === undefined || place === undefined) continue;
    const parsed = bytes === "unread" ? undefined : LegacyTable.parse(bytes, place.family);
    if (parsed === undefined) isComplete = false;
    else tables.push(rootsOf({ ...place, parsed }, where));
  }
  return { tables, isComplete };
}

/** Undefined for a table that is not there: looking makes none. */
async function readTables(
  netns: { readonly fd: number },
  places: readonly XtablesName[],
): Promise<(Uint8Array | "unread" | undefined)[]> {
  try {
    const found = await existingXtablesInNetns(netns.fd, places, { maxBytes: MAX_TABLE_BYTES });
    // a table has at least the entry that ends it
    return found.map((bytes) => (bytes?.length === INFO.size ? "unread" : bytes));
  } catch (error) {
    if (!(error instanceof NativeError && (error.code === "EMSGSIZE" || error.code === "EAGAIN")))
      throw error;
    const [only] = places;
    if (places.length === 1 || only === undefined) return ["unread"];
    return (await allDone(places.map((place) => readTables(netns, [place])))).flat();
  }
}

function rootsOf(
  { family, table, parsed }: { family: Family; table: string; parsed: LegacyTable },
  where: OwnPlaces,
): LegacyRoots {
  const before = POSITIONS[table] ?? new Set<Position>();
  const ourTable =
    where.variant === "legacy"
      ? where.own.find((each) => each.family === family && each.table === table)
      : undefined;
  const roots = HOOKS.flatMap(([chain, hook]): RootChain[] => {
    const start = parsed.hookStart(chain);
    if (start === undefined) return [];
    const names = ourTable?.chains.filter((each) => each.hook === chain).map((each) => each.chain) ?? [];
    const ours = new Set(names.flatMap((name) => parsed.chainStart(name) ?? []).map(String));
    const isBase = ours.size > 0 && table !== "raw";
    return [
      {
        family,
        table,
        chain,
        key: String(start),
        hook,
        positions: isBase ? new Set<Position>([...before, "base"]) : before,
        positionsBehind: ours.size > 0 && table === "nat" ? new Set() : before,
        ours,
      },
    ];
  });
  return { roots, source: parsed };
}
