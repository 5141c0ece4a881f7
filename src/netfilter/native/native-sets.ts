// SPDX-License-Identifier: Apache-2.0
// Sets of addresses in tables of family inet: as requests, and as the kernel lists them. Source: linux/netfilter/nf_tables.h.
import { addressBytes, addressText } from "../../linux/address.ts";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  encodeAttribute,
  forEachAttribute,
  type NetlinkRequest,
  NLM,
} from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import { numberOf } from "../nft/nft-objects.ts";
import { HEADER_BYTES, header, name, number, request } from "../nft/nft-wire.ts";

const MESSAGE = { newSet: 9, getSet: 10, newElements: 12, getElements: 13, deleteElements: 14 } as const;
const SET = {
  table: 1,
  name: 2,
  flags: 3,
  keyType: 4,
  keyLength: 5,
  dataType: 6,
  id: 10,
  timeout: 11,
  userdata: 13,
} as const;
const ELEMENTS = { table: 1, set: 2, list: 3 } as const;
const ELEMENT = { key: 1, flags: 3, expiration: 5, userdata: 6 } as const;
const LIST_ELEMENT = 1;
const DATA_VALUE = 1;
/** What nft calls the keys; the kernel only keeps it. Source: nftables include/datatype.h, TYPE_IPADDR and TYPE_IP6ADDR. */
const KEY: Readonly<Record<Family, { type: number; length: number }>> = {
  4: { type: 7, length: 4 },
  6: { type: 8, length: 16 },
};
/** Kinds of notes. Source: libnftnl include/libnftnl/udata.h. */
const SET_NOTE = { keyByteOrder: 0, comment: 7 } as const;
const ELEMENT_COMMENT = 0;
const BIG_ENDIAN = 2;
/** An attribute holds 64 KiB, and an element with a long comment takes 0.3. */
const ELEMENTS_PER_MESSAGE = 200;

/** Where a set is. */
export interface SetPlace {
  readonly table: string;
  readonly set: string;
  /** Of its addresses. */
  readonly family: Family;
}

/** A set that must not be there yet, with a comment as nft keeps it. @param options.id distinct within the batch */
export function newSet(
  { table, set, family }: SetPlace,
  options: { id: number; comment: string },
): NetlinkRequest {
  // nft shows a key in its order by this note. Source: nftables src/mnl.c
  const order = Uint8Array.of(SET_NOTE.keyByteOrder, 4, BIG_ENDIAN, 0, 0, 0);
  const body = concatBytes(
    place(SET, table, set),
    number(SET.keyType, KEY[family].type),
    number(SET.keyLength, KEY[family].length),
    number(SET.id, options.id),
    encodeAttribute(SET.userdata, concatBytes(order, note(SET_NOTE.comment, options.comment))),
  );
  return request(MESSAGE.newSet, NLM.create | NLM.exclusive, body);
}

export function getSet({ table, set }: SetPlace): NetlinkRequest {
  return request(MESSAGE.getSet, 0, place(SET, table, set));
}

export function getElements({ table, set }: SetPlace): NetlinkRequest {
  return request(MESSAGE.getElements, NLM.dump, place(ELEMENTS, table, set));
}

/** Adds addresses, each with a comment. One that is there keeps the comment it has. */
export function addElements(to: SetPlace, comments: ReadonlyMap<string, string>): NetlinkRequest[] {
  const elements = Array.from(comments, ([address, comment]) =>
    element(address, encodeAttribute(ELEMENT.userdata, note(ELEMENT_COMMENT, comment))),
  );
  return inParts(elements).map((part) => request(MESSAGE.newElements, NLM.create, elementList(to, part)));
}

/** Takes away addresses that must be there. */
export function deleteElements(from: SetPlace, addresses: readonly string[]): NetlinkRequest[] {
  const elements = addresses.map((address) => element(address));
  return inParts(elements).map((part) => request(MESSAGE.deleteElements, 0, elementList(from, part)));
}

/** Whether a set's elements are plain addresses of the family, each for as long as it is not deleted. @param body of NFT_MSG_NEWSET */
export function isPlainSet(body: Uint8Array, family: Family): boolean {
  const attributes = decodeAttributes(body, HEADER_BYTES);
  return (
    numberOf(attributes.get(SET.keyType)) === KEY[family].type &&
    numberOf(attributes.get(SET.keyLength)) === KEY[family].length &&
    (numberOf(attributes.get(SET.flags)) ?? 0) === 0 &&
    !attributes.has(SET.timeout) &&
    !attributes.has(SET.dataType)
  );
}

/** The body of NFT_MSG_NEWSETELEM: addresses with their comments, empty where there is none. */
export function decodeElements(body: Uint8Array): [address: string, comment: string][] {
  const list = decodeAttributes(body, HEADER_BYTES).get(ELEMENTS.list);
  const found: [string, string][] = [];
  if (list === undefined) return found;
  forEachAttribute(list, 0, list.length, (_, start, end) => {
    const attributes = decodeAttributes(list.subarray(start, end));
    const key = attributes.get(ELEMENT.key);
    const value = key && decodeAttributes(key).get(DATA_VALUE);
    if (value?.length !== 4 && value?.length !== 16) return;
    found.push([addressText(value), commentIn(attributes.get(ELEMENT.userdata))]);
  });
  return found;
}

/** Only what can be printed: it is anybody's. */
function commentIn(userdata: Uint8Array | undefined): string {
  for (let at = 0; userdata !== undefined && at + 2 <= userdata.length; ) {
    const [type, length = 0] = userdata.subarray(at, at + 2);
    if (type === ELEMENT_COMMENT) {
      const text = decodeString(userdata, at + 2, Math.min(at + 2 + length, userdata.length));
      return /^[ -~]*$/.test(text) ? text : "";
    }
    at += 2 + length;
  }
  return "";
}

function element(address: string, ...rest: readonly Uint8Array[]): Uint8Array {
  const key = encodeAttribute(ELEMENT.key, encodeAttribute(DATA_VALUE, addressBytes(address)));
  return encodeAttribute(LIST_ELEMENT, concatBytes(key, ...rest));
}

function elementList({ table, set }: SetPlace, elements: readonly Uint8Array[]): Uint8Array {
  return concatBytes(place(ELEMENTS, table, set), encodeAttribute(ELEMENTS.list, concatBytes(...elements)));
}

function inParts<T>(list: readonly T[]): T[][] {
  const count = Math.ceil(list.length / ELEMENTS_PER_MESSAGE);
  return Array.from({ length: count }, (_, index) =>
    list.slice(index * ELEMENTS_PER_MESSAGE, (index + 1) * ELEMENTS_PER_MESSAGE),
  );
}

/** Both kinds of messages have the table's name first and the set's second. */
function place(attributes: { readonly table: number }, table: string, set: string): Uint8Array {
  return concatBytes(header("inet"), name(attributes.table, table), name(SET.name, set));
}

function note(type: number, text: string): Uint8Array {
  const value = Buffer.from(`${text}\0`, "latin1");
  return concatBytes(Uint8Array.of(type, value.length), value);
}
