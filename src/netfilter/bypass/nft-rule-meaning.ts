// SPDX-License-Identifier: Apache-2.0
// What a rule of nf_tables means, out of the kernel's own bytes: which packets it sees, and what it can do to them. Pure.
import { decodeAttributes, decodeString, viewOf } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import { DATA, forEachExpression, numberOf, VERDICT } from "../nft/nft-objects.ts";
import type { NftFamily } from "../nft/nft-wire.ts";
import { PacketGuard, type PacketHook, type RuleMeaning } from "./foreign-rule.ts";
import {
  BITWISE,
  CMP,
  CODE,
  CT,
  EFFECT_OF_CODE,
  HEADER,
  IMMEDIATE,
  INERT,
  LOOKUP,
  LOOPBACK_INDEX,
  META,
  META_KEY,
  NAT,
  NFPROTO,
  PAYLOAD,
  READING,
  SIMPLE,
  VERDICT_MASK,
  XT,
} from "./nft-attributes.ts";
import { NftRegisters, type RegisterContent } from "./nft-registers.ts";
import { changeOf, isLoopback, masked, takeXtUdp, writesAddress } from "./nft-values.ts";
import { type Effect, effectOfTarget } from "./xt-targets.ts";

const NO_BYTES = new Uint8Array();

/** @param expressions the kernel's list; @param seen the family and hook of the packets */
export function meaningOfNftRule(
  expressions: Uint8Array,
  seen: { readonly family: NftFamily; readonly hook: PacketHook },
): RuleMeaning {
  const reading = new RuleReading(seen.family, seen.hook);
  forEachExpression(expressions, (name, start, end) => {
    if (!reading.isOver) reading.take(name, decodeAttributes(expressions.subarray(start, end)));
  });
  return reading.meaning;
}

type Attributes = ReadonlyMap<number, Uint8Array>;

/** One rule, expression by expression: what stands before a condition is done without it. */
class RuleReading {
  readonly #guard: PacketGuard;
  readonly #registers = new NftRegisters();
  readonly #effects: Effect[] = [];
  readonly #leads: string[] = [];
  #family: Family | undefined;
  #isGoto = false;
  #leadsAnywhere = false;
  #isUnconditional = true;

  constructor(family: NftFamily, hook: PacketHook) {
    this.#guard = new PacketGuard(hook);
    this.#family = family === 4 || family === 6 ? family : undefined;
  }

  /** What follows is for no packet that matters. */
  get isOver(): boolean {
    return this.#guard.isHarmless;
  }

  get meaning(): RuleMeaning {
    return {
      effects: this.#effects,
      leads: this.#leads,
      isGoto: this.#isGoto,
      leadsAnywhere: this.#leadsAnywhere,
      isUnconditional: this.#isUnconditional,
    };
  }

