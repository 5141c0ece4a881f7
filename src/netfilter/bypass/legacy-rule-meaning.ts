// SPDX-License-Identifier: Apache-2.0
// What a rule of iptables-legacy means, out of the kernel's own bytes. Pure. Every architecture we build for is little-endian.
import { viewOf } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import {
  CHAIN_NAME_BYTES,
  ENTRY,
  entriesIn,
  fieldText,
  HOOKS,
  INFO,
  isErrorTarget,
  TARGET,
} from "../legacy/xtables-entry.ts";
import type { ChainSource } from "./bypass-walk.ts";
import { PacketGuard, type PacketHook, type RuleMeaning } from "./foreign-rule.ts";
import { isLoopback, takeXtUdp } from "./nft-values.ts";
import { type Effect, effectOfTarget } from "./xt-targets.ts";

/**
 * What a rule asks of a packet's header, as offsets in struct ipt_entry and struct ip6t_entry.
 * Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h.
 */
const HEADER = {
  4: {
    ...{ to: 4, toMask: 12, address: 4, iniface: 16, outiface: 32, inMask: 48, outMask: 64 },
    ...{ protocol: 80, flags: 82, inverted: 83, isGoto: 2 },
  },
  6: {
    ...{ to: 16, toMask: 48, address: 16, iniface: 64, outiface: 80, inMask: 96, outMask: 112 },
    ...{ protocol: 128, flags: 131, inverted: 132, isGoto: 4 },
  },
} as const;
const INVERTED = { in: 1, out: 2, to: 0x10, protocol: 0x40 } as const;
const INTERFACE_SIZE = 16;
/** A verdict is `-verdict - 1`. Source: linux/netfilter/x_tables.h, XT_RETURN. */
const VERDICT_EFFECTS: ReadonlyMap<number, Effect> = new Map([
  [-2, { does: "accept" }],
  [-4, { does: "queue" }],
  [-5, { does: "return" }],
]);

/** A rule, or what stands before or behind the rules of a chain. */
export interface LegacyEntry {
  /** Position among the entries, which is how jumps name it. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly targetAt: number;
}

type HookName = (typeof HOOKS)[number];

/** A table as the kernel answers. Chains are named by where they begin, as jumps do. */
export class LegacyTable implements ChainSource {
  readonly family: Family;
  readonly entries: readonly LegacyEntry[];
  readonly #info: DataView;
  readonly #indices: ReadonlyMap<number, number>;

  private constructor(info: DataView, entries: readonly LegacyEntry[], family: Family) {
    this.family = family;
    this.entries = entries;
    this.#info = info;
    this.#indices = new Map(entries.map(({ offset }, index) => [offset, index]));
  }

  /** @returns undefined for bytes that are no such table */
  static parse(bytes: Uint8Array, family: Family): LegacyTable | undefined {
    if (bytes.length < INFO.size) return undefined;
    const info = viewOf(bytes);
    const found = [...entriesIn(bytes, family)];
    const isWhole = (found.at(-1)?.end ?? INFO.size) === bytes.length;
    if (!isWhole || info.getUint32(INFO.entriesSize, true) !== bytes.length - INFO.size) return undefined;
    const entries = found.map(({ at, targetAt, end }) => ({
      offset: at - INFO.size,
      bytes: bytes.subarray(at, end),
      targetAt: targetAt - at,
    }));
    return new LegacyTable(info, entries, family);
  }

  /** Offset of a built-in chain's first rule, or of its policy. */
  hookStart(chain: HookName): number | undefined {
    return this.#hookField(INFO.hookEntry, chain);
  }

  /** Offset of the first rule of a chain with this name. */
  chainStart(name: string): number[] {
    const head = this.entries.findIndex((entry) => chainNameOf(entry) === name);
    const first = head < 0 ? undefined : this.entries[head + 1];
    return first === undefined ? [] : [first.offset];
  }

