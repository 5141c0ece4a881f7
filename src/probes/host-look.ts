// SPDX-License-Identifier: Apache-2.0
// One look at the host's sets and at our share of its nat table, in the kernel: no process, whatever else the host has.
import { addressBytes, addressText } from "../linux/address.ts";
import { check, errorCode, exchange, NetlinkError, read } from "../linux/netlink/exchange.ts";
import {
  concatBytes,
  decodeAttributes,
  decodeString,
  encodeAttribute,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkRequest,
  NLM,
  viewOf,
} from "../linux/netlink/message.ts";
import type { NetnsQuestion } from "../linux/netns-poll.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import type { Family } from "../netfilter/family.ts";
import { header, name as nameAttribute } from "../netfilter/nft/nft-wire.ts";
import { type EntryChange, PROBE_SETS, type SeenSet } from "./probe-set.ts";

const NETLINK_NETFILTER = 12;

// Source: linux/netfilter/ipset/ip_set.h. Numbers in attributes are in network order.
const NFNL_SUBSYS_IPSET = 6;
const IPSET_CMD_DESTROY = 3;
const IPSET_CMD_LIST = 7;
const IPSET_CMD_ADD = 9;
const IPSET_CMD_DEL = 10;
const IPSET_CMD_HEADER = 12;
const IPSET_CMD_GET_BYNAME = 14;
/** Every kernel that has ipset speaks protocol 6; newer ones speak it too. */
const IPSET_PROTOCOL = 6;
const IPSET_PROTOCOL_WITH_NUMBERS = 7;
const SET = { protocol: 1, name: 2, typeName: 3, flags: 6, data: 7, entries: 8, number: 11 } as const;
const ENTRY = { ip: 1, timeout: 6, flags: 8, comment: 26 } as const;
const IP = { v4: 1, v6: 2 } as const;
const NLA_F_NESTED = 0x8000;
const NLA_F_NET_BYTEORDER = 0x4000;
const FLAG_WITH_COMMENT = 1 << 4;
/** IPSET_FLAG_LIST_HEADER, of the command. */
const FLAG_LIST_HEADER = 1 << 2;

/** What was seen; nothing of a set that is not there. */
export interface HostLook {
  readonly sets: ReadonlyMap<Family, SeenSet>;
  /** The kernel's numbers of the sets, by which rules name them. */
  readonly numbers: ReadonlyMap<Family, number>;
}

/**
 * Looks at the sets of the given families.
 * @throws NetlinkError EPERM, EAGAIN; of a set that is there, but whose number the kernel does not tell (before Linux 4.20)
 * @throws NativeError if the conversation with the kernel failed
 */
export async function lookAtHost(at: NetnsAt, families: readonly Family[]): Promise<HostLook> {
  const requests = families.flatMap((family) => [listSet(family), askNumber(family)]);
  const answers = await read(at, NETLINK_NETFILTER, requests);
  const sets = new Map<Family, SeenSet>();
  const numbers = new Map<Family, number>();
  for (const [index, family] of families.entries()) {
    const [list, answer] = answers.slice(2 * index);
    const set = list && decodeSet(list);
    if (set === undefined || answer === undefined) continue;
    sets.set(family, set);
    numbers.set(family, decodeNumber(answer, family));
  }
  return { sets, numbers };
}

/**
 * What the kernel says of the sets without their entries: how many there are, what they take, who names them. The same while nothing
 * comes or goes; an entry that was replaced by another one may not show.
 */
export function setsQuestion(everyMs: number): NetnsQuestion {
  const requests = ([4, 6] as const).map(listHeader);
  return { protocol: NETLINK_NETFILTER, requests, everyMs };
}

function listHeader(family: Family): NetlinkRequest {
  const list = listSet(family);
  const flags = encodeAttribute(SET.flags, Uint8Array.of(0, 0, 0, FLAG_LIST_HEADER));
  return { ...list, body: concatBytes(list.body, flags) };
}

function listSet(family: Family): NetlinkRequest {
  return request(IPSET_CMD_LIST, NLM.dump, setName(PROBE_SETS[family], family));
}

function askNumber(family: Family): NetlinkRequest {
  return request(IPSET_CMD_GET_BYNAME, 0, setName(PROBE_SETS[family], family, IPSET_PROTOCOL_WITH_NUMBERS));
}

function request(command: number, flags: number, body: Uint8Array): NetlinkRequest {
  return { type: (NFNL_SUBSYS_IPSET << 8) | command, flags, body };
}

function setName(name: string, family: Family = 4, protocol = IPSET_PROTOCOL): Uint8Array {
  return concatBytes(
    header(family),
    encodeAttribute(SET.protocol, Uint8Array.of(protocol)),
    nameAttribute(SET.name, name),
  );
}