  take(name: string, attributes: Attributes): void {
    if (name !== "counter" && name !== "last" && name !== "immediate") this.#isUnconditional = false;
    const simple = Object.hasOwn(SIMPLE, name) ? SIMPLE[name] : undefined;
    if (simple !== undefined) this.#effects.push(simple);
    else if (READING.has(name)) this.#registers.clear();
    else if (Object.hasOwn(RuleReading.#followed, name)) RuleReading.#followed[name]?.(this, attributes);
    else if (!INERT.has(name)) {
      this.#registers.clear();
      this.#effects.push({ does: "unknown", what: `expression ${name}` });
    }
  }

  /** Expressions that are followed. */
  static readonly #followed: Readonly<
    Record<string, (reading: RuleReading, attributes: Attributes) => void>
  > = {
    immediate: (reading, attributes) => reading.#immediate(attributes),
    cmp: (reading, attributes) => reading.#compare(attributes),
    meta: (reading, attributes) => reading.#meta(attributes),
    ct: (reading, attributes) => reading.#ct(attributes),
    payload: (reading, attributes) => reading.#payload(attributes),
    bitwise: (reading, attributes) => reading.#bitwise(attributes),
    lookup: (reading, attributes) => reading.#lookup(attributes),
    nat: (reading, attributes) => {
      if (numberAt(attributes, NAT.type) === NAT.destination) reading.#effects.push({ does: "translate" });
    },
    match: (reading, attributes) => reading.#match(attributes),
    target: (reading, attributes) => reading.#target(attributes),
  };

  #immediate(attributes: Attributes): void {
    const data = decodeAttributes(attributes.get(IMMEDIATE.data) ?? NO_BYTES);
    const verdict = data.get(DATA.verdict);
    const bytes = data.get(DATA.value) ?? NO_BYTES;
    if (verdict !== undefined) this.#verdict(decodeAttributes(verdict));
    else
      this.#registers.write(numberAt(attributes, IMMEDIATE.register), bytes.length, {
        is: "constant",
        bytes,
      });
  }

  #verdict(attributes: Attributes): void {
    const code = numberOf(attributes.get(VERDICT.code)) ?? 0;
    if (code === CODE.jump || code === CODE.goto) {
      this.#leads.push(decodeString(attributes.get(VERDICT.chain) ?? NO_BYTES));
      this.#isGoto = code === CODE.goto;
    } else if (code === CODE.return) this.#effects.push({ does: "return" });
    else if (code > 0 || code < CODE.return) {
      const effect = EFFECT_OF_CODE.get(code & VERDICT_MASK);
      if (effect !== undefined) this.#effects.push(effect);
    }
  }

  #compare(attributes: Attributes): void {
    const content = this.#registers.read(numberAt(attributes, CMP.register));
    const op = numberAt(attributes, CMP.op);
    const value = decodeAttributes(attributes.get(CMP.data) ?? NO_BYTES).get(DATA.value);
    if (value === undefined || (op !== CMP.equal && op !== CMP.unequal)) return;
    if (content.is === "meta") this.#compareMeta(content.key, { value, isEqual: op === CMP.equal });
    else if (content.is === "header") this.#compareHeader(content, { value, isEqual: op === CMP.equal });
  }

  #compareMeta(key: number, { value, isEqual }: Compared): void {
    if (key === META_KEY.l4proto && value.length === 1) this.#guard.protocol(value[0] as number, !isEqual);
    if (!isEqual) return;
    if (key === META_KEY.iif || key === META_KEY.oif) {
      if (value.length === 4 && viewOf(value).getUint32(0, true) === LOOPBACK_INDEX) this.#guard.loopback();
    } else if (key === META_KEY.iifname || key === META_KEY.oifname) {
      if (value.length >= 3 && decodeString(value) === "lo") this.#guard.loopback();
    } else if (key === META_KEY.nfproto && value.length === 1) this.#family = NFPROTO.get(value[0] as number);
  }

  #compareHeader(content: RegisterContent & { is: "header" }, { value, isEqual }: Compared): void {
    const { base, offset, mask } = content;
    if (base === PAYLOAD.transport && offset === 2 && value.length === 2 && mask === undefined && isEqual)
      this.#guard.ports(viewOf(value).getUint16(0));
    if (base !== PAYLOAD.network || this.#family === undefined) return;
    const { protocol, destination } = HEADER[this.#family];
    if (offset === protocol && value.length === 1 && mask === undefined)
      this.#guard.protocol(value[0] as number, !isEqual);
    if (offset === destination && isEqual && isLoopback(this.#family, value, mask)) this.#guard.loopback();
  }

  #meta(attributes: Attributes): void {
    const key = numberAt(attributes, META.key);
    const from = attributes.get(META.from);
    if (from === undefined) {
      // how wide it is depends on the key; an interface's name is the widest
      this.#registers.write(numberAt(attributes, META.to), 16, { is: "meta", key });
    } else if (key === META.mark) {
      const change = changeOf(this.#registers.read(numberAt(attributes, META.from)), "packet");
      this.#effects.push({ does: "mark", change });
    }
  }

  #ct(attributes: Attributes): void {
    const key = numberAt(attributes, CT.key);
    if (attributes.get(CT.from) !== undefined) {
      if (key !== CT.mark) return;
      const change = changeOf(this.#registers.read(numberAt(attributes, CT.from)), "connection");
      this.#effects.push({ does: "mark-connection", change });
    } else if (key === CT.mark) {
      const register = numberAt(attributes, CT.to);
      this.#registers.write(register, 4, { is: "mark", of: "connection", mask: -1, xor: 0 });
    } else this.#registers.clear();
  }

  #payload(attributes: Attributes): void {
    const [base, offset, length] = [PAYLOAD.base, PAYLOAD.offset, PAYLOAD.length].map((key) =>
      numberAt(attributes, key),
    ) as [number, number, number];
    if (attributes.get(PAYLOAD.from) === undefined)
      this.#registers.write(numberAt(attributes, PAYLOAD.to), length, { is: "header", base, offset });
    else if (writesAddress(base, { from: offset, to: offset + length }))
      this.#effects.push({ does: "rewrite" });
  }

  #bitwise(attributes: Attributes): void {
    const content = this.#registers.read(numberAt(attributes, BITWISE.from));
    const op = attributes.get(BITWISE.op) === undefined ? BITWISE.boolean : numberAt(attributes, BITWISE.op);
    const [mask, xor] = [BITWISE.mask, BITWISE.xor].map(
      (key) => decodeAttributes(attributes.get(key) ?? NO_BYTES).get(DATA.value) ?? NO_BYTES,
    ) as [Uint8Array, Uint8Array];
    const result = op === BITWISE.boolean ? masked(content, mask, xor) : UNKNOWN;
    this.#registers.write(numberAt(attributes, BITWISE.to), Math.max(mask.length, 4), result);
    if (op !== BITWISE.boolean) this.#registers.clear();
  }

  #lookup(attributes: Attributes): void {
    const to = attributes.get(LOOKUP.to);
    if (to === undefined) return;
    if (numberAt(attributes, LOOKUP.to) === 0) {
      this.#leadsAnywhere = true;
      this.#effects.push({ does: "accept" });
    } else this.#registers.clear();
  }

  #match(attributes: Attributes): void {
    if (decodeString(attributes.get(XT.name) ?? NO_BYTES) !== "udp") return;
    takeXtUdp(this.#guard, attributes.get(XT.info) ?? NO_BYTES);
  }

  #target(attributes: Attributes): void {
    const effect = effectOfTarget({
      name: decodeString(attributes.get(XT.name) ?? NO_BYTES),
      revision: numberAt(attributes, XT.revision),
      info: attributes.get(XT.info) ?? NO_BYTES,
    });
    if (effect !== undefined) this.#effects.push(effect);
  }
}

interface Compared {
  readonly value: Uint8Array;
  readonly isEqual: boolean;
}

const UNKNOWN: RegisterContent = { is: "unknown" };

function numberAt(attributes: Attributes, key: number): number {
  return (numberOf(attributes.get(key)) ?? 0) >>> 0;
}
