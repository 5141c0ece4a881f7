// SPDX-License-Identifier: Apache-2.0
// The check of exported names: that no name is added that another file exports, and that a planted one is found.
import { join } from "node:path";
import { expect, test } from "vitest";
import { readSources } from "../../scripts/check-lessons.ts";
import { findNameFaults } from "../../scripts/check-names.ts";

const planted = (first: string, second: string) => [
  { path: "a/x.ts", text: `${first}\n` },
  { path: "b/y.ts", text: `import { z } from "./z.ts";\n${second}\n` },
];

test("no name is exported by two files, but for those that were", () => {
  expect(findNameFaults(readSources(join(import.meta.dirname, "../../src")))).toEqual([]);
});

test.each([
  ["a function and a type", "export function look(): void {}", "export interface look {}"],
  ["two types", "export interface Look {", "export type Look = string;"],
  ["a class and a constant", "export abstract class Look {", "export const Look = 1;"],
  ["a generator", "export async function* look() {}", "export function look() {}"],
])("%s of one name in two files are a fault", (_, first, second) => {
  expect(findNameFaults(planted(first, second), [])).toEqual([
    expect.stringMatching(/^look is exported by src\/a\/x.ts and src\/b\/y.ts: name what differs$/i),
  ]);
});

test.each([
  ["in one file", "export function look(a: string): void;\nexport function look(a: unknown): void {}", ""],
  ["of which one is not exported", "export function look(): void {}", "function look(): void {}"],
  [
    "of which one begins as the other",
    "export function look(): void {}",
    "export function lookAt(): void {}",
  ],
])("two names %s are none", (_, first, second) => {
  expect(findNameFaults(planted(first, second), [])).toEqual([]);
});

test("an exception that nothing needs any more is a fault", () => {
  expect(findNameFaults(planted("export type A = 1;", "export type B = 1;"), ["A"])).toEqual([
    "scripts/check-names.ts excepts A, which no two files export",
  ]);
});
