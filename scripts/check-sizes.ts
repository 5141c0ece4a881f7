// SPDX-License-Identifier: Apache-2.0
// No source file has more than 300 lines: a file of more has two subjects. Those that are not yet split may not grow.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Lines of a file of src/, native/ and plugin/. */
export const maxLines = 300;

/** Files that are to be split still, with the lines that they may have: what they have now. */
export const exceptions: Readonly<Record<string, number>> = {};

/** A source file; its path is relative to the project. */
export interface Source {
  readonly path: string;
  readonly lines: number;
}

/** One line each, none when all is well. Pure. */
export function findSizeFaults(sources: readonly Source[], allowed = exceptions): string[] {
  const faults = sources.flatMap(({ path, lines }) => {
    const most = Math.max(maxLines, allowed[path] ?? 0);
    return lines > most ? [`${path} has ${lines} lines, of ${most}: give one of its subjects a file`] : [];
  });
  for (const path of Object.keys(allowed)) {
    const source = sources.find((each) => each.path === path);
    if (source === undefined || source.lines <= maxLines)
      faults.push(`scripts/check-sizes.ts excepts ${path}, which has no more than ${maxLines} lines`);
  }
  return faults;
}

/** All sources of a project's folder, without what is built. */
export function readSizes(folder: string): Source[] {
  return globSync("{src,native,plugin}/**/*.{ts,c,h,css,html}", { cwd: folder, exclude: ["*/build/**"] }).map(
    (path) => ({
      path,
      lines: readFileSync(join(folder, path), "utf8").split("\n").length - 1,
    }),
  );
}

function main(): number {
  const faults = findSizeFaults(readSizes(join(import.meta.dirname, "..")));
  for (const fault of faults) process.stdout.write(`${fault}\n`);
  return faults.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main();
