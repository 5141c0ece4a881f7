// SPDX-License-Identifier: Apache-2.0
// What a rule of iptables-legacy means, out of the kernel's own bytes. Pure. Every architecture we build for is little-endian.
import { viewOf } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import { PacketGuard, type PacketHook, type RuleMeaning } from "./foreign-rule.ts";
import { isLoopback, takeXtUdp } from "./nft-values.ts";
import { type Effect, effectOfTarget } from "./xt-targets.ts";

/** struct ipt_getinfo: name, u32 valid_hooks, u32 hook_entry[5], u32 underflow[5], u32 num_entries, u32 size. */
const INFO = { validHooks: 32, hookEntry: 36, underflow: 56, entriesSize: 80, size: 84 } as const;
/** Source: linux/netfilter.h, enum nf_inet_hooks. */
const HOOKS: Readonly<Record<string, number>> = { PREROUTING: 0, OUTPUT: 3 };

/** Offsets in struct ipt_entry and struct ip6t_entry. Source: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h. */
const ENTRY = {
  4: {
    ...{ to: 4, toMask: 12, address: 4, iniface: 16, outiface: 32, inMask: 48, outMask: 64 },
    ...{ protocol: 80, flags: 82, inverted: 83, isGoto: 2, targetOffset: 88, size: 112 },
  },
  6: {
    ...{ to: 16, toMask: 48, address: 16, iniface: 64, outiface: 80, inMask: 96, outMask: 112 },
    ...{ protocol: 128, flags: 131, inverted: 132, isGoto: 4, targetOffset: 140, size: 168 },
  },
} as const;
const INVERTED = { in: 1, out: 2, to: 0x10, protocol: 0x40 } as const;
/** struct xt_entry_match and xt_entry_target: u16 size, name, u8 revision; then their data. Source: linux/netfilter/x_tables.h. */
const EXTENSION = { name: 2, nameSize: 29, revision: 31, data: 32 } as const;
const CHAIN_NAME_SIZE = 30;
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

