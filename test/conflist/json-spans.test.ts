// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { memberText } from "../../src/conflist/json-spans.ts";

const cases: readonly [name: string, json: string, expected: string | undefined][] = [
  ["an object with its spaces", '{"a":1,"prevResult": { "x" : [1, 2] } ,"b":2}', '{ "x" : [1, 2] }'],
  [
    "a nested key of the same name is not it",
    '{"runtimeConfig":{"prevResult":1},"prevResult":{"y":2}}',
    '{"y":2}',
  ],
  ["only a nested key", '{"runtimeConfig":{"prevResult":1}}', undefined],
  ["the last of duplicates", '{"prevResult":1,"prevResult":2}', "2"],
  ["an escaped key", '{"prev\\u0052esult":"x"}', '"x"'],
  ["braces and quotes inside strings", '{"prevResult":{"s":"}\\"]{"},"z":0}', '{"s":"}\\"]{"}'],
  [
    "numbers JSON.parse would change",
    '{"prevResult":{"n":12345678901234567890}}',
    '{"n":12345678901234567890}',
  ],
  ["null", '{"prevResult":null}', "null"],
  ["an array", '{"prevResult":[1,[2]],"a":{}}', "[1,[2]]"],
  ["an empty object", "{}", undefined],
  ["white space everywhere", ' \n{ \t"prevResult"\r\n:\n true }\n', "true"],
];

test.each(cases)("memberText finds %s", (_name, json, expected) => {
  JSON.parse(json);
  expect(memberText(json, "prevResult")).toBe(expected);
});
