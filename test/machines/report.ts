// SPDX-License-Identifier: Apache-2.0
// What was run on which machine, as a table for the terminal and as a part of a Markdown page. Pure.
import { type Cells, columns, markdownTable } from "../support/result-tables.ts";

/** A machine and what it says of itself. */
export interface MachineRow {
  readonly name: string;
  readonly kernel: string;
  readonly processor: string;
  readonly cgroups: string;
  readonly iptables: string;
  readonly nftables: string;
  /** What is special about it; empty for nothing. */
  readonly variant: string;
  /** Seconds from the start of its kernel to its first program. */
  readonly bootS: number;
  /** Day of its run, YYYY-MM-DD. */
  readonly date: string;
}

/** How one step went. */
export interface StepRow {
  readonly machine: string;
  readonly what: string;
  readonly passed: number;
  /** What failed, or did not run though it could have; one line each. */
  readonly failures: readonly string[];
  readonly seconds: number;
}

/** All of it. */
export interface Report {
  readonly machines: readonly MachineRow[];
  readonly steps: readonly StepRow[];
  /** What was not run, and why. */
  readonly gaps: readonly string[];
}

const machineHead: Cells = [
  "machine",
  "linux",
  "processor",
  "cgroups",
  "iptables",
  "nftables",
  "boot",
  "run",
  "but",
];
const stepHead: Cells = ["machine", "what", "passed", "seconds", "result"];

function machineCells(row: MachineRow): Cells {
  const { name, kernel, processor, cgroups, iptables, nftables, bootS, date, variant } = row;
  return [
    name,
    kernel,
    processor,
    cgroups,
    iptables,
    nftables,
    `${bootS.toFixed(1)} s`,
    date,
    variant || "-",
  ];
}

function stepCells({ machine, what, passed, seconds, failures }: StepRow): Cells {
  const result = failures.length === 0 ? "passed" : `${failures.length} FAILED`;
  return [machine, what, String(passed), String(seconds), result];
}

function failureLines({ steps }: Report): string[] {
  return steps.flatMap(({ machine, what, failures }) =>
    failures.map((line) => `${machine}, ${what}: ${line}`),
  );
}

/** For the terminal. */
export function textOf(report: Report): string {
  const failures = failureLines(report);
  return [
    "What was run on which machine",
    "",
    ...columns([machineHead, ...report.machines.map(machineCells)]),
    "",
    ...columns([stepHead, ...report.steps.map(stepCells)]),
    ...(failures.length === 0 ? [] : ["", "Failed:", ...failures.map((line) => `  ${line}`)]),
    "",
    "Not run:",
    ...report.gaps.map((line) => `  ${line}`),
    "",
  ].join("\n");
}

/** For a page. */
export function markdownOf(report: Report): string {
  const failures = failureLines(report);
  return [
    "## Kernels and processors",
    "",
    "Run with `npm run test:machines`: whole machines of Debian's kernels and packages, each played by qemu, with 2 processors and 3 GB.",
    "Versions are the machines' own words; seconds tell of the program that plays them and of what ran beside it, not of ours.",
    "",
    ...markdownTable([machineHead, ...report.machines.map(machineCells)]),
    "",
    ...markdownTable([stepHead, ...report.steps.map(stepCells)]),
    ...(failures.length === 0 ? [] : ["", "Failed:", "", ...failures.map((line) => `- ${line}`)]),
    "",
    "Not run:",
    "",
    ...report.gaps.map((line) => `- ${line}`),
  ].join("\n");
}
