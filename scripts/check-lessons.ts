// SPDX-License-Identifier: Apache-2.0
// Faults that this code had once and must not have again, as patterns of source lines, and the check that fails where one is.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** One lesson. */
export interface Lesson {
  readonly name: string;
  /** A line of code with the fault in it. */
  readonly pattern: RegExp;
  /** What to do instead. */
  readonly instead: string;
  /** Files in which it is no fault; paths are relative to src/. */
  readonly isAllowedIn?: (path: string) => boolean;
}

/** A line that may stay as it is. */
export interface Exception {
  /** Relative to src/. */
  readonly path: string;
  readonly lesson: string;
  /** Part of the line. */
  readonly line: string;
  readonly reason: string;
}

/** A source file; its path is relative to src/. */
export interface Source {
  readonly path: string;
  readonly text: string;
}

/** Names that hold sentences for people here. */
const sentence = "(?:message|reason|detail|remedy|summary|why|fault)";
const asked = "(?:includes|startsWith|endsWith|indexOf|search|match|matchAll)";

export const lessons: readonly Lesson[] = [
  {
    name: "words",
    pattern: new RegExp(
      [
        String.raw`\b${sentence}\)?\??\.(?:toLowerCase\(\)\.)?${asked}\(`,
        String.raw`/[a-z]*\.(?:test|exec)\([^)]*\b${sentence}\b`,
        String.raw`\b(?:message|detail|remedy)\s*[!=]==\s*["'\`]`,
        String.raw`\.startsWith\("no-`,
      ].join("|"),
    ),
    instead: "decide by a type or a code: rewording a sentence must change nothing",
  },
  {
    name: "error-name",
    pattern: /\b(?:error|err|cause|failure)\??\.(?:name|constructor)\b/,
    instead: "ask instanceof, or for a code",
  },
  {
    name: "interval",
    pattern: /\bsetInterval\(/,
    instead: "use a loop of src/loop, whose clock tests replace",
    isAllowedIn: (path) => path.startsWith("loop/"),
  },
  {
    name: "process",
    pattern: /["'`](?:node:)?(?:child_process|cluster)["'`]/,
    instead: "start it through the ToolRunner, which bounds number, time and output and inherits nothing",
    isAllowedIn: (path) => path === "linux/run-tool.ts",
  },
  {
    name: "printed-rules",
    pattern: new RegExp(
      [
        String.raw`\bparseSave\b|/save-parser\.ts["']`,
        // the program, as an iptables variant's tools name it, or by its own name
        String.raw`(?:\btools|\])!?\??\.save\b|\{[^}]*\bsave\b[^}]*\} = |["'\`]ip6?tables(?:-nft|-legacy)?-save\b`,
      ].join("|"),
    ),
    instead: "ask an engine: whoever writes in a namespace writes what a program prints of it",
    // in namespaces of the agent's own, where nobody else writes, it proves what is recorded there
    isAllowedIn: (path) => /^netfilter\/(?:[a-z]+\/)?(?:save-parser|tables-program)\.ts$/.test(path),
  },
];

export const exceptions: readonly Exception[] = [
  {
    path: "kube/annotation-writer.ts",
    lesson: "words",
    line: "/precondition.*uid/i.test(error.message)",
    reason: "a Conflict has no cause that tells a precondition on the UID from one on the version",
  },
  {
    path: "kube/api-error.ts",
    lesson: "error-name",
    line: 'error.name === "TimeoutError"',
    reason: "the name of a DOMException is its code. Source: WHATWG DOM, AbortSignal.timeout",
  },
  {
    path: "status/process-facts.ts",
    lesson: "interval",
    line: "this.#timer = setInterval(() => {",
    reason: "empties a histogram of the event loop at even times; it keeps nothing true",
  },
  {
    path: "cli/doctor-command.ts",
    lesson: "interval",
    line: "const timer = setInterval(() => progress.say(",
    reason: "a line on a terminal while a command runs",
  },
  {
    path: "dashboard/page/age-clock.ts",
    lesson: "interval",
    line: "setInterval(() => {",
    reason: "runs in a browser",
  },
  {
    path: "netfilter/variant-tools.ts",
    lesson: "printed-rules",
    line: "await isInstalled(tools.save, runner.path)",
    reason: "looks whether the program is there",
  },
];

/** Lines with a fault, and exceptions that no line needs any more; one line each, none when all is well. Pure. */
export function findLessonFaults(
  sources: readonly Source[],
  {
    table = lessons,
    allowed = exceptions,
  }: { table?: readonly Lesson[]; allowed?: readonly Exception[] } = {},
): string[] {
  const faults: string[] = [];
  const used = new Set<Exception>();
  for (const { path, text } of sources) {
    for (const [index, line] of text.split("\n").entries()) {
      if (isComment(line)) continue;
      for (const { name, pattern, instead, isAllowedIn } of table) {
        if (!pattern.test(line) || isAllowedIn?.(path) === true) continue;
        const exception = allowed.find(
          (each) => each.path === path && each.lesson === name && line.includes(each.line),
        );
        if (exception === undefined)
          faults.push(`src/${path}:${index + 1} (${name}): ${line.trim()}: ${instead}`);
        else used.add(exception);
      }
    }
  }
  for (const each of allowed)
    if (!used.has(each))
      faults.push(`scripts/check-lessons.ts excepts "${each.line}" in src/${each.path}, where it is not`);
  return faults;
}

function isComment(line: string): boolean {
  return /^\s*(?:\/\/|\/?\*)/.test(line);
}

/** All sources below a folder. */
export function readSources(folder: string): Source[] {
  return globSync("**/*.ts", { cwd: folder }).map((path) => ({
    path,
    text: readFileSync(join(folder, path), "utf8"),
  }));
}

function main(): number {
  const faults = findLessonFaults(readSources(join(import.meta.dirname, "../src")));
  for (const fault of faults) process.stdout.write(`${fault}\n`);
  return faults.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main();
