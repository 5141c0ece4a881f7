// SPDX-License-Identifier: Apache-2.0
// The template functions that deploy/chart uses, doing what Helm's do.
// Source: masterminds.github.io/sprig; helm.sh/docs "Template Functions and Pipelines"
import { createHash } from "node:crypto";
import { parse, stringify } from "yaml";

/** What a template computes with. */
export type Value = unknown;
type Table = Record<string, Value>;

/** Empty as `if`, `with` and `default` see it. */
export function isEmpty(value: Value): boolean {
  if (value === null || value === undefined || value === false || value === 0 || value === "") return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** Text of a value as an action prints it. @throws Error for what has no sensible text: a map, a list, nothing at all */
export function printed(value: Value): string {
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  throw new Error(`Cannot print ${JSON.stringify(value) ?? "a value that is not there"}`);
}

/** Keys in the order in which Go visits and writes them. */
export function sortedKeys(value: object): string[] {
  return Object.keys(value).sort();
}

function mergeOver(target: Table, source: Table): Table {
  for (const [key, value] of Object.entries(source)) {
    const old = target[key];
    target[key] = isTable(old) && isTable(value) ? mergeOver(old, value) : value;
  }
  return target;
}

function isTable(value: Value): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** With sorted keys, and characters that HTML minds escaped, as Go does. */
function goJson(value: Value): string {
  const sorted = (inner: Value): Value => {
    if (Array.isArray(inner)) return inner.map(sorted);
    if (!isTable(inner)) return inner;
    return Object.fromEntries(sortedKeys(inner).map((key) => [key, sorted(inner[key])]));
  };
  const escapes: Record<string, string> = { "<": "\\u003c", ">": "\\u003e", "&": "\\u0026" };
  return JSON.stringify(sorted(value)).replace(/[<>&]/g, (character) => escapes[character] ?? character);
}

/** Kubernetes reads YAML 1.1, where `on` and `yes` are booleans: such strings need quotes. */
function toYaml(value: Value): string {
  return stringify(value, { version: "1.1", sortMapEntries: true, lineWidth: 0 }).trimEnd();
}

function indent(spaces: Value, text: Value): string {
  const margin = " ".repeat(Number(spaces));
  return printed(text)
    .split("\n")
    .map((line) => `${margin}${line}`)
    .join("\n");
}

function kindOf(value: Value): string {
  if (value === null || value === undefined) return "invalid";
  if (Array.isArray(value)) return "slice";
  return { boolean: "bool", number: "float64", string: "string" }[typeof value as string] ?? "map";
}

function pairs(values: readonly Value[]): Table {
  const table: Table = {};
  for (let at = 0; at < values.length; at += 2) table[printed(values[at])] = values[at + 1];
  return table;
}

function format(template: string, values: readonly Value[]): string {
  let next = 0;
  return template.replace(/%([sqdv])/g, (_, verb: string) => {
    const text = printed(values[next++]);
    return verb === "q" ? JSON.stringify(text) : text;
  });
}

/** `>=X.Y.Z-0` alone, which asks for a version or any later one. */
function semverCompare(constraint: Value, version: Value): boolean {
  const [, ...least] = /^>=(\d+)\.(\d+)\.(\d+)-0$/.exec(printed(constraint)) ?? [];
  const [, ...given] = /^v?(\d+)\.(\d+)\.(\d+)/.exec(printed(version)) ?? [];
  if (least.length === 0 || given.length === 0)
    throw new Error(`Cannot compare "${version}" with "${constraint}"`);
  for (const [at, number] of least.entries()) {
    if (Number(given[at]) !== Number(number)) return Number(given[at]) > Number(number);
  }
  return true;
}

/** By name; `and`, `or` and `include` are the evaluator's own. */
export const functions: Readonly<Record<string, (...args: Value[]) => Value>> = {
  coalesce: (...values) => values.find((value) => !isEmpty(value)),
  contains: (part, text) => printed(text).includes(printed(part)),
  deepCopy: (value) => structuredClone(value),
  default: (fallback, value) => (isEmpty(value) ? fallback : value),
  dict: (...values) => pairs(values),
  eq: (a, b) => a === b,
  fail: (message) => {
    throw new Error(printed(message));
  },
  fromJson: (text) => JSON.parse(printed(text)),
  fromYaml: (text) => parse(printed(text)),
  // of a key that is not there: the empty string
  get: (table, key) =>
    (table as Table)[printed(key)] ?? ((table as Table)[printed(key)] === null ? null : ""),
  hasKey: (table, key) => Object.hasOwn(table as Table, printed(key)),
  indent,
  join: (separator, list) => (list as Value[]).map(printed).join(printed(separator)),
  keys: (table) => Object.keys(table as Table),
  kindIs: (kind, value) => kindOf(value) === kind,
  mergeOverwrite: (target, ...sources) =>
    sources.reduce<Table>((merged, source) => mergeOver(merged, source as Table), target as Table),
  nindent: (spaces, text) => `\n${indent(spaces, text)}`,
  not: (value) => isEmpty(value),
  printf: (template, ...values) => format(printed(template), values),
  quote: (value) => JSON.stringify(printed(value)),
  set: (table, key, value) => {
    (table as Table)[printed(key)] = value;
    return table;
  },
  sha256sum: (text) => createHash("sha256").update(printed(text)).digest("hex"),
  semverCompare,
  sortAlpha: (list) => (list as Value[]).map(printed).sort(),
  toJson: goJson,
  toString: (value: Value) => printed(value),
  toYaml,
};
