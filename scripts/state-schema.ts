// SPDX-License-Identifier: Apache-2.0
// Writes docs/state-api.schema.json from the types of the state API: `node scripts/state-schema.ts`, or `--check` to compare only.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { schemaDefinitions } from "./json-schema.ts";

const root = join(import.meta.dirname, "..");
const fileName = "docs/state-api.schema.json";

/** Answers, and the paths at which they are; see docs/state-api.md. */
const answers: Readonly<Record<string, string>> = {
  PodListReport: "GET /api/v1/pods",
  PodDetailReport: "GET /api/v1/pods/{ns}/{name}",
  NodeReport: "GET /api/v1/node",
  LogLevelsReport: "GET and PUT /api/v1/log-levels",
  StateErrorReport: "every answer that is no success",
};

/** The text of the published schema. @throws Error for a type that has no schema */
export function stateSchema(): string {
  const nameOf = (name: string): string => name.replace(/Report$/, "");
  const $defs = schemaDefinitions({
    configPath: join(root, "tsconfig.json"),
    paths: ["state-report.ts", "node-state-report.ts"].map((name) => join(root, "src/status", name)),
    roots: Object.keys(answers),
    nameOf,
  });
  const where = Object.entries(answers).map(([name, path]) => `${path}: ${nameOf(name)}`);
  const schema = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $comment:
      "Made from src/status/state-report.ts and node-state-report.ts by scripts/state-schema.ts; change the types instead.",
    title: "Answers of the state API of ambient-cni",
    description: `${where.join("; ")}.`,
    $defs,
  };
  return `${JSON.stringify(schema, undefined, 2)}\n`;
}

function main(isCheck: boolean): number {
  const path = join(root, fileName);
  const text = stateSchema();
  if (existsSync(path) && readFileSync(path, "utf8") === text) return 0;
  if (!isCheck) writeFileSync(path, text);
  process.stdout.write(`${isCheck ? "stale" : "written"}: ${fileName} (node scripts/state-schema.ts)\n`);
  return isCheck ? 1 : 0;
}

if (import.meta.main) process.exitCode = main(process.argv.includes("--check"));
