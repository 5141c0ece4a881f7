// SPDX-License-Identifier: Apache-2.0
// Expressions of nf_tables as bytes, each with its attributes as the kernel lists them. Source: linux/netfilter/nf_tables.h.
import { concatBytes, decodeAttributes, encodeAttribute } from "../../linux/netlink/message.ts";
import { DATA, EXPRESSION, forEachExpression, STATEFUL, VERDICT } from "../nft/nft-objects.ts";
import { number, name as text } from "../nft/nft-wire.ts";

const LIST_ELEMENT = 1;
const REGISTER = { verdict: 0, first: 1 } as const;
/** Source: enum nft_verdicts; linux/netfilter.h, NF_ACCEPT. */
const VERDICT_CODE = { drop: 0, accept: 1, jump: -3, return: -5 } as const;
const META_KEY = {
  mark: 3,
  iifname: 6,
  oifname: 7,
  skuid: 10,
  skgid: 11,
  nfproto: 15,
  l4proto: 16,
} as const;
const CT_KEY = { state: 0, mark: 3, zone: 17 } as const;
const BASE = { network: 1, transport: 2 } as const;
const COMPARISON = { equal: 0, notEqual: 1, notLess: 5 } as const;
/** Source: linux/netfilter/nf_nat.h, NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED; enum nft_nat_types. */
const NAT = { mapsAddress: 1, mapsPort: 2, source: 0 } as const;

export type MetaKey = keyof typeof META_KEY;
export type CtKey = keyof typeof CT_KEY;

/** Puts a property of the packet into the register. */
export function loadMeta(key: MetaKey): Uint8Array {
  return expression("meta", number(2, META_KEY[key]), number(1, REGISTER.first));
}

/** Sets a property of the packet to what the register holds. */
export function setMeta(key: MetaKey): Uint8Array {
  return expression("meta", number(2, META_KEY[key]), number(3, REGISTER.first));
}

/** Puts a property of the packet's connection into the register. */
export function loadCt(key: CtKey): Uint8Array {
  return expression("ct", number(1, REGISTER.first), number(2, CT_KEY[key]));
}

/** Sets a property of the packet's connection to what the register holds. */
export function setCt(key: CtKey): Uint8Array {
  return expression("ct", number(4, REGISTER.first), number(2, CT_KEY[key]));
}

/** Puts bytes of a header into the register. */
export function loadPayload(
  base: keyof typeof BASE,
  { offset, length }: { readonly offset: number; readonly length: number },
): Uint8Array {
  return expression(
    "payload",
    number(1, REGISTER.first),
    number(2, BASE[base]),
    number(3, offset),
    number(4, length),
  );
}

/** Goes on only if the register compares so; numbers in `value` are in the order in which they are loaded. */
export function compare(how: keyof typeof COMPARISON, value: Uint8Array): Uint8Array {
  return expression("cmp", number(1, REGISTER.first), number(2, COMPARISON[how]), data(3, value));
}

/** The register becomes `(register & mask) ^ xor`. */
export function bitwise(mask: Uint8Array, xor: Uint8Array): Uint8Array {
  return expression(
    "bitwise",
    number(1, REGISTER.first),
    number(2, REGISTER.first),
    number(3, mask.length),
    number(6, 0),
    data(4, mask),
    data(5, xor),
  );
}

/** The four bytes in the register change from host to network order. */
export function toNetworkOrder(): Uint8Array {
  const [operation, length, size] = [1, 4, 4];
  return expression(
    "byteorder",
    number(1, REGISTER.first),
    number(2, REGISTER.first),
    number(3, operation),
    number(4, length),
    number(5, size),
  );
}

/** Goes on only if a set of the table holds what is in the register. */
export function lookup(set: string): Uint8Array {
  return expression("lookup", text(1, set), number(2, REGISTER.first), number(5, 0));
}

