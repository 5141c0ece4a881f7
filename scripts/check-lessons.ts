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
    name: "wait",
    pattern: new RegExp(
      [
        // without options nothing ends it but its time
        String.raw`\bdelay\((?:[^(),]|\([^()]*\))*\)`,
        String.raw`new Promise(?:<[^(]*>)?\(\(?\w+\)? => .*(?:\bsetTimeout|\.after)\(`,
        // under another name the first pattern would not know it
        String.raw`\bsetTimeout\b(?! as delay\b)[^}]*\} from "(?:node:)?timers/promises"`,
      ].join("|"),
    ),
    instead:
      "hand it the signal of who waits, as Clock.sleep of src/loop takes one: whoever stops must not be waited for",
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
    line: "using _timer = setInterval(() => progress.say(",
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
  {
    path: "redirection/pod-connections.ts",
    lesson: "wait",
    line: "await delay(SECOND_LOOK_MS);",
    reason: "20 ms within a step that takes as long by itself",
  },
  {
    path: "redirection/passthrough-address.ts",
    lesson: "wait",
    line: "await delay(PLUGIN_ENDS_MS);",
    reason: "100 ms within the same step",
  },
  {
    path: "redirection/pod-routing.ts",
    lesson: "wait",
    line: "await delay(LOOPBACK_POLL_MS);",
    reason: "10 ms, for at most 5 s, in a step of an ADD: half a step is worse than one that ends later",
  },
  {
    path: "probes/iptables-host.ts",
    lesson: "wait",
    line: "await delay(DESTROY_PAUSE_MS);",
    reason: "50 ms, for at most 2 s: a set that stays is left on the host",
  },
  {
    path: "install/launcher-copy.ts",
    lesson: "wait",
    line: "await delay(busyPauseMs);",
    reason: "20 ms, at most 50 times: the chain must not name a launcher that does not start",
  },
  {
    path: "kube/own-daemonset.ts",
    lesson: "wait",
    line: "await new Promise((resolve) => setTimeout(resolve, pauseMs));",
    reason: "asked when the agent stops, up to a deadline of its own",
  },
  {
    path: "uninstall/uninstall-launcher.ts",
    lesson: "wait",
    line: "await delay(quietMs);",
    reason: "leaving for good is not broken off in the middle; main.ts has the limit",
  },
  {
    path: "uninstall/uninstall-calls.ts",
    lesson: "wait",
    line: "await delay(leftMs);",
    reason: "leaving for good is not broken off in the middle; main.ts has the limit",
  },
  {
    path: "uninstall/istio-entry.ts",
    lesson: "wait",
    line: "await delay(100);",
    reason: "leaving for good is not broken off in the middle; main.ts has the limit",
  },
  {
    path: "uninstall/announced-pods.ts",
    lesson: "wait",
    line: "await delay(leavePauseMs);",
    reason: "leaving for good is not broken off in the middle; main.ts has the limit",
  },
  {
    path: "diagnose/verify-node.ts",
    lesson: "wait",
    line: "await delay(CONFIRM_MS);",
    reason: "300 ms in a command that a person ends with a signal to its process",
  },
  {
    path: "enrolment/pod-runs.ts",
    lesson: "wait",
    line: "clock.after(againMs, resolve)",
    reason: "leaving for good is not broken off in the middle; main.ts has the limit",
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
