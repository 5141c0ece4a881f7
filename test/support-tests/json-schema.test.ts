// SPDX-License-Identifier: Apache-2.0
// The published schema of the state API, and what makes it out of types.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type SchemaSource, schemaDefinitions } from "../../scripts/json-schema.ts";
import type { Schema } from "../../scripts/schema-parts.ts";
import { stateSchema } from "../../scripts/state-schema.ts";

const folder = mkdtempSync(join(tmpdir(), "schema-"));
afterAll(() => rmSync(folder, { recursive: true }));

function definitions(files: Readonly<Record<string, string>>, roots = ["Root"]): Record<string, Schema> {
  const configPath = join(folder, "tsconfig.json");
  const compilerOptions = {
    strict: true,
    module: "nodenext",
    allowImportingTsExtensions: true,
    noEmit: true,
  };
  writeFileSync(configPath, JSON.stringify({ compilerOptions, files: Object.keys(files) }));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const source: SchemaSource = {
    configPath,
    paths: [join(folder, "types.ts")],
    roots,
    nameOf: (name) => name.toLowerCase(),
  };
  return schemaDefinitions(source);
}

const types = `
import type { Other } from "./other.ts";
const words = ["up", "down"] as const;
/** @integer @minimum 0 */
type Count = number;
/** @pattern ^a */
type Name = string;
type State = (typeof words)[number];
interface Base {
  /** When. */
  readonly at: string;
}
/** The root
 * of all. */
export interface Root extends Base {
  readonly count: Count | null;
  readonly names: readonly Name[];
  readonly state: State;
  readonly mode: "a" | "b" | null;
  readonly one: Other | null;
  readonly self?: Root;
  readonly map: Readonly<Record<string, boolean>>;
  readonly family: 4 | 6;
}`;

test("interfaces, aliases, literals, what may be absent and what comes from another file", () => {
  const other = "export interface Other { readonly x: number }";
  expect(definitions({ "types.ts": types, "other.ts": other })).toEqual({
    other: {
      type: "object",
      additionalProperties: false,
      required: ["x"],
      properties: { x: { type: "number" } },
    },
    root: {
      description: "The root of all.",
      type: "object",
      additionalProperties: false,
      required: expect.toSatisfy(
        (names: string[]) => names.toSorted().join() === "at,count,family,map,mode,names,one,state",
      ),
      properties: {
        at: { description: "When.", type: "string" },
        count: { type: ["integer", "null"], minimum: 0 },
        names: { type: "array", items: { type: "string", pattern: "^a" } },
        state: { enum: expect.toSatisfy((words: string[]) => words.toSorted().join() === "down,up") },
        mode: { enum: ["a", "b", null] },
        one: { anyOf: [{ $ref: "#/$defs/other" }, { type: "null" }] },
        self: { $ref: "#/$defs/root" },
        map: { type: "object", additionalProperties: { type: "boolean" } },
        family: { enum: [4, 6] },
      },
    },
  });
});

test.each([
  ["a type without a schema", "export interface Root { readonly f: () => void }", /"Root\.f": FunctionType/],
  [
    "a tag that nobody knows",
    "/** @maxLength 3 */ type A = string; export interface Root { a: A }",
    /maxLength/,
  ],
  ["a method", "export interface Root { f(): void }", /"Root\.f": it is no property/],
  ["a root that is not there", "export interface Wood { a: string }", /no interface "Root"/],
])("%s is told of, and no schema is made", (_, text, why) => {
  expect(() => definitions({ "types.ts": text })).toThrow(why);
});

test("docs/state-api.schema.json is what the types say now (node scripts/state-schema.ts)", () => {
  const path = new URL("../../docs/state-api.schema.json", import.meta.url);
  expect(readFileSync(path, "utf8")).toBe(stateSchema());
});
