// SPDX-License-Identifier: Apache-2.0
// Namespaces named one by one or by a pattern such as `openshift-*`.

/** Names of namespaces to be asked for. */
export interface NamespaceNames extends Iterable<string> {
  has(name: string): boolean;
}

/** Text for a regular expression that matches it as it stands. */
function literal(text: string): string {
  return text.replace(/[.+?^${}()|[\]\\]/g, "\\$&");
}

/** Names in which each `*` stands for any characters, none included; the launcher takes them in the same way. */
export class NamespacePatterns implements NamespaceNames {
  readonly #patterns: ReadonlySet<string>;
  readonly #match: RegExp;

  constructor(patterns: Iterable<string>) {
    this.#patterns = new Set(patterns);
    const parts = [...this.#patterns].map((pattern) => pattern.split(/\*+/).map(literal).join(".*"));
    // without one the expression would be empty, and match the empty name
    this.#match = new RegExp(parts.length === 0 ? "(?!)" : `^(?:${parts.join("|")})$`, "s");
  }

  has(name: string): boolean {
    return this.#match.test(name);
  }

  /** The patterns as they were given. */
  [Symbol.iterator](): Iterator<string> {
    return this.#patterns.values();
  }
}
