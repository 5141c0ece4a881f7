// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { parseConf } from "../../src/conflist/conf.ts";

it.each([
  ["a.conflist", "", "JSON"],
  ["a.conflist", "\xef\xbb\xbf{}", "JSON"],
  ["a.conflist", '{"name":"a","plugins":[{"type":"x"}]', "JSON"],
  ["a.conflist", "[]", "no JSON object"],
  ["a.conflist", '{"plugins":[{"type":"x"}]}', 'no "name"'],
  ["a.conflist", '{"name":1,"plugins":[{"type":"x"}]}', 'no "name"'],
  ["a.conflist", '{"name":"a","cniVersion":1,"plugins":[{"type":"x"}]}', '"cniVersion"'],
  ["a.conflist", '{"name":"a","disableCheck":"no","plugins":[{"type":"x"}]}', '"disableCheck"'],
  ["a.conflist", '{"name":"a"}', 'no list "plugins"'],
  ["a.conflist", '{"name":"a","plugins":[]}', "empty"],
  ["a.conflist", '{"name":"a","plugins":[{"type":"x"},null]}', "plugin 2"],
  ["a.conflist", '{"name":"a","plugins":[{"type":""}]}', 'no "type"'],
  ["a.conflist", '{"name":"a","plugins":[{"type":"x","capabilities":{"a":1}}]}', "capabilities"],
  ["a.conflist", '{"name":"a","plugins":[{"type":"x","ipam":"y"}]}', "ipam"],
  ["a.conf", '{"type":"x","ipam":{"type":7}}', "ipam"],
  ["a.conf", '{"type":"x","DNS":{"search":"a"}}', "DNS"],
  ["a.conf", '{"type":"x","prevResult":[]}', "prevResult"],
  ["a.conf", '{"type":"x","CNIVersion":1}', "CNIVersion"],
  ["a.conf", '{"name":"a","plugins":[{"type":"x"}]}', 'no "type"'],
  ["a.json", '{"name":1,"type":"x"}', '"name"'],
])("%s with %s is refused: %s", (name, text, why) => {
  expect(() => parseConf(name, text)).toThrow(why);
});

it.each([
  ["a.conf", '{"Type":"x"}', { kind: "single", network: "", types: ["x"] }],
  [
    "a.conf",
    '{"type":"x","name":null,"ipam":{"Type":null},"dns":{"search":["a",null]},"constructor":1,"capabilities":{"a":null}}',
    { kind: "single", network: "", types: ["x"] },
  ],
  ["a.json", '{"name":"n","type":"x"}', { kind: "single", network: "n", types: ["x"] }],
  [
    "a.conflist",
    ' {"name":"n","disableCheck":"TRUE","plugins":[{"type":"x"},{"type":"y","ipam":{}}]}\n',
    { kind: "list", network: "n", types: ["x", "y"] },
  ],
])("%s with %s is read", (name, text, expected) => {
  expect(parseConf(name, text)).toMatchObject(expected);
});
