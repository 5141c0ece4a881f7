// SPDX-License-Identifier: Apache-2.0
// "12 s ago" that stays true: one timer for all of them, on the agent's clock.
import { setAttribute, setText } from "./element.ts";
import { age } from "./format.ts";

const shown = new Map<HTMLElement, number>();
let offsetMs = 0;

/** The agent's time now, as far as the last report tells. */
export function agentNow(): number {
  return Date.now() + offsetMs;
}

/** Takes the agent's clock over. @param at ISO time of a report that came just now */
export function setAgentTime(at: string): void {
  offsetMs = Date.parse(at) - Date.now();
}

/** Lets a `time` element say how long ago that was, from now on; `undefined` empties it. */
export function showAge(element: HTMLElement, iso: string | undefined): void {
  if (iso === undefined) {
    shown.delete(element);
    setText(element, "");
    return;
  }
  const ms = Date.parse(iso);
  if (shown.get(element) === ms) return;
  shown.set(element, ms);
  setAttribute(element, "datetime", iso);
  setAttribute(element, "title", new Date(ms).toLocaleString("en-GB"));
  setText(element, age(agentNow() - ms));
}

/** Starts the timer. */
export function startAgeClock(): void {
  setInterval(() => {
    if (document.hidden) return;
    const nowMs = agentNow();
    for (const [element, ms] of shown) {
      if (element.isConnected) setText(element, age(nowMs - ms));
      else shown.delete(element);
    }
  }, 1000);
}
