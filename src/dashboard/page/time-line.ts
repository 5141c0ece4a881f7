// SPDX-License-Identifier: Apache-2.0
// A pod's changes of state: a band of the time spent in each, and the changes with what each run did.
import type { PodReport, StepReport, TransitionReport } from "../../status/state-report.ts";
import { agentNow } from "./age-clock.ts";
import { make, setText } from "./element.ts";
import { clock, duration } from "./format.ts";
import { type KeyedItem, KeyedList } from "./keyed-list.ts";
import { showState, stateBadge } from "./state-badge.ts";

/** Draws one pod's time line and keeps it up to date. */
export class TimeLine {
  readonly element: HTMLElement;
  readonly #band = make("div", { class: "band", "aria-hidden": "true" });
  readonly #items = make("ol", { class: "transitions" });
  readonly #none = make("p", { class: "empty", text: "Nothing has changed since the agent started." });
  readonly #list: KeyedList<TransitionReport>;

  constructor() {
    this.#list = new KeyedList(this.#items, {
      key: ({ at, to }) => `${at} ${to}`,
      create: () => transitionItem(),
    });
    this.element = make(
      "section",
      { class: "block" },
      make("h3", { text: "Time line" }),
      this.#band,
      this.#items,
      this.#none,
    );
  }

  update({ transitions }: Pick<PodReport, "transitions">): void {
    this.#none.hidden = transitions.length > 0;
    this.#band.hidden = transitions.length === 0;
    this.#list.sync([...transitions].reverse(), () => false);
    this.#drawBand(transitions);
  }

  /** Widths are those of the logarithm: hours beside milliseconds, and both can be seen. */
  #drawBand(transitions: readonly TransitionReport[]): void {
    const spans = transitions.map(({ at, to }, index) => {
      const end = transitions[index + 1]?.at;
      return { state: to, ms: (end === undefined ? agentNow() : Date.parse(end)) - Date.parse(at) };
    });
    while (this.#band.childElementCount > spans.length) this.#band.lastElementChild?.remove();
    while (this.#band.childElementCount < spans.length) this.#band.append(make("span"));
    for (const [index, { state, ms }] of spans.entries()) {
      const span = this.#band.children[index] as HTMLElement;
      span.dataset.state = state;
      span.title = `${state} for ${duration(Math.max(0, ms))}`;
      span.style.flexGrow = Math.log2(2 + Math.max(0, ms)).toFixed(1);
    }
  }
}

function transitionItem(): KeyedItem<TransitionReport> {
  const time = make("time");
  const badge = stateBadge();
  const from = make("span", { class: "dim" });
  const reason = make("span", { class: "reason" });
  const steps = make("div", { class: "steps" });
  const element = make("li", {}, time, make("div", { class: "what" }, badge, " ", from, reason, steps));
  return {
    element,
    update(transition) {
      setText(time, clock(transition.at));
      time.dateTime = transition.at;
      showState(badge, transition.to);
      setText(from, `from ${transition.from}, ${duration(transition.ms)} `);
      setText(reason, transition.reason);
      steps.replaceChildren(...transition.steps.map(stepBar));
    },
  };
}

function stepBar({ step, ms }: StepReport): HTMLElement {
  const bar = make("span", { class: "step", text: `${step} ${duration(ms)}` });
  bar.style.flexGrow = String(Math.max(0.2, Math.log2(1 + ms)));
  return bar;
}
