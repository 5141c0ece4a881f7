// SPDX-License-Identifier: Apache-2.0
// What was repaired and what went wrong lately.

import type { NodeReport } from "../../status/node-state-report.ts";
import type { LogLineReport } from "../../status/state-report.ts";
import { showAge } from "./age-clock.ts";
import { byId, make, redraw, setText } from "./element.ts";
import { type KeyedItem, KeyedList } from "./keyed-list.ts";

let errors: KeyedList<LogLineReport> | undefined;

/** Shows counts of repairs, and the last warnings and errors with the newest on top. */
export function showActivity(node: NodeReport): void {
  const { repairs, sidecarRepairs = [], recentErrors, pods, probes, chain } = node;
  const counts = [
    ...repairs.map(({ kind, count }) => ({ kind: `repaired: ${kind}`, count })),
    ...sidecarRepairs.map(({ kind, count }) => ({ kind: `repaired for a sidecar: ${kind}`, count })),
    { kind: "host rules restored", count: probes.restored },
    { kind: "chain entry put back", count: chain?.rewrites ?? 0 },
    ...pods.failing.map(({ kind, count }) => ({ kind: `failing: ${kind}`, count })),
  ].filter(({ count }) => count > 0);
  redraw(byId("repairs"), counts, () => {
    const items = counts.map(({ kind, count }) =>
      make("li", {}, make("b", { class: "number", text: String(count) }), ` ${kind}`),
    );
    return items.length > 0
      ? [make("ul", { class: "repairs" }, ...items)]
      : [make("p", { class: "empty", text: "Nothing had to be repaired." })];
  });
  errors ??= new KeyedList(byId("errors"), { key: keyOf, create: () => logItem() });
  errors.sync([...recentErrors].reverse(), () => false);
  byId("no-errors").hidden = recentErrors.length > 0;
}

/** One line of the log. */
export function logItem(): KeyedItem<LogLineReport> {
  const time = make("time");
  const level = make("span", { class: "level" });
  const message = make("span", { class: "message" });
  const where = make("span", { class: "where" });
  const element = make("li", {}, time, " ", level, " ", message, " ", where);
  return {
    element,
    update(line) {
      showAge(time, line.at);
      element.dataset.level = line.level;
      setText(level, line.level);
      setText(message, line.reason === null ? line.message : `${line.message}: ${line.reason}`);
      setText(where, line.pod === null ? line.scope : `${line.scope} · ${line.ns}/${line.pod}`);
    },
  };
}

/** Lines have no number of their own; two that are equal in all this are one to the reader. */
export function keyOf({ at, scope, message, uid }: LogLineReport): string {
  return `${at} ${scope} ${uid} ${message}`;
}
