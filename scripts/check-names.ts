// SPDX-License-Identifier: Apache-2.0
// One name, one meaning: no two files of src/ export the same name. Pure but for reading the sources.
import { join } from "node:path";
import { readSources, type Source } from "./check-lessons.ts";

/** Names that two files export still; none may be added. */
export const twice: readonly string[] = [
  "Exchange",
  "Family",
  "Finding",
  "HostRules",
  "ProbePathReport",
  "ProbedPod",
  "ReadOptions",
  "RuleCount",
  "TablePlace",
  "canonicalAddress",
  "failureOf",
  "isTouched",
  "keyOf",
  "renderTable",
];

const exported =
  /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|class|interface|type|const|let) (\w+)/gm;

/** One line each, none when all is well; names that are excepted and not there twice are faults as well. */
export function findNameFaults(sources: readonly Source[], allowed = twice): string[] {
  const places = new Map<string, Set<string>>();
  for (const { path, text } of sources)
    for (const [, name = ""] of text.matchAll(exported))
      places.set(name, (places.get(name) ?? new Set()).add(path));
  const doubled = [...places].filter(([, paths]) => paths.size > 1);
  const faults = doubled
    .filter(([name]) => !allowed.includes(name))
    .map(
      ([name, paths]) =>
        `${name} is exported by ${[...paths].map((path) => `src/${path}`).join(" and ")}: name what differs`,
    );
  const left = allowed.filter((name) => !doubled.some(([each]) => each === name));
  return [
    ...faults,
    ...left.map((name) => `scripts/check-names.ts excepts ${name}, which no two files export`),
  ];
}

function main(): number {
  const faults = findNameFaults(readSources(join(import.meta.dirname, "../src")));
  for (const fault of faults) process.stdout.write(`${fault}\n`);
  return faults.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main();