/** A table as the kernel answers. */
export class LegacyTable {
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
    const body = bytes.subarray(INFO.size);
    if (info.getUint32(INFO.entriesSize, true) !== body.length) return undefined;
    const entries = readEntries(body, family);
    return entries === undefined ? undefined : new LegacyTable(info, entries, family);
  }

  /** Offset of a built-in chain's first rule, or of its policy. */
  hookStart(chain: string): number | undefined {
    const hook = HOOKS[chain];
    if (hook === undefined || (this.#info.getUint32(INFO.validHooks, true) & (1 << hook)) === 0)
      return undefined;
    return this.#info.getUint32(INFO.hookEntry + 4 * hook, true);
  }

  /** Whether a built-in chain's policy is there, which is no rule. */
  isPolicy(offset: number): boolean {
    return Object.values(HOOKS).some(
      (hook) => this.#info.getUint32(INFO.underflow + 4 * hook, true) === offset && this.#isHook(hook),
    );
  }

  /** Offset of the first rule of a chain with this name. */
  chainStart(name: string): number[] {
    const head = this.entries.findIndex((entry) => chainNameOf(entry) === name);
    const first = head < 0 ? undefined : this.entries[head + 1];
    return first === undefined ? [] : [first.offset];
  }

  /** Name of the chain that begins there; empty when none does. */
  nameAt(offset: number): string {
    const head = this.entries[this.indexAt(offset) - 1];
    return (head && chainNameOf(head)) ?? "";
  }

  indexAt(offset: number): number {
    return this.#indices.get(offset) ?? this.entries.length;
  }

  #isHook(hook: number): boolean {
    return (this.#info.getUint32(INFO.validHooks, true) & (1 << hook)) !== 0;
  }
}

/** Name of the chain that begins behind this entry; undefined for a rule. */
export function chainNameOf({ bytes, targetAt }: LegacyEntry): string | undefined {
  if (textAt(bytes, targetAt + EXTENSION.name, EXTENSION.nameSize) !== "ERROR") return undefined;
  return textAt(bytes, targetAt + EXTENSION.data, CHAIN_NAME_SIZE);
}

/** Whether an entry is a built-in chain's policy, behind which another chain begins. */
export function isEndOfChain(table: LegacyTable, { offset }: LegacyEntry): boolean {
  return table.isPolicy(offset);
}

/** What a rule means. Chains that it leads into are named by the offset of their first rule. */
export function meaningOfLegacyRule(
  { bytes, offset, targetAt }: LegacyEntry,
  { family, hook }: { readonly family: Family; readonly hook: PacketHook },
): RuleMeaning {
  const layout = ENTRY[family];
  const guard = guardOf({ bytes, offset, targetAt }, { family, hook });
  // whatever the rule compares comes before its matches; an empty comparison and no match: it sees every packet
  const isUnconditional =
    targetAt === layout.size && bytes.subarray(0, layout.flags).every((byte) => byte === 0);
  const nothing = { effects: [], leads: [], isGoto: false, leadsAnywhere: false, isUnconditional };
  if (guard.isHarmless) return nothing;
  const name = textAt(bytes, targetAt + EXTENSION.name, EXTENSION.nameSize);
  const data = bytes.subarray(targetAt + EXTENSION.data);
  if (name !== "") {
    const effect = effectOfTarget({
      name,
      revision: bytes[targetAt + EXTENSION.revision] as number,
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
    isGoto: isJump && ((bytes[layout.flags] as number) & layout.isGoto) !== 0,
  };
}

function guardOf(
  { bytes, targetAt }: LegacyEntry,
  { family, hook }: { readonly family: Family; readonly hook: PacketHook },
): PacketGuard {
  const layout = ENTRY[family];
  const guard = new PacketGuard(hook);
  const inverted = bytes[layout.inverted] as number;
  const protocol = viewOf(bytes).getUint16(layout.protocol, true);
  if (protocol !== 0) guard.protocol(protocol, (inverted & INVERTED.protocol) !== 0);
  const isLo = (name: number, mask: number) =>
    textAt(bytes, name, INTERFACE_SIZE) === "lo" && bytes[mask + 2] === 0xff;
  if ((inverted & INVERTED.in) === 0 && isLo(layout.iniface, layout.inMask)) guard.loopback();
  if ((inverted & INVERTED.out) === 0 && isLo(layout.outiface, layout.outMask)) guard.loopback();
  const [to, toMask] = [layout.to, layout.toMask].map((at) => bytes.subarray(at, at + layout.address)) as [
    Uint8Array,
    Uint8Array,
  ];
  if ((inverted & INVERTED.to) === 0 && isLoopback(family === 4 ? "ip" : "ip6", to, toMask)) guard.loopback();
  for (let at: number = layout.size; at + EXTENSION.data <= targetAt; ) {
    const size = viewOf(bytes).getUint16(at, true);
    if (size < EXTENSION.data || at + size > targetAt) break;
    if (textAt(bytes, at + EXTENSION.name, EXTENSION.nameSize) === "udp")
      takeXtUdp(guard, bytes.subarray(at + EXTENSION.data, at + size));
    at += size;
  }
  return guard;
}

function readEntries(body: Uint8Array, family: Family): LegacyEntry[] | undefined {
  const { size: least, targetOffset } = ENTRY[family];
  const view = viewOf(body);
  const entries: LegacyEntry[] = [];
  for (let offset = 0; offset < body.length; ) {
    if (offset + least > body.length) return undefined;
    const targetAt = view.getUint16(offset + targetOffset, true);
    const size = view.getUint16(offset + targetOffset + 2, true);
    const isWhole = targetAt >= least && targetAt + EXTENSION.data <= size && offset + size <= body.length;
    if (!isWhole) return undefined;
    entries.push({ offset, bytes: body.subarray(offset, offset + size), targetAt });
    offset += size;
  }
  return entries;
}

function textAt(bytes: Uint8Array, start: number, maxBytes: number): string {
  const field = bytes.subarray(start, start + maxBytes);
  const end = field.indexOf(0);
  return Buffer.from(field.subarray(0, end < 0 ? field.length : end)).toString("latin1");
}