  async rules(key: string, hook: PacketHook): Promise<{ rules: Iterable<RuleMeaning>; isComplete: boolean }> {
    return { rules: this.#meanings(Number(key), hook), isComplete: true };
  }

  /** Nothing here leads anywhere but where it says. */
  siblings(): readonly string[] {
    return [];
  }

  /** Empty where no chain begins. */
  nameOf(key: string): string {
    const head = this.entries[this.#indexAt(Number(key)) - 1];
    return (head && chainNameOf(head)) ?? "";
  }

  /** To the end of the chain: to the next one's name, or to the policy, which is no rule, and behind which another one begins. */
  *#meanings(start: number, hook: PacketHook): Iterable<RuleMeaning> {
    for (let index = this.#indexAt(start); index < this.entries.length; index++) {
      const entry = this.entries[index];
      const isPolicy = HOOKS.some((chain) => this.#hookField(INFO.underflow, chain) === entry?.offset);
      if (entry === undefined || isPolicy || chainNameOf(entry) !== undefined) return;
      yield meaningOfLegacyRule(entry, { family: this.family, hook });
    }
  }

  #indexAt(offset: number): number {
    return this.#indices.get(offset) ?? this.entries.length;
  }

  #hookField(field: number, chain: HookName): number | undefined {
    const hook = HOOKS.indexOf(chain);
    const isValid = (this.#info.getUint32(INFO.validHooks, true) & (1 << hook)) !== 0;
    return isValid ? this.#info.getUint32(field + 4 * hook, true) : undefined;
  }
}

/** Name of the chain that begins behind this entry; undefined for a rule. */
function chainNameOf({ bytes, targetAt }: LegacyEntry): string | undefined {
  return isErrorTarget(bytes, targetAt)
    ? fieldText(bytes, targetAt + TARGET.data, CHAIN_NAME_BYTES)
    : undefined;
}

/** What a rule means. Chains that it leads into are named by the offset of their first rule. */
export function meaningOfLegacyRule(
  { bytes, offset, targetAt }: LegacyEntry,
  { family, hook }: { readonly family: Family; readonly hook: PacketHook },
): RuleMeaning {
  const header = HEADER[family];
  const guard = guardOf({ bytes, offset, targetAt }, { family, hook });
  // whatever the rule compares comes before its matches; an empty comparison and no match: it sees every packet
  const isUnconditional =
    targetAt === ENTRY[family].size && bytes.subarray(0, header.flags).every((byte) => byte === 0);
  const nothing = { effects: [], leads: [], isGoto: false, leadsAnywhere: false, isUnconditional };
  if (guard.isHarmless) return nothing;
  const name = fieldText(bytes, targetAt + TARGET.name, TARGET.nameSize);
  const data = bytes.subarray(targetAt + TARGET.data);
  if (name !== "") {
    const effect = effectOfTarget({
      name,
      revision: bytes[targetAt + TARGET.revision] as number,
      info: data,
    });
    return effect === undefined ? nothing : { ...nothing, effects: [effect] };
  }
  const verdict = data.length < 4 ? 0 : viewOf(data).getInt32(0, true);
  const effect = VERDICT_EFFECTS.get(verdict);
  // one that leads to the next rule is none
  const isJump = verdict >= 0 && verdict !== offset + bytes.length;
  return {
    ...nothing,
    effects: effect === undefined ? [] : [effect],
    leads: isJump ? [String(verdict)] : [],
    isGoto: isJump && ((bytes[header.flags] as number) & header.isGoto) !== 0,
  };
}

function guardOf(
  { bytes, targetAt }: LegacyEntry,
  { family, hook }: { readonly family: Family; readonly hook: PacketHook },
): PacketGuard {
  const header = HEADER[family];
  const guard = new PacketGuard(hook);
  const inverted = bytes[header.inverted] as number;
  const protocol = viewOf(bytes).getUint16(header.protocol, true);
  if (protocol !== 0) guard.protocol(protocol, (inverted & INVERTED.protocol) !== 0);
  const isLo = (name: number, mask: number) =>
    fieldText(bytes, name, INTERFACE_SIZE) === "lo" && bytes[mask + 2] === 0xff;
  if ((inverted & INVERTED.in) === 0 && isLo(header.iniface, header.inMask)) guard.loopback();
  if ((inverted & INVERTED.out) === 0 && isLo(header.outiface, header.outMask)) guard.loopback();
  const [to, toMask] = [header.to, header.toMask].map((at) => bytes.subarray(at, at + header.address)) as [
    Uint8Array,
    Uint8Array,
  ];
  if ((inverted & INVERTED.to) === 0 && isLoopback(family, to, toMask)) guard.loopback();
  for (let at: number = ENTRY[family].size; at + TARGET.data <= targetAt; ) {
    const size = viewOf(bytes).getUint16(at, true);
    if (size < TARGET.data || at + size > targetAt) break;
    if (fieldText(bytes, at + TARGET.name, TARGET.nameSize) === "udp")
      takeXtUdp(guard, bytes.subarray(at + TARGET.data, at + size));
    at += size;
  }
  return guard;
}
