// SPDX-License-Identifier: Apache-2.0
// What is wrong with a run, in words; an empty list is what the tests want.
import type { DeletionReport } from "./deleted-pods.ts";
import type { Fault, Tally } from "./tally.ts";
import type { ToggleReport } from "./toggle-rounds.ts";

/** Everything of the traffic that is not as it should be, with the faults themselves. */
export function wrongs({ ways, forgotten }: Pick<ToggleReport, "ways" | "forgotten">): string[] {
  const lines: string[] = [];
  for (const [name, { requests, failed, hung, streamsEndedEntering, faults }] of Object.entries(ways)) {
    if (failed > 0) {
      lines.push(`${name}: ${failed} of ${requests} requests failed, ${hung} of them hung`);
      lines.push(...faults.map((fault) => `  ${describeFault(fault)}`));
    }
    if (streamsEndedEntering > 0)
      lines.push(`${name}: ${streamsEndedEntering} streams were closed because a pod entered the mesh`);
  }
  for (const [name, open] of Object.entries(forgotten))
    if (open > 0) lines.push(`${name}: the server was not told of the end of ${open} connections`);
  return lines;
}

/** The same of deleted pods. */
export function deletionWrongs({ deleted, leftBehind }: DeletionReport): string[] {
  if (leftBehind === 0) return [];
  return [`${leftBehind} of ${deleted} deleted pods left a connection behind in their peer`];
}

/** A run as a table. */
export function renderReport(report: ToggleReport): string {
  const rows = [...Object.entries(report.ways), ["together", report.total] as const].map(
    ([name, tally]) => [name, ...columns.map((column) => String(Math.round(tally[column])))] as const,
  );
  const head = ["", ...columns.map((column) => words[column])];
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => (row[i] ?? "").length)));
  const lines = [head, ...rows].map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join("  "),
  );
  const rounds = Object.entries(report.rounds).map(([name, count]) => `${name} ${count}`);
  const { enterMs, leaveMs } = report;
  return `${lines.join("\n")}\nrounds: ${rounds.join(", ")}; in after ${enterMs} ms, out after ${leaveMs} ms (p50)`;
}

const columns = [
  "requests",
  "failed",
  "hung",
  "repeated",
  "streamsOpened",
  "streamsEnded",
  "streamLines",
  "maxMs",
] as const satisfies readonly (keyof Tally)[];
const words: Readonly<Record<(typeof columns)[number], string>> = {
  requests: "requests",
  failed: "failed",
  hung: "hung",
  repeated: "repeated",
  streamsOpened: "streams",
  streamsEnded: "closed",
  streamLines: "lines",
  maxMs: "longest ms",
};

function describeFault(fault: Fault): string {
  const { lane, kind, why, round, phase, begunMs, endedMs } = fault;
  return `${lane}: ${kind} (${why}), ${phase} in round ${round}, from ${begunMs} to ${endedMs} ms after the label`;
}
