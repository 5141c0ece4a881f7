// SPDX-License-Identifier: Apache-2.0
// The campaign's table as text.
import type { Row } from "./campaign.ts";
import { type Costs, generalBounds, startLimitMs } from "./general-bounds.ts";

const { stopMs, rssRiseMb, logLines, addFactor } = generalBounds;

interface Column {
  readonly title: string;
  readonly of: (row: Row) => string;
  readonly isRight?: boolean;
}

const figure = (of: (costs: Costs, row: Row) => string) => (row: Row) =>
  row.costs === undefined ? "-" : of(row.costs, row);

const columns: readonly Column[] = [
  { title: "attack", of: ({ attack }) => attack.name },
  { title: "what is done", of: ({ attack }) => attack.what },
  { title: "its bound", of: ({ attack }) => attack.bound },
  { title: "measured", of: ({ measured }) => measured || "-" },
  {
    title: "ADD ms (quiet, most)",
    of: figure((costs) => {
      const [now, before, most] = [costs.attacked.meshMs, costs.quiet.meshMs, startLimitMs(costs)].map(
        Math.round,
      );
      return `${now} (${before}, ${most})`;
    }),
    isRight: true,
  },
  {
    title: "ours",
    of: figure((_, { ownMs }) => ownMs.toReversed().map(Math.round).join(" (").concat(")")),
    isRight: true,
  },
  {
    title: "stop ms (work, floor)",
    of: figure(({ stopMs: stop, workMs, floorMs }) => {
      const [most, work, floor] = [stop, workMs, floorMs].map(Math.round);
      return `${most} (${work}, ${floor})`;
    }),
    isRight: true,
  },
  {
    title: "RSS MB (kept)",
    of: figure(({ rssRiseMb: most, rssKeptMb: kept }) => `${signed(most)} (${signed(kept)})`),
    isRight: true,
  },
  { title: "log", of: figure((costs) => String(costs.logLines)), isRight: true },
  { title: "others", of: figure((costs) => (costs.strays.length === 0 ? "as before" : "HURT")) },
  { title: "s", of: ({ tookMs }) => (tookMs / 1000).toFixed(1), isRight: true },
  { title: "", of: ({ verdict }) => verdict },
];

/** All rows, what is wrong with some of them, and the count. */
export function renderTable(rows: readonly Row[]): string {
  const cells = [columns.map(({ title }) => title), ...rows.map((row) => columns.map(({ of }) => of(row)))];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]?.length ?? 0)));
  const lines = cells.map((line) =>
    line
      .map((cell, index) =>
        columns[index]?.isRight === true
          ? cell.padStart(widths[index] ?? 0)
          : cell.padEnd(widths[index] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
  const reasons = rows.flatMap(({ attack, verdict, reasons: why }) =>
    why.map((reason) => `${verdict} ${attack.name}: ${reason}`),
  );
  return [...lines, "", legend, ...(reasons.length === 0 ? [] : ["", ...reasons])].join("\n");
}

const legend =
  `for each: the agent lives, ADD of another tenant takes at most ${addFactor} times the quiet one (and as much more as that of a pod without us), ` +
  `its loop stops for at most ${stopMs} ms or the floor, memory rises by less than ${rssRiseMb} MB at its peak, ` +
  `the log by less than ${logLines} lines, and nobody else's pod, rule or place at ztunnel changes; times are judged by the better of two runs`;

/** `N passed, N failed`, with those known to fail when there are some. */
export function renderCount(rows: readonly Row[]): string {
  const count = (verdict: Row["verdict"]): number => rows.filter((row) => row.verdict === verdict).length;
  const known = count("known");
  return `${count("ok")} passed, ${count("FAILED")} failed${known === 0 ? "" : `, ${known} known`}`;
}

/** A line for a row as soon as it is there. */
export function renderProgress({ attack, verdict, tookMs, reasons }: Row): string {
  const why = reasons.length === 0 ? "" : `: ${reasons.join("; ").split("\n")[0]}`;
  return `${verdict.padEnd(6)} ${attack.name} (${(tookMs / 1000).toFixed(1)} s)${why}`;
}

function signed(value: number): string {
  const whole = Math.round(value);
  return whole > 0 ? `+${whole}` : String(whole);
}
