// SPDX-License-Identifier: Apache-2.0
// Named conditions that must hold before the agent calls itself ready.

/** Conditions by name, each with what is missing; a condition that holds has nothing missing. */
export class Readiness {
  readonly #missing = new Map<string, string>();

  /** @param names conditions that do not hold yet, with what each waits for */
  constructor(names: Readonly<Record<string, string>>) {
    for (const [name, missing] of Object.entries(names)) this.#missing.set(name, missing);
  }

  /** Notes that a condition holds. */
  meet(name: string): void {
    this.#missing.delete(name);
  }

  /** Notes that a condition does not hold, and why. */
  miss(name: string, missing: string): void {
    this.#missing.set(name, missing);
  }

  /** What is missing, in one line; `undefined` when ready. */
  get reason(): string | undefined {
    if (this.#missing.size === 0) return undefined;
    return [...this.#missing].map(([name, missing]) => `${name}: ${missing}`).join("; ");
  }
}
