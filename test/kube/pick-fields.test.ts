// SPDX-License-Identifier: Apache-2.0
// A few fields of an object's JSON: what JSON.parse finds of them, at the price of a look at the rest.
import { describe, expect, test } from "vitest";
import { type Fields, FirstFields, NamedItems, pickFields, TextStart } from "../../src/kube/pick-fields.ts";

const fields: Fields = { a: true, b: { c: true, d: { e: true } } };

const pick = (text: string): unknown => pickFields(Buffer.from(text), fields);

test.each<[string, unknown]>([
  ["{}", {}],
  [' { "a" : 1 } ', { a: 1 }],
  ['{"x":1,"a":[1,{"a":2},"]}"],"y":{"a":3}}', { a: [1, { a: 2 }, "]}"] }],
  [
    '{"b":{"c":"é😀\\u20ac\\"","x":[[{}]],"d":{"e":null,"f":1}},"a":true}',
    { a: true, b: { c: 'é😀€"', d: { e: null } } },
  ],
  ['{"b":7,"a":-1.5e3}', { b: 7, a: -1500 }],
  ['{"b":[{"c":1}]}', { b: [{ c: 1 }] }],
  ['{"b":null,"x":"\\\\","z":"\\\\\\"","a":""}', { b: null, a: "" }],
  ['{"a":1,"a":2}', { a: 2 }],
  ['{"__proto__":{"a":1},"constructor":1,"a":0}', { a: 0 }],
  ["\n[1,2]\t", [1, 2]],
  ["null", null],
  ["7", 7],
  ['"text"', "text"],
])("of %s this is read: %j", (text, expected) => {
  expect(() => JSON.parse(text)).not.toThrow();
  expect(pick(text)).toEqual(expected);
});

test.each([
  "",
  " ",
  "nonsense",
  "{",
  "}",
  '{"a"}',
  '{"a":}',
  '{"x":}',
  '{"x":,"a":1}',
  '{"x":1,}',
  '{,"x":1}',
  '{"x" 1}',
  "{x:1}",
  '{"x":1',
  '{"x":[1}',
  '{"x":[[1]',
  '{"x":"',
  '{"x":"\\',
  '{"x":"\\"}',
  '{"a":nonsense}',
  '{"a":[1,]}',
  '{"x":1}}',
  '{"x":1}{"a":1}',
  '{"x":1} 2',
  "[1,2",
  "1 2",
  "\ufeff{}",
])("%j is told to be no JSON", (text) => {
  expect(() => JSON.parse(text)).toThrow();
  expect(() => pick(text)).toThrow(SyntaxError);
});

