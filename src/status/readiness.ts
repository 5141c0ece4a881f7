// SPDX-License-Identifier: Apache-2.0
// Named conditions that must hold before the agent calls itself ready.

/** A condition and what is missing, if anything. */
export interface Condition {
  readonly name: string;
  readonly missing: string | undefined;
}

/** Conditions by name, each with what is missing; a condition that holds has nothing missing. */
export class Readiness {
  readonly #conditions = new Map<string, string | undefined>();

  /** @param names conditions that do not hold yet, with what each waits for */
  constructor(names: Readonly<Record<string, string>>) {
    for (const [name, missing] of Object.entries(names)) this.#conditions.set(name, missing);
  }

  /** Notes that a condition holds. */
  meet(name: string): void {
    this.#conditions.set(name, undefined);
  }

  /** Notes that a condition does not hold, and why. */
  miss(name: string, missing: string): void {
    this.#conditions.set(name, missing);
  }

  /** Every condition heard of, in the order of their first mention. */
  get conditions(): readonly Condition[] {
    return [...this.#conditions].map(([name, missing]) => ({ name, missing }));
  }

  /** What is missing, in one line; `undefined` when ready. */
  get reason(): string | undefined {
    const missing = this.conditions.filter((each) => each.missing !== undefined);
    if (missing.length === 0) return undefined;
    return missing.map((each) => `${each.name}: ${each.missing}`).join("; ");
  }
}
