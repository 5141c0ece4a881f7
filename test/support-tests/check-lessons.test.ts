// SPDX-License-Identifier: Apache-2.0
// The check of faults that this code had once: that the sources pass, and that each of them would be found again.
import { join } from "node:path";
import { expect, test } from "vitest";
import { exceptions, findLessonFaults, lessons, readSources } from "../../scripts/check-lessons.ts";

const src = join(import.meta.dirname, "../../src");

test("no source has a fault that this code had once, and no exception is left over", () => {
  expect(findLessonFaults(readSources(src))).toEqual([]);
});

/** The first seven, and those that print rules, are lines that this code had. */
test.each([
  ["words", 'const isZtunnel = reason.includes("ztunnel");'],
  ["words", 'else if (outcome.startsWith("no-")) record.failures = 0;'],
  ["words", 'if (error instanceof ProbesError && error.message.includes("tables")) return;'],
  ["words", 'return drift.some(({ detail }) => detail.includes("of pod " + uid));'],
  ["words", 'if (why.includes("ETXTBSY") && attempt < maxBusyTries) {'],
  ["error-name", "const kind = kindsByErrorName.get(error.name);"],
  ["interval", "this.#timer = setInterval(() => void this.#publish(), 1_000);"],
  ["wait", "await delay(pauseMs);"],
  ["wait", "await delay(Math.min(leftMs, 20));"],
  ["wait", "await new Promise((resolve) => setTimeout(resolve, 100));"],
  ["wait", "await new Promise<void>((resolve) => this.#clock.after(againMs, resolve));"],
  ["wait", 'import { setTimeout as pause } from "node:timers/promises";'],
  ["words", "if (/no ztunnel/.test(failure.message)) return retry();"],
  ["words", 'if (error?.message.toLowerCase().startsWith("cannot")) return;'],
  ["words", "if ((error as Error).message.match(/busy/)) continue;"],
  ["words", 'if (failure.message === "no ztunnel connection") wait();'],
  ["error-name", "switch (cause.constructor.name) {"],
  ["process", 'import { execFile } from "node:child_process";'],
  ["process", 'const { spawn } = await import("child_process");'],
  ["process", 'const cluster = require("node:cluster");'],
  ["printed-rules", 'import { parseSave } from "../netfilter/save-parser.ts";'],
  ["printed-rules", "const found = { ruleset: parseSave(text), counts: readCounts(text) };"],
  ["printed-rules", 'argv: [tools.save, "-c"],'],
  ["printed-rules", "const save = toolsOf(backend)?.[family]?.save;"],
  ["printed-rules", "const { save, restore } = tools;"],
  ["printed-rules", 'const { stdout } = await runner.run({ argv: ["iptables-nft-save"], netnsFd });'],
])("a decision of the kind %s is found: %s", (name, line) => {
  const faults = findLessonFaults([{ path: "enrolment/planted.ts", text: `// above\n${line}\n` }], {
    allowed: [],
  });
  expect(faults).toEqual([expect.stringContaining(`src/enrolment/planted.ts:2 (${name}): `)]);
});

test.each([
  ["a comment", "enrolment/x.ts", '  // not reason.includes("ztunnel")'],
  ["a docstring", "enrolment/x.ts", " * `error.name` and setInterval(f) are not asked"],
  ["a sentence that is only told", "enrolment/x.ts", "log.warn({ reason: failure.message }, message);"],
  ["a code", "enrolment/x.ts", 'if (failure.code === "ztunnel-away") return;'],
  ["a comparison of two sentences", "kube/x.ts", "const isRepeat = earlier?.message === message;"],
  ["other texts", "linux/x.ts", 'if (line.includes("ISTIO_") || text.startsWith("-A ")) found.push(line);'],
  ["the one place where processes start", "linux/run-tool.ts", 'import { spawn } from "node:child_process";'],
  ["the proof in a namespace of our own", "netfilter/tables-program.ts", "argv: [tools.save]"],
  ["something else that is saved", "enrolment/x.ts", "this.#keeper?.save(sandbox);"],
  ["a wait with a signal", "cli/x.ts", "await delay(100, undefined, { signal });"],
  ["a wait of several lines, with one", "cli/x.ts", "await delay(Math.max(0, leftMs), undefined, {"],
  ["the clock that takes a signal", "enrolment/x.ts", "await clock.sleep(pauseMs, signal);"],
  ["the loops' own timer", "loop/x.ts", "setInterval(tick, 1_000);"],
])("%s is no fault", (_, path, text) => {
  expect(findLessonFaults([{ path, text }], { allowed: [] })).toEqual([]);
});

test("an exception holds for its file, its lesson and its line alone", () => {
  const [exception] = exceptions;
  if (exception === undefined) throw new Error("there is no exception");
  const text = `  return error.status === 409 && ${exception.line};`;
  const faultsOf = (path: string, more = "") =>
    findLessonFaults([{ path, text: text + more }], { allowed: [exception] });
  expect(faultsOf(exception.path)).toEqual([]);
  expect(faultsOf(exception.path, '\nif (error.message.includes("uid")) return;')).toHaveLength(1);
  expect(faultsOf("kube/other.ts")).toEqual([
    expect.stringContaining("src/kube/other.ts:1 (words)"),
    expect.stringContaining("where it is not"),
  ]);
});

test("every lesson says what to do instead, and every exception why", () => {
  for (const { instead } of lessons) expect(instead).toMatch(/ /);
  for (const { reason } of exceptions) expect(reason).toMatch(/ /);
});
