// SPDX-License-Identifier: Apache-2.0
// A list cut into its items: what comes out is what JSON.parse finds, wherever the pieces begin and end.
import { expect, test } from "vitest";
import { ListSplitter } from "../../src/kube/list-splitter.ts";

/** Items and head of a text that arrives in pieces of so many bytes. */
function split(text: string, pieceBytes: number) {
  const bytes = Buffer.from(text);
  const splitter = new ListSplitter();
  const items: string[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes)
    for (const item of splitter.push(bytes.subarray(at, at + pieceBytes))) items.push(item.toString());
  return { items, head: splitter.end() };
}

/** As JSON.parse has it: what the client makes of a list. */
function parsed(text: string, pieceBytes: number): unknown {
  const { items, head } = split(text, pieceBytes);
  const page = JSON.parse(head) as { items?: unknown };
  const values = items.map((item) => JSON.parse(item) as unknown);
  return Array.isArray(page.items) ? { ...page, items: [...page.items, ...values] } : page;
}

const lists = [
  "{}",
  '{"items":[]}',
  '{"items":[ ]}',
  '{"items":null}',
  '{"items":{"items":[1,2]}}',
  '{"items":[1]}',
  ' { "kind" : "PodList" , "items" : [ 1 , "two" , [3,[4]] , {"items":[5,{"x":"]}"}]} ] , "metadata":{"items":[6]} } ',
  '{"items":["a\\"]","\\\\","\\\\\\"","\\u005d",",[{"],"kind":"items"}',
  '{"kind":"items","more":[1,2],"items":[{"é😀":"€"}]}',
  '{"a":["items",[1]],"items":[[],{},"",0,null,true]}',
  '{"items\\u0020":[1],"items":[2]}',
];

test.each(lists)("%s is split as it is parsed, in pieces of any size", (text) => {
  for (const pieceBytes of [1, 2, 3, 5, 7, 1000]) expect(parsed(text, pieceBytes)).toEqual(JSON.parse(text));
});

const spoilt = [
  "",
  "[",
  "]",
  "nonsense",
  '{"items":[',
  '{"items":[1',
  '{"items":[1]',
  '{"items":[1,]}',
  '{"items":[,1]}',
  '{"items":[,]}',
  '{"items":[1,,2]}',
  '{"items":[1 2]}',
  '{"items":[1}',
  '{"items":[}',
  '{"items":[1}]',
  '{"items":[{]}',
  '{"items":[{],1]}',
  '{"items":["]}',
  '{"items":[1]]',
  '{"items":[1]}}',
  '{"items":[1]}{"items":[2]}',
  '{"items":[1]',
  '"items":[1]',
  "\u001f\u008b\u0000",
];

test.each(spoilt)("%j is told to be no list", (text) => {
  expect(() => JSON.parse(text)).toThrow();
  for (const pieceBytes of [1, 2, 3, 1000]) expect(() => parsed(text, pieceBytes)).toThrow();
});

test("random damage is told, or changes nothing but values", () => {
  const text = lists[6] as string;
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  for (let round = 0; round < 3000; round += 1) {
    const bytes = Buffer.from(text);
    bytes[random(bytes.length)] = '[]{}",:\\ x'.charCodeAt(random(10));
    const damaged = bytes.toString();
    let expected: unknown;
    try {
      expected = JSON.parse(damaged);
    } catch {
      expect(() => parsed(damaged, 1 + random(9))).toThrow();
      continue;
    }
    // of two fields of one name JSON.parse keeps the last: that is not ours to tell
    if (damaged.match(/"items"/g)?.length === text.match(/"items"/g)?.length)
      expect(parsed(damaged, 1 + random(9))).toEqual(expected);
  }
});

test("an object and a head without end are told when they are too long", () => {
  const block = Buffer.alloc(1 << 20, "x");
  const endless = (begin: string, blocks: number) => () => {
    const splitter = new ListSplitter();
    for (const piece of [Buffer.from(begin), ...Array<Buffer>(blocks).fill(block)])
      for (const _ of splitter.push(piece)) expect.unreachable();
  };
  expect(endless('{"items":["', 9)).not.toThrow();
  expect(endless('{"items":["', 11)).toThrow("an object is longer than 10485760 bytes");
  expect(endless('{"kind":"', 1)).toThrow("longer than 65536 bytes beside its items");
});