/** Counts what comes this far. */
export function counter(): Uint8Array {
  return expression("counter", encodeAttribute(1, new Uint8Array(8)), encodeAttribute(2, new Uint8Array(8)));
}

/** Puts a value into the register. */
export function immediate(value: Uint8Array): Uint8Array {
  return expression("immediate", number(1, REGISTER.first), data(2, value));
}

/** Ends the rule with a verdict. */
export function verdict(code: "accept" | "drop" | "return"): Uint8Array {
  return expression(
    "immediate",
    number(1, REGISTER.verdict),
    encodeAttribute(2, encodeAttribute(DATA.verdict, number(VERDICT.code, VERDICT_CODE[code]))),
  );
}

/** Ends the rule in another chain of the table. */
export function jump(chain: string): Uint8Array {
  const nested = concatBytes(number(VERDICT.code, VERDICT_CODE.jump), text(VERDICT.chain, chain));
  return expression(
    "immediate",
    number(1, REGISTER.verdict),
    encodeAttribute(2, encodeAttribute(DATA.verdict, nested)),
  );
}

/** Sends the connection to the port in the register, on this machine. */
export function redirect(): Uint8Array {
  return expression("redir", number(1, REGISTER.first), number(2, REGISTER.first), number(3, NAT.mapsPort));
}

/**
 * Gives the packet to the transparent socket on the port in the register, or ends the rule.
 * @param protocolFamily NFPROTO_IPV4 or NFPROTO_IPV6
 */
export function transparentProxy(protocolFamily: number): Uint8Array {
  return expression("tproxy", number(1, protocolFamily), number(3, REGISTER.first));
}

/** Gives the connection the source address in the register. @param protocolFamily NFPROTO_IPV4 or NFPROTO_IPV6 */
export function sourceNat(protocolFamily: number): Uint8Array {
  return expression(
    "nat",
    number(1, NAT.source),
    number(2, protocolFamily),
    number(3, REGISTER.first),
    number(4, REGISTER.first),
    number(7, NAT.mapsAddress),
  );
}

/**
 * Whether two lists of expressions do the same. Kernels differ in what they add to what they were told, and in what they know of it:
 * an attribute that one has and the other has not counts where any of its bytes is not zero.
 */
export function sameExpressions(a: Uint8Array, b: Uint8Array): boolean {
  if (Buffer.compare(a, b) === 0) return true;
  const [left, right] = [listOf(a), listOf(b)];
  return (
    left.length === right.length &&
    left.every((one, index) => {
      const other = right[index];
      if (other === undefined || one.name !== other.name) return false;
      return STATEFUL.has(one.name) || sameAttributes(one.data, other.data);
    })
  );
}

function listOf(bytes: Uint8Array): { name: string; data: Uint8Array }[] {
  const list: { name: string; data: Uint8Array }[] = [];
  forEachExpression(bytes, (name, start, end) => list.push({ name, data: bytes.subarray(start, end) }));
  return list;
}

/** In any order; values are compared as a whole, nested ones too, for which no kernel adds anything. */
function sameAttributes(a: Uint8Array, b: Uint8Array): boolean {
  const [left, right] = [decodeAttributes(a), decodeAttributes(b)];
  for (const type of new Set([...left.keys(), ...right.keys()])) {
    const [one, other] = [left.get(type), right.get(type)];
    const isSame =
      one !== undefined && other !== undefined
        ? Buffer.compare(one, other) === 0
        : (one ?? other)?.every((byte) => byte === 0) === true;
    if (!isSame) return false;
  }
  return true;
}

function expression(name: string, ...attributes: readonly Uint8Array[]): Uint8Array {
  const body = concatBytes(
    text(EXPRESSION.name, name),
    encodeAttribute(EXPRESSION.data, concatBytes(...attributes)),
  );
  return encodeAttribute(LIST_ELEMENT, body);
}

function data(type: number, value: Uint8Array): Uint8Array {
  return encodeAttribute(type, encodeAttribute(DATA.value, value));
}
