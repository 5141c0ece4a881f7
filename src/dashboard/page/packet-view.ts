// SPDX-License-Identifier: Apache-2.0
// Draws the ways of a pod's packets as lines with stops, and lets the counters grow where they stand.
import type { ObservedReport } from "../../status/state-report.ts";
import type { PodRulesReport } from "../rules-report.ts";
import { make, redraw, setAttribute, setText } from "./element.ts";
import { count, duration, size } from "./format.ts";
import { type KeyedItem, KeyedList } from "./keyed-list.ts";
import {
  type Lane,
  missingHooks,
  type PlaceStop,
  packetLanes,
  type RuleStop,
  type Stop,
} from "./packet-lanes.ts";

/** The rules of the pod that is open. */
export class PacketView {
  readonly element: HTMLElement;
  readonly #lanes = make("div", { class: "lanes" });
  readonly #note = make("p", { class: "note" });
  readonly #faults = make("ul", { class: "faults" });
  readonly #list: KeyedList<Lane>;

  constructor() {
    this.#list = new KeyedList(this.#lanes, { key: ({ path }) => path, create: () => laneItem() });
    this.#faults.hidden = true;
    this.element = make(
      "section",
      { class: "block packets" },
      make("h3", { text: "The path of a packet" }),
      this.#note,
      this.#faults,
      this.#lanes,
    );
    setText(this.#note, "reading the rules from the kernel…");
  }

  update(rules: PodRulesReport, observed: ObservedReport | null): void {
    const lanes = packetLanes(rules, observed);
    this.#list.sync(lanes);
    setText(this.#note, noteOf(rules, lanes.length > 0));
    const faults = missingHooks(rules);
    this.#faults.hidden = faults.length === 0;
    redraw(this.#faults, faults, () => faults.map((text) => make("li", { text })));
  }

  /** The rules cannot be told at the moment. */
  fail(reason: string): void {
    setText(this.#note, reason);
  }
}

function noteOf({ unread, wanted, sidecar, variant, ms }: PodRulesReport, hasRules: boolean): string {
  if (sidecar)
    return "The pod is redirected to its own sidecar. Its rules are not counted here: ambient-cni rules --sidecar prints them.";
  if (unread !== null) return `Not read: ${unread}.`;
  if (!hasRules && wanted !== true)
    return "The pod is not in the mesh, and none of our rules is in its namespace.";
  const leftover =
    wanted === false ? "The pod should not be in the mesh, and these rules are left over. " : "";
  return `${leftover}Read from the kernel in ${duration(ms)} with iptables-${variant}-save. Table nat counts the first packet of each connection.`;
}

function laneItem(): KeyedItem<Lane> {
  const title = make("h4");
  const stops = make("ol", { class: "stops" });
  const element = make("section", { class: "lane" }, title, stops);
  const list = new KeyedList<Stop>(stops, {
    key: ({ key }) => key,
    create: (stop) =>
      stop.kind === "rule" ? (ruleItem() as KeyedItem<Stop>) : (placeItem() as KeyedItem<Stop>),
  });
  return {
    element,
    update({ path, title: text, stops: items }) {
      element.dataset.path = path;
      setText(title, text);
      list.sync(items);
    },
  };
}

function ruleItem(): KeyedItem<RuleStop> {
  const title = make("span", { class: "title" });
  const verdict = make("span", { class: "verdict-of-rule" });
  const matches = make("span");
  const code = make("code", {}, matches, " ", verdict);
  const counts = make("span", { class: "counts-of-rule" });
  const element = make("li", { class: "stop rule" }, title, " ", code, " ", counts);
  const shown = new Map<number, HTMLElement>();
  return {
    element,
    update(stop) {
      const total = stop.counts.reduce((sum, { packets }) => sum + packets, 0);
      element.dataset.state = stop.state;
      setAttribute(element, "data-hit", total > 0 ? "" : undefined);
      const lack = stop.state === "missing" ? "Missing: " : "";
      setText(title, `${lack}${stop.title}`);
      // where a rule of others leads is nobody's to tell
      setText(verdict, stop.verdict === "" ? "" : `→ ${stop.verdict}`);
      setText(matches, `${stop.where} ${stop.matches}`.trimEnd());
      for (const { family, packets, bytes, state } of stop.counts) {
        let number = shown.get(family);
        if (number === undefined) {
          number = make("span", { class: "count" });
          shown.set(family, number);
          counts.append(number, " ");
        }
        const isThere = state !== "missing";
        const text = isThere
          ? `IPv${family} ${count(packets, "packet")}, ${size(bytes)}`
          : `IPv${family} missing`;
        const before = Number(number.dataset.packets ?? packets);
        number.dataset.packets = String(packets);
        setAttribute(number, "data-zero", isThere && packets === 0 ? "" : undefined);
        if (setText(number, text) && packets > before) grow(number);
      }
    },
  };
}

function grow(number: HTMLElement): void {
  number.classList.remove("grown");
  requestAnimationFrame(() => number.classList.add("grown"));
}

function placeItem(): KeyedItem<PlaceStop> {
  const title = make("span", { class: "title" });
  const note = make("span", { class: "place-note" });
  const element = make("li", { class: "stop place" }, title, " ", note);
  return {
    element,
    update(stop) {
      setText(title, stop.title);
      setText(note, stop.note);
      setAttribute(element, "data-right", stop.isRight === null ? undefined : String(stop.isRight));
    },
  };
}
