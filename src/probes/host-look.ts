// SPDX-License-Identifier: Apache-2.0
// One look at the host's sets and at our share of its nat table, in the kernel: no process, whatever else the host has.
import { createHash, type Hash } from "node:crypto";
import { SocketAddress } from "node:net";
import { NativeError, xtablesInNetns } from "../linux/native.ts";
import { errorCode, NetlinkError, read } from "../linux/netlink/exchange.ts";
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
import type { Family } from "../netfilter/family.ts";
import type { Variant } from "../netfilter/variant-tools.ts";
import { PROBE_CHAIN, PROBE_HOOK, PROBE_TABLE } from "./probe-rules.ts";
import { PROBE_SETS, type SeenSet } from "./probe-set.ts";
import { hashXtablesShare } from "./xtables-share.ts";

const NETLINK_NETFILTER = 12;
const NFPROTO: Readonly<Record<Family, number>> = { 4: 2, 6: 10 };

// Source: linux/netfilter/ipset/ip_set.h. Numbers in attributes are in network order.
const NFNL_SUBSYS_IPSET = 6;
const IPSET_CMD_LIST = 7;
/** Every kernel that has ipset speaks protocol 6; newer ones speak it too. */
const IPSET_PROTOCOL = 6;
const SET = { protocol: 1, name: 2, typeName: 3, data: 7, entries: 8 } as const;
const ENTRY = { ip: 1, timeout: 6, flags: 8, comment: 26 } as const;
const IP = { v4: 1, v6: 2 } as const;
const FLAG_WITH_COMMENT = 1 << 4;

// Source: linux/netfilter/nf_tables.h.
const NFNL_SUBSYS_NFTABLES = 10;
const NFT_MSG_GETRULE = 7;
const RULE = { table: 1, chain: 2, expressions: 4 } as const;
const EXPRESSION = { name: 1, data: 2 } as const;
const STATEFUL = new Set(["counter", "last"]);
const JUMP_TARGET = `${PROBE_CHAIN}\0`;

/** What was seen. */
export interface HostLook {
  /** By family; a set that is not there is undefined. */
  readonly sets: ReadonlyMap<Family, SeenSet | undefined>;
  /**
   * Hash of the built-in chain's first rule, of further jumps and of our chain, by family; equal hashes mean equal rules as long as the
   * sets stay: a rule names its set by number. None for a family whose rules were not looked at, or could not be.
   */
  readonly hashes: ReadonlyMap<Family, string>;
}

/** What iptables-legacy-save has to find out: what does not exist yet, or cannot be read at one go. */
const UNREADABLE = new Set(["ENOENT", "ENOPROTOOPT", "EAGAIN", "EMSGSIZE"]);

/**
 * Looks at the given families.
 * @param options.rules which variant's rules are looked at too; looking at iptables-legacy's creates its table
 * @throws NetlinkError EPERM, EAGAIN; NativeError if the conversation with the kernel failed
 */
export async function lookAtHost(
  netnsFd: number,
  options: { families: readonly Family[]; rules: Variant | undefined },
): Promise<HostLook> {
  const { families, rules } = options;
  const isNft = rules === "nft";
  const perFamily = isNft ? 3 : 1;
  const requests = families.flatMap((family) => [
    listSet(family),
    ...(isNft ? [listRules(family, PROBE_HOOK), listRules(family, PROBE_CHAIN)] : []),
  ]);
  const answers = await read(netnsFd, NETLINK_NETFILTER, requests);
  const sets = new Map<Family, SeenSet | undefined>();
  const hashes = new Map<Family, string>();
  for (const [index, family] of families.entries()) {
    const [set, hook, chain] = answers.slice(index * perFamily);
    if (set !== undefined) sets.set(family, decodeSet(set));
    if (isNft && hook !== undefined && chain !== undefined) hashes.set(family, hashRules(hook, chain));
    const hash = rules === "legacy" ? await hashLegacyRules(netnsFd, family) : undefined;
    if (hash !== undefined) hashes.set(family, hash);
  }
  return { sets, hashes };
}

async function hashLegacyRules(netnsFd: number, family: Family): Promise<string | undefined> {
  try {
    const table = await xtablesInNetns(netnsFd, family, PROBE_TABLE);
    return hashXtablesShare(table, { family, hook: PROBE_HOOK, chain: PROBE_CHAIN });
  } catch (error) {
    if (error instanceof NativeError && UNREADABLE.has(error.code)) return undefined;
    throw error;
  }
}

function listSet(family: Family): NetlinkRequest {
  return {
    type: (NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_LIST,
    flags: NLM.dump,
    body: concatBytes(
      nfgenmsg(NFPROTO[family]),
      encodeAttribute(SET.protocol, Uint8Array.of(IPSET_PROTOCOL)),
      encodeAttribute(SET.name, cString(PROBE_SETS[family])),
    ),
  };
}

/** The kernel filters: on a host with thousands of rules only those of the one chain come. */
function listRules(family: Family, chain: string): NetlinkRequest {
  return {
    type: (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETRULE,
    flags: NLM.dump,
    body: concatBytes(
      nfgenmsg(NFPROTO[family]),
      encodeAttribute(RULE.table, cString(PROBE_TABLE)),
      encodeAttribute(RULE.chain, cString(chain)),
    ),
  };
}

/** struct nfgenmsg: family, version, u16 resource id. */
function nfgenmsg(family: number): Uint8Array {
  return Uint8Array.of(family, 0, 0, 0);
}

function cString(text: string): Uint8Array {
  return Buffer.from(`${text}\0`);
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
  if (v4?.length === 4) return v4.join(".");
  const v6 = attributes.get(IP.v6);
  if (v6?.length !== 16) return undefined;
  const view = viewOf(v6);
  const groups = Array.from({ length: 8 }, (_, index) => view.getUint16(2 * index).toString(16));
  return new SocketAddress({ address: groups.join(":"), family: "ipv6" }).address;
}

function hashRules(hook: NetlinkAnswer, chain: NetlinkAnswer): string {
  const hash = createHash("sha256");
  const [first, ...others] = hook.messages;
  if (first !== undefined) addExpressions(hash, first.body);
  // of the rules of others only how many mention our chain: they may come and go
  const jumps = others.filter(({ body }) =>
    Buffer.from(body.buffer, body.byteOffset, body.length).includes(JUMP_TARGET),
  );
  hash.update(`|${jumps.length}|`);
  for (const { body } of chain.messages) addExpressions(hash, body);
  return hash.digest("hex");
}

/** Without what has happened: counters are cleared where they were received. */
function addExpressions(hash: Hash, body: Uint8Array): void {
  const expressions = decodeAttributes(body, 4).get(RULE.expressions) ?? new Uint8Array();
  forEachAttribute(expressions, 0, expressions.length, (_, from, to) => {
    let name = "";
    forEachAttribute(expressions, from, to, (type, start, end) => {
      if (type === EXPRESSION.name) name = decodeString(expressions, start, end);
      else if (type === EXPRESSION.data && STATEFUL.has(name)) expressions.fill(0, start, end);
    });
  });
  hash.update(`${expressions.length}:`).update(expressions);
}
