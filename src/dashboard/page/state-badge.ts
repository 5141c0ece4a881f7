// SPDX-License-Identifier: Apache-2.0
// A pod's state as a shape, a colour and a word: none of the three is needed to understand the others.
import type { PodStateReport } from "../../status/state-report.ts";
import { make, setAttribute, setText } from "./element.ts";

/** The worst first. */
export const stateOrder: readonly PodStateReport[] = [
  "failed",
  "unverified",
  "pending",
  "waiting",
  "enrolled",
  "sidecar",
  "outside",
];

/** What each state means, for a tooltip. */
export const stateMeanings: Readonly<Record<PodStateReport, string>> = {
  enrolled: "redirected, acknowledged by ztunnel, and verified in the kernel",
  sidecar: "redirected to its own sidecar, and verified in the kernel; ztunnel has no part in it",
  pending: "half-way: rules stand, and not everything is verified and acknowledged; or it is on its way out",
  waiting: "wanted in the mesh and untouched so far",
  unverified:
    "its rules cannot be read or judged: it may well be redirected, and is left as it is until they can",
  failed: "the last attempt ended in an error; the agent tries again by itself",
  outside: "not in the mesh and untouched",
};

/** An element for {@link showState}. */
export function stateBadge(): HTMLElement {
  return make("span", { class: "state" }, make("i", { class: "glyph", "aria-hidden": "true" }), make("span"));
}

/** Shows a state on a badge. */
export function showState(badge: HTMLElement, state: PodStateReport): void {
  setAttribute(badge, "data-state", state);
  setAttribute(badge, "title", stateMeanings[state]);
  if (badge.lastElementChild !== null) setText(badge.lastElementChild, state);
}
