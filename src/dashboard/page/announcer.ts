// SPDX-License-Identifier: Apache-2.0
// Says changes of state to screen readers: in few words, and not for each of a hundred pods.
import type { PodReport } from "../../status/state-report.ts";
import { byId, make } from "./element.ts";

const waiting = new Map<string, string>();
let timer: ReturnType<typeof setTimeout> | undefined;
const gatherMs = 1200;
const maxLines = 6;

/** A pod's state is another one now. */
export function announce({
  ns,
  name,
  state,
}: Pick<PodReport, "ns" | "name"> & { readonly state: string }): void {
  waiting.set(`${ns}/${name}`, state);
  if (timer === undefined) timer = setTimeout(say, gatherMs);
}

function say(): void {
  timer = undefined;
  const changes = [...waiting];
  waiting.clear();
  const announcer = byId("announcer");
  announcer.append(make("p", { text: sentence(changes) }));
  while (announcer.childElementCount > maxLines) announcer.firstElementChild?.remove();
}

function sentence(changes: readonly (readonly [pod: string, state: string])[]): string {
  if (changes.length <= 3) return changes.map(([pod, state]) => `${pod} is ${state}`).join(", ");
  const counts = new Map<string, number>();
  for (const [, state] of changes) counts.set(state, (counts.get(state) ?? 0) + 1);
  const parts = [...counts].map(([state, number]) => `${number} ${state}`);
  return `${changes.length} pods changed: ${parts.join(", ")}`;
}
