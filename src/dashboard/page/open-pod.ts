// SPDX-License-Identifier: Apache-2.0
// The pod that is open: asks the agent to look at it again and again, while anybody can see the answer.
import type { PodDetailReport, PodReport, StateErrorReport } from "../../status/state-report.ts";
import type { PodRulesReport } from "../rules-report.ts";
import type { PodDetail } from "./pod-detail.ts";

const lookEveryMs = 1500;

/** Looks until it is stopped. */
export class OpenPod {
  readonly #path: string;
  readonly #detail: PodDetail;
  readonly #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isLooking = false;

  constructor({ ns, name }: PodReport, detail: PodDetail) {
    this.#path = `api/v1/pods/${ns}/${name}`;
    this.#detail = detail;
    this.look();
  }

  /** Looks now; the next time is counted from here. */
  look(): void {
    if (this.#isLooking) return;
    clearTimeout(this.#timer);
    this.#isLooking = true;
    void this.#look().finally(() => {
      this.#isLooking = false;
      if (!this.#abort.signal.aborted) this.#timer = setTimeout(() => this.#lookIfSeen(), lookEveryMs);
    });
  }

  stop(): void {
    this.#abort.abort();
    clearTimeout(this.#timer);
  }

  #lookIfSeen(): void {
    if (document.hidden) this.#timer = setTimeout(() => this.#lookIfSeen(), lookEveryMs);
    else this.look();
  }

  async #look(): Promise<void> {
    const [detail, rules] = await Promise.allSettled([
      this.#ask<PodDetailReport>(this.#path),
      this.#ask<PodRulesReport>(`${this.#path}/rules`),
    ]);
    if (this.#abort.signal.aborted) return;
    if (detail.status === "fulfilled") this.#detail.updateSeen(detail.value);
    if (rules.status === "fulfilled") this.#detail.updateRules(rules.value);
    else this.#detail.failRules(`The rules cannot be read now: ${(rules.reason as Error).message}`);
  }

  async #ask<T>(path: string): Promise<T> {
    const response = await fetch(path, { signal: this.#abort.signal });
    const body = (await response.json()) as T & Partial<StateErrorReport>;
    if (!response.ok) throw new Error(body.error ?? `status ${response.status}`);
    return body;
  }
}
