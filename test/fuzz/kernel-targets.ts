// SPDX-License-Identifier: Apache-2.0
// What the kernel passes on of those who write in a pod's namespace: netlink messages, rules of either engine, printed rules.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  concatBytes,
  eachMessage,
  encodeAttribute,
  encodeRequests,
  NLM,
  sortAnswers,
} from "../../src/linux/netlink/message.ts";
import {
  AF,
  AMBIENT_ROUTE,
  addRouteRequest,
  addRuleRequest,
  decodeLo,
  isOurRoute,
  isOurRule,
  loRequest,
} from "../../src/linux/netlink/routing-messages.ts";
import { LegacyTable, meaningOfLegacyRule } from "../../src/netfilter/bypass/legacy-rule-meaning.ts";
import { meaningOfNftRule } from "../../src/netfilter/bypass/nft-rule-meaning.ts";
import { countTable } from "../../src/netfilter/legacy/xtables-count.ts";
import { findOwn } from "../../src/netfilter/legacy/xtables-table.ts";
import { addElements, decodeElements, isPlainSet, newSet } from "../../src/netfilter/native/native-sets.ts";
import * as express from "../../src/netfilter/native/nft-expressions.ts";
import { NetfilterFault } from "../../src/netfilter/netfilter-fault.ts";
import { decodeChain, decodeRule, decodeTable, generationOf } from "../../src/netfilter/nft/nft-objects.ts";
import { newChain, newRule, newTable } from "../../src/netfilter/nft/nft-wire.ts";
import { parseSave, splitWords } from "../../src/netfilter/save-parser.ts";
import { type FuzzTarget, parsed } from "./fuzz-target.ts";

const fixtures = join(import.meta.dirname, "../netfilter/fixtures");
const set = { family: 4, table: "t", set: "s" } as const;
const rules: readonly Uint8Array[] = [
  concatBytes(
    express.loadMeta("mark"),
    express.compare("equal", Uint8Array.of(0x39, 5, 0, 0)),
    express.verdict("accept"),
  ),
  concatBytes(
    express.loadPayload("network", { offset: 16, length: 4 }),
    express.compare("notEqual", Uint8Array.of(127, 0, 0, 1)),
    express.counter(),
    express.jump("C"),
  ),
  concatBytes(
    express.loadCt("mark"),
    express.bitwise(Uint8Array.of(255, 15, 0, 0), new Uint8Array(4)),
    express.setMeta("mark"),
    express.setCt("mark"),
  ),
  concatBytes(express.immediate(Uint8Array.of(0x3a, 0x99)), express.redirect()),
  concatBytes(
    express.loadMeta("l4proto"),
    express.compare("equal", Uint8Array.of(6)),
    express.lookup("s"),
    express.sourceNat(2),
  ),
];

/** struct ipt_getinfo and entries, as the kernel gives a table; `share`: each behind its place, as the addon does. */
function table(entries: readonly Uint8Array[], { share }: { share: boolean }): Uint8Array {
  const sizes = entries.map(({ length }) => length);
  const info = new Uint8Array(84);
  const view = new DataView(info.buffer);
  info.set(Buffer.from("nat"));
  view.setUint32(32, 0b11001, true);
  view.setUint32(76, entries.length, true);
  view.setUint32(
    80,
    sizes.reduce((sum, size) => sum + size, 0),
    true,
  );
  let offset = 0;
  const placed = entries.flatMap((entry, index) => {
    const place = new Uint8Array(8);
    new DataView(place.buffer).setUint32(0, offset, true);
    new DataView(place.buffer).setUint32(4, index, true);
    offset += entry.length;
    return share ? [place, entry] : [entry];
  });
  return concatBytes(info, ...placed);
}