test("random damage is told, or what is read is what JSON.parse finds", () => {
  const text = '{"x":[1,{"y":"\\"z"}],"a":["b",{}],"b":{"c":1,"q":"]","d":{"e":"f"}},"w":null}';
  const of = (value: unknown, wanted: Fields[string]): unknown => {
    if (
      wanted === true ||
      wanted instanceof FirstFields ||
      wanted instanceof NamedItems ||
      wanted instanceof TextStart ||
      value === null ||
      typeof value !== "object" ||
      Array.isArray(value)
    )
      return value;
    const found = Object.entries(value).filter(([name]) => Object.hasOwn(wanted, name));
    return Object.fromEntries(found.map(([name, each]) => [name, of(each, wanted[name] as Fields[string])]));
  };
  let seed = 7;
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  let read = 0;
  for (let round = 0; round < 5000; round += 1) {
    const bytes = Buffer.from(text);
    bytes[random(bytes.length)] = '[]{}",:\\ xa'.charCodeAt(random(11));
    let expected: unknown;
    try {
      expected = JSON.parse(bytes.toString());
    } catch {
      // what nobody asked for is looked at for its brackets alone
      continue;
    }
    // a name with an escape is taken as it is written
    if (/\\[^"z]/.test(bytes.toString())) continue;
    read += 1;
    expect(pickFields(bytes, fields)).toEqual(of(expected, fields));
  }
  expect(read).toBeGreaterThan(500);
});

test("of many fields the first are read, and those that matter", () => {
  const wanted: Fields = { l: new FirstFields(2, (name) => name.startsWith("z")) };
  const read = pickFields(Buffer.from('{"l":{"a":1,"b":{},"c":3,"z1":4,"z2":5,"z3":6}}'), wanted);
  expect(read).toEqual({ l: { a: 1, b: {}, z1: 4, z2: 5 } });
  expect(pickFields(Buffer.from('{"l":[1]}'), wanted)).toEqual({ l: [1] });
  const own = pickFields(Buffer.from('{"l":{"__proto__":{"x":1}}}'), wanted) as { l: object };
  expect(Object.getPrototypeOf(own.l)).toBe(Object.prototype);
  expect(Object.keys(own.l)).toEqual(["__proto__"]);
});

test.each(["a", "é", "😀", "\\", '"', "\n", "\u0001", "\\u", 'a\\\u0001é"😀', "\ud800"])(
  "of a long text of %j the beginning is read, of a short one all",
  (unit) => {
    const wanted: Fields = { a: new TextStart(50) };
    for (const shift of ["", "x", "xy", "xyz", "xyzxy"]) {
      for (const count of [1, 10, 100, 1000]) {
        const text = shift + unit.repeat(count);
        const { a } = pickFields(Buffer.from(JSON.stringify({ a: text, b: 1 })), wanted) as { a: string };
        expect(text.startsWith(a)).toBe(true);
        expect(Buffer.byteLength(a)).toBeGreaterThanOrEqual(Math.min(50, Buffer.byteLength(text)));
        expect(a.length).toBeLessThanOrEqual(310);
      }
    }
    expect(pickFields(Buffer.from('{"a":[1]}'), wanted)).toEqual({ a: [1] });
    expect(() => pickFields(Buffer.from('{"a":"\\x"}'), wanted)).toThrow(SyntaxError);
  },
);

test("brackets in brackets without end cost no depth and no memory", () => {
  const deep = "[".repeat(4_000_000) + "]".repeat(4_000_000);
  expect(pick(`{"x":${deep},"a":1}`)).toEqual({ a: 1 });
  expect(pick(`{"a":${deep}}`)).toEqual({ a: undefined });
  expect(pick(deep)).toBeUndefined();
});

test("a field over its bound is left out, and those after it are read", () => {
  expect(pick(`{"a":"${"x".repeat(2 << 20)}","b":{"c":1}}`)).toEqual({ a: undefined, b: { c: 1 } });
  expect(pick(`{"a":"${"x".repeat(1 << 20)}"}`)).toEqual({ a: "x".repeat(1 << 20) });
});

describe("of a list of objects, those with names that are asked for", () => {
  const wanted: Fields = {
    l: new NamedItems(["a", "b"], {
      name: true,
      v: new TextStart(2),
      e: new NamedItems(["x"], { name: true }),
    }),
  };
  const read = (text: string) => pickFields(Buffer.from(text), wanted);

  test.each([
    [
      '{"l":[{"name":"a","v":"12345","w":1},{"name":"c","v":"x"}]}',
      { l: [{ name: "a", v: "123456".slice(0, 5) }] },
    ],
    ['{"l":[{"v":"1","name":"b"},{"name":"a"}]}', { l: [{ v: "1", name: "b" }, { name: "a" }] }],
    [
      '{"l":[{"name":"a","v":"1"},{"name":"b"},{"name":"a","v":"2"}]}',
      { l: [{ name: "b" }, { name: "a", v: "2" }] },
    ],
    [
      '{"l":[{"name":"a","e":[{"name":"y"},{"name":"x","z":[{}]}]}]}',
      { l: [{ name: "a", e: [{ name: "x" }] }] },
    ],
    ['{"l":[1,"a",null,[{"name":"a"}],{"name":1},{"name":{"name":"a"}},{}]}', { l: [] }],
    ['{"l":[ ]}', { l: [] }],
    ['{"l":{"name":"a"}}', { l: undefined }],
    ['{"l":"a"}', { l: undefined }],
  ])("%s", (text, expected) => {
    expect(read(text)).toEqual(expected);
  });

  test.each(['{"l":[{"name":"a"}', '{"l":[{"name":"a"} {}]}', '{"l":[,]}', '{"l":[{"name":"a"]}'])(
    "%s is no JSON",
    (text) => {
      expect(() => read(text)).toThrow(SyntaxError);
    },
  );

  test("of 300,000 others the first 4096 are looked at", () => {
    const others = (count: number) =>
      Array.from({ length: count }, (_, index) => ({ name: `V${index}`, value: "x" }));
    const of = (before: number, behind: number) =>
      read(JSON.stringify({ l: [{ name: "a", e: [...others(before), { name: "x" }, ...others(behind)] }] }));
    expect(of(4095, 300_000)).toEqual({ l: [{ name: "a", e: [{ name: "x" }] }] });
    expect(of(4096, 1)).toEqual({ l: [{ name: "a", e: [] }] });
  });
});