/** Those of some sets that are there. @throws NativeError if the conversation with the kernel failed */
export async function findSets(netnsFd: number, names: readonly string[]): Promise<string[]> {
  const requests = names.map((name) => request(IPSET_CMD_HEADER, 0, setName(name)));
  const answers = await read(netnsFd, NETLINK_NETFILTER, requests);
  return names.filter((_, index) => (answers[index]?.messages.length ?? 0) > 0);
}

/** Destroys a set; absence is success. @throws NetlinkError while a rule names it */
export async function destroySet(netnsFd: number, name: string): Promise<void> {
  const destroy = request(IPSET_CMD_DESTROY, NLM.ack, setName(name));
  const [answer] = await exchange(netnsFd, NETLINK_NETFILTER, [destroy]);
  if (answer !== undefined && errorCode(answer.error) !== "ENOENT") check(`destroy ipset "${name}"`, answer);
}

/**
 * Adds and takes away entries of sets that are there, without a process; what is as it should be already is none to fail over.
 * @throws NetlinkError for the first that the kernel refuses (ENOENT: no such set); those before it are done
 */
export async function changeEntries(netnsFd: number, changes: readonly EntryChange[]): Promise<void> {
  const answers = await exchange(netnsFd, NETLINK_NETFILTER, changes.map(changeEntry));
  for (const [index, { family, address }] of changes.entries()) {
    const answer = answers[index];
    if (answer !== undefined) check(`change the entry ${address} of ipset "${PROBE_SETS[family]}"`, answer);
  }
}

function changeEntry({ family, address, owner }: EntryChange): NetlinkRequest {
  const ip = encodeAttribute((family === 4 ? IP.v4 : IP.v6) | NLA_F_NET_BYTEORDER, addressBytes(address));
  const comment = owner === undefined ? [] : [nameAttribute(ENTRY.comment, owner)];
  const data = concatBytes(encodeAttribute(ENTRY.ip | NLA_F_NESTED, ip), ...comment);
  const name = setName(PROBE_SETS[family], family);
  const body = concatBytes(name, encodeAttribute(SET.data | NLA_F_NESTED, data));
  const command = owner === undefined ? IPSET_CMD_DEL : IPSET_CMD_ADD;
  // without NLM_F_EXCL: an entry that is there gets the comment, and one that is not there can be deleted
  return request(command, NLM.ack, body);
}

function decodeSet({ error, messages }: NetlinkAnswer): SeenSet | undefined {
  if (error !== 0) {
    const code = errorCode(error);
    if (code === "EPERM" || code === "EACCES") {
      throw new NetlinkError("list the host's ipsets", code, `${code}: it takes the capability NET_ADMIN`);
    }
    // no such set, or no ipset in this kernel yet: the tool that makes the set loads it or says what is missing
    return undefined;
  }
  const entries = new Map<string, string>();
  let set = { type: "", hasComments: false, hasTimeout: false };
  for (const { body } of messages) {
    const attributes = decodeAttributes(body, 4);
    const type = attributes.get(SET.typeName);
    if (type !== undefined) {
      // in the first message of several only
      const data = decodeAttributes(attributes.get(SET.data) ?? new Uint8Array());
      const flags = data.get(ENTRY.flags);
      const hasComments = flags?.length === 4 && (viewOf(flags).getUint32(0) & FLAG_WITH_COMMENT) !== 0;
      set = { type: decodeString(type), hasComments, hasTimeout: data.has(ENTRY.timeout) };
    }
    const list = attributes.get(SET.entries);
    if (list === undefined) continue;
    forEachAttribute(list, 0, list.length, (_, start, end) => {
      const entry = decodeAttributes(list.subarray(start, end));
      const address = decodeAddress(entry.get(ENTRY.ip));
      const comment = entry.get(ENTRY.comment);
      if (address !== undefined) entries.set(address, comment === undefined ? "" : decodeString(comment));
    });
  }
  return { ...set, entries };
}

function decodeAddress(ip: Uint8Array | undefined): string | undefined {
  if (ip === undefined) return undefined;
  const attributes = decodeAttributes(ip);
  const v4 = attributes.get(IP.v4);
  if (v4?.length === 4) return addressText(v4);
  const v6 = attributes.get(IP.v6);
  return v6?.length === 16 ? addressText(v6) : undefined;
}

function decodeNumber(answer: NetlinkAnswer, family: Family): number {
  const [message] = answer.messages;
  const number = message && decodeAttributes(message.body, 4).get(SET.number);
  if (number?.length === 2) return viewOf(number).getUint16(0);
  const code = errorCode(answer.error);
  throw new NetlinkError(
    `tell which number the host's ipset "${PROBE_SETS[family]}" has`,
    code,
    `${code}; it takes Linux 4.20 or later`,
  );
}