function entry(family: 4 | 6, name: string, data: Uint8Array): Uint8Array {
  const [size, targetOffset] = family === 4 ? [112, 88] : [168, 140];
  const bytes = new Uint8Array(size + 32 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(targetOffset, size, true);
  view.setUint16(targetOffset + 2, bytes.length, true);
  view.setUint16(size, 32 + data.length, true);
  bytes.set(Buffer.from(name), size + 2);
  bytes.set(data, size + 32);
  return bytes;
}

function tables(options: { share: boolean }): Uint8Array[] {
  return ([4, 6] as const).map((family) => {
    const accept = entry(family, "", Uint8Array.of(0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0));
    const chain = entry(family, "ERROR", concatBytes(Buffer.from("ISTIO_OUTPUT"), new Uint8Array(20)));
    return table([accept, chain, entry(family, "REDIRECT", new Uint8Array(16)), accept], options);
  });
}

const isRange = (error: unknown) => error instanceof RangeError && error.message.startsWith("Cannot decode");

function runNetlink(input: Uint8Array): void {
  const messages = parsed(() => [...eachMessage(input)], isRange);
  const answers = parsed(() => sortAnswers(3, input), isRange);
  assert.equal(messages === undefined, answers === undefined);
  assert(
    (messages ?? []).reduce((sum, { body }) => sum + 16 + body.length, 0) <= input.length,
    "no byte is read twice",
  );
  for (const message of messages ?? []) {
    decodeLo(message);
    for (const family of [AF.inet, AF.inet6]) {
      isOurRule(family, message.body);
      isOurRoute(family, message.body);
    }
  }
}

function runObjects(input: Uint8Array): void {
  decodeTable(Uint8Array.from(input));
  decodeChain(Uint8Array.from(input));
  const { expressions } = decodeRule(Uint8Array.from(input));
  assert(expressions.length <= input.length);
  generationOf(input);
  for (const family of [4, 6] as const) isPlainSet(input, family);
  for (const [address, comment] of decodeElements(input)) {
    assert.match(address, /^[0-9a-f.:]+$/);
    assert.match(comment, /^[ -~]*$/);
  }
}

function runMeaning(input: Uint8Array): void {
  for (const family of [4, 6, "inet", "netdev"] as const)
    for (const hook of ["prerouting", "output", "ingress"] as const) {
      const { effects, leads } = meaningOfNftRule(input, { family, hook });
      assert(effects.length + leads.length <= input.length);
    }
}

function runLegacy(input: Uint8Array): void {
  for (const family of [4, 6] as const) {
    const seen = LegacyTable.parse(input, family);
    for (const each of seen?.entries ?? [])
      for (const hook of ["prerouting", "output"] as const) meaningOfLegacyRule(each, { family, hook });
    seen?.chainStart("ISTIO_OUTPUT");
    if (input.length >= 84) countTable(input, family);
  }
}

function runShare(input: Uint8Array): void {
  for (const family of [4, 6] as const) {
    const own = {
      family,
      table: "nat",
      chains: [{ chain: "ISTIO_OUTPUT", hook: "OUTPUT" }],
    } as unknown as Parameters<typeof findOwn>[1];
    parsed(
      () => findOwn(Uint8Array.from(input), own),
      (error) => error instanceof NetfilterFault,
    );
  }
}

function runSave(input: Uint8Array): void {
  const text = Buffer.from(input).toString();
  const found = parsed(
    () => parseSave(text),
    (error) => error instanceof SyntaxError,
  );
  for (const { rules: saved } of found?.values() ?? [])
    for (const { chain } of saved) assert(chain.length <= text.length);
  for (const line of text.split("\n")) {
    const words = splitWords(line);
    if (words !== undefined)
      assert(words.join("").length <= line.length, "no word has more than stood there");
  }
}

const numbers = ["\0\0\0\0", "\x01\0\0\0", "\x08\0\x01\0", "\xff\xff", "\x04\0", "\x10\0\0\0"];

/** Parsers of the kernel's answers about a namespace in which anybody may write. */
export const kernelTargets: readonly FuzzTarget[] = [
  {
    name: "netlink",
    whose: "netlink messages, rules and routes of a pod's namespace",
    seeds: () => [
      encodeRequests([
        loRequest(),
        addRuleRequest(AF.inet, true, AMBIENT_ROUTE),
        addRouteRequest(AF.inet6, AMBIENT_ROUTE),
      ]),
      encodeRequests([
        {
          type: 2,
          flags: NLM.ack,
          body: concatBytes(
            Uint8Array.of(0xea, 255, 255, 255),
            new Uint8Array(16),
            encodeAttribute(1, Buffer.from("no\0")),
          ),
        },
      ]),
      encodeRequests([{ type: 3, flags: 2, body: new Uint8Array(4) }]),
    ],
    words: numbers,
    run: runNetlink,
  },
  {
    name: "nft-objects",
    whose: "tables, chains, rules and sets of nf_tables",
    seeds: () => [
      newTable({ family: "inet", table: "t" }).body,
      newChain({ family: 4, table: "t", chain: "c" }).body,
      ...rules.map((each) => newRule({ family: 4, table: "t", chain: "c" }, { expressions: each }).body),
      newSet(set, { id: 1, comment: "c" }).body,
      ...addElements(
        set,
        new Map([
          ["10.0.0.1", "a"],
          ["fd00::1", "b"],
        ]),
      ).map(({ body }) => body),
    ],
    words: [...numbers, "counter\0", "last\0"],
    run: runObjects,
  },
  {
    name: "nft-rules",
    whose: "expressions of a foreign rule of nf_tables",
    seeds: () => rules,
    words: [
      ...numbers,
      "meta\0",
      "cmp\0",
      "payload\0",
      "bitwise\0",
      "immediate\0",
      "lookup\0",
      "ct\0",
      "nat\0",
      "redir\0",
      "match\0",
      "target\0",
      "notrack\0",
      "MARK",
      "udp",
    ],
    run: runMeaning,
  },
  {
    name: "legacy-rules",
    whose: "a table of iptables-legacy",
    seeds: () => tables({ share: false }),
    words: [...numbers, "ERROR", "MARK", "DNAT", "\xfe\xff\xff\xff", "\x70\0", "\x98\0"],
    run: runLegacy,
  },
  {
    name: "legacy-share",
    whose: "our chains' share of a table of iptables-legacy",
    seeds: () => tables({ share: true }),
    words: [...numbers, "ERROR", "ISTIO_OUTPUT", "\x70\0", "\x98\0"],
    run: runShare,
  },
  {
    name: "iptables-save",
    whose: "printed rules",
    seeds: () =>
      readdirSync(fixtures)
        .filter((name) => name.endsWith(".save"))
        .map((name) => readFileSync(join(fixtures, name))),
    words: [
      "-A ",
      "*nat\n",
      "COMMIT\n",
      ":C - [0:0]\n",
      '"',
      "\\",
      "[1:2] ",
      "--comment ",
      "# Table `",
      "' is incompatible",
      "! ",
      "-P",
      "-N ",
      " ",
    ],
    run: runSave,
  },
];
