// SPDX-License-Identifier: Apache-2.0
// What was run where, as a table for the terminal and as a part of a Markdown page. Pure.
import { type Cells, columns, markdownTable } from "../support/result-tables.ts";

/** A root and what its programs say of themselves. */
export interface RootRow {
  readonly suite: string;
  readonly containerd: string;
  readonly runc: string;
  readonly iptables: string;
  readonly nftables: string;
  readonly plugins: string;
  /** Empty where there is none that runs chains of CNI. */
  readonly podman: string;
  /** Day on which its packages were fetched. */
  readonly fetched: string;
}

/** How one step went. */
export interface RunRow {
  readonly suite: string;
  readonly chain: string;
  readonly what: string;
  readonly passed: number;
  /** What failed, or did not run though it could have; one line each. */
  readonly failures: readonly string[];
  readonly seconds: number;
}

/** All of it. */
export interface Report {
  /** YYYY-MM-DD. */
  readonly date: string;
  /** Kernel, processor and cgroups of the machine. */
  readonly machine: string;
  readonly roots: readonly RootRow[];
  readonly runs: readonly RunRow[];
  /** What was not run, and why. */
  readonly gaps: readonly string[];
}

const rootHead: Cells = [
  "Debian",
  "containerd",
  "runc",
  "iptables",
  "nftables",
  "CNI plugins",
  "podman",
  "fetched",
];
const runHead: Cells = ["Debian", "CNI", "what", "tests", "seconds", "result"];

function rootCells(row: RootRow): Cells {
  return [
    row.suite,
    row.containerd,
    row.runc,
    row.iptables,
    row.nftables,
    row.plugins,
    row.podman || "-",
    row.fetched,
  ];
}

function runCells(row: RunRow): Cells {
  const result = row.failures.length === 0 ? "passed" : `${row.failures.length} FAILED`;
  return [row.suite, row.chain, row.what, String(row.passed), String(row.seconds), result];
}

/** For the terminal. */
export function textOf(report: Report): string {
  const failures = failureLines(report);
  return [
    `What was run where (${report.date}, ${report.machine})`,
    "",
    ...columns([rootHead, ...report.roots.map(rootCells)]),
    "",
    ...columns([runHead, ...report.runs.map(runCells)]),
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
    "## Container runtimes",
    "",
    `Run on ${report.date} with \`npm run test:runtimes\`; ${report.machine}. Versions are the programs' own.`,
    "",
    ...markdownTable([rootHead, ...report.roots.map(rootCells)]),
    "",
    ...markdownTable([runHead, ...report.runs.map(runCells)]),
    ...(failures.length === 0 ? [] : ["", "Failed:", "", ...failures.map((line) => `- ${line}`)]),
    "",
    "Not run:",
    "",
    ...report.gaps.map((line) => `- ${line}`),
  ].join("\n");
}

function failureLines({ runs }: Report): string[] {
  return runs.flatMap(({ suite, chain, what, failures }) =>
    failures.map((line) => `${suite}, CNI ${chain}, ${what}: ${line}`),
  );
}
