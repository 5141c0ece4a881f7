// SPDX-License-Identifier: Apache-2.0
// Reading from a kernel that changes, refuses or answers in part.

import { expect, test } from "vitest";
import { NativeError } from "../../../src/linux/native.ts";
import {
  concatBytes,
  encodeAttribute,
  type NetlinkAnswer,
  type NetlinkRequest,
} from "../../../src/linux/netlink/message.ts";
import type { Ask } from "../../../src/netfilter/nft/nft-wire.ts";
import { readOwnObjects } from "../../../src/netfilter/nft/own-objects.ts";

const own = [{ family: 4, table: "nat", chains: [{ chain: "OURS", hook: "OUTPUT" }] }] as const;
const netns = { fd: -1 };
const RULES = 7;
const name = (type: number, text: string) => encodeAttribute(type, Buffer.from(`${text}\0`));
const number = (type: number, value: number) => encodeAttribute(type, Uint8Array.of(0, 0, 0, value));

function body(generation: number, ...attributes: Uint8Array[]): NetlinkAnswer["messages"][number] {
  return {
    type: 0,
    flags: 0,
    sequence: 0,
    body: concatBytes(Uint8Array.of(2, 0, 0, generation), ...attributes),
  };
}

function answer(changes: Partial<NetlinkAnswer> = {}): NetlinkAnswer {
  return { error: undefined, reason: undefined, interrupted: false, messages: [], ...changes };
}

const kindOf = ({ type }: NetlinkRequest) => type & 0xff;
const isChain = (request: NetlinkRequest, chain: string) =>
  Buffer.from(request.body).toString("latin1").includes(chain);

/** A kernel with one rule in OURS and none in OUTPUT; `generation` is that of each answer. */
function answersOf(requests: readonly NetlinkRequest[], generation = () => 1): NetlinkAnswer[] {
  return requests.map((request) => {
    const kind = kindOf(request);
    if (kind === 1) return answer({ messages: [body(generation(), name(1, "nat"))] });
    if (kind === 4) {
      const chain = isChain(request, "OURS") ? "OURS" : "OUTPUT";
      const use = number(6, chain === "OURS" ? 1 : 0);
      return answer({ messages: [body(generation(), name(1, "nat"), name(3, chain), use)] });
    }
    const rule = body(generation(), name(1, "nat"), name(2, "OURS"), encodeAttribute(4, new Uint8Array(8)));
    return answer({ error: 0, messages: isChain(request, "OUTPUT") ? [] : [rule] });
  });
}

test("what the table's own list shows in full is not asked for again", async () => {
  const asked: number[] = [];
  const ask: Ask = async (requests) => {
    asked.push(requests.length);
    return answersOf(requests);
  };
  const { tables, isSteady } = await readOwnObjects(netns, own, { ask });
  expect(isSteady).toBe(true);
  expect(tables[0]?.chains.get("OURS")?.rules).toHaveLength(1);
  // the count of changes first
  expect(asked).toEqual([1 + 4]);
});

test("a namespace whose table is long is asked chain by chain, from the second time on at once", async () => {
  const asked: string[] = [];
  const ask: Ask = async (requests) => {
    const lists = requests.filter((request) => kindOf(request) === RULES);
    asked.push(`${requests.length - lists.length}+${lists.length}`);
    return answersOf(requests).map((each, index) => {
      const request = requests[index]!;
      const isOfTable = !isChain(request, "OURS") && !isChain(request, "OUTPUT");
      return kindOf(request) === RULES && isOfTable ? { ...each, error: undefined } : each;
    });
  };
  const long = { fd: -1 };
  for (let look = 0; look < 2; look++) {
    const { tables } = await readOwnObjects(long, own, { ask });
    expect(tables[0]?.chains.get("OURS")).toMatchObject({ isComplete: true, use: 1 });
  }
  // the count of changes, the table, its chains; lists
  expect(asked).toEqual(["4+1", "0+2", "4+2"]);
});

test("a list in which a rule does not show is asked for again by itself", async () => {
  const ask: Ask = async (requests) =>
    answersOf(requests).map((each, index) => {
      const request = requests[index]!;
      return kindOf(request) === RULES && !isChain(request, "OURS") ? { ...each, messages: [] } : each;
    });
  const { tables } = await readOwnObjects(netns, own, { ask });
  expect(tables[0]?.chains.get("OURS")?.rules).toHaveLength(1);
});

test.each([
  ["interrupted", () => answer({ interrupted: true, error: 0 })],
  ["ended with EINTR", () => answer({ error: -4 })],
])("a list that was %s is read again", async (_, broken) => {
  let count = 0;
  const ask: Ask = async (requests) =>
    answersOf(requests).map((each, index) =>
      kindOf(requests[index]!) === RULES && count++ === 0 ? broken() : each,
    );
  const { tables } = await readOwnObjects(netns, own, { ask });
  expect(tables[0]?.chains.get("OURS")?.rules).toHaveLength(1);
  expect(count).toBe(2);
});

test("answers that are lost each time are a typed fault", async () => {
  const ask: Ask = async () => {
    throw new NativeError("talk", -105, "recvmsg");
  };
  await expect(readOwnObjects(netns, own, { ask })).rejects.toMatchObject({
    name: "NetfilterFault",
    code: "UNSTEADY",
    isLeftToPrograms: false,
  });
});

test("rules whose generation never stays are given as they were read, and marked", async () => {
  let generation = 0;
  let looks = 0;
  const ask: Ask = async (requests) => {
    looks++;
    return answersOf(requests, () => ++generation & 0xff);
  };
  const { tables, isSteady } = await readOwnObjects(netns, own, { ask });
  expect(isSteady).toBe(false);
  expect(tables[0]?.chains.get("OURS")?.rules).toHaveLength(1);
  expect(looks).toBe(5);
});

test("a table that is not there is left out", async () => {
  const ask: Ask = async (requests) => requests.map(() => answer({ error: -2 }));
  expect(await readOwnObjects(netns, own, { ask })).toEqual({ tables: [], isSteady: true });
});

test("what the kernel refuses is its own error", async () => {
  const ask: Ask = async (requests) => requests.map(() => answer({ error: -1 }));
  await expect(readOwnObjects(netns, own, { ask })).rejects.toMatchObject({
    name: "NetlinkError",
    code: "EPERM",
  });
});
