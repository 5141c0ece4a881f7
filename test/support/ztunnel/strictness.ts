// SPDX-License-Identifier: Apache-2.0
// Where the stand-in is stricter than ztunnel: things ztunnel takes without a word and then serves nobody.

/** What an agent must never do. Each rule can be switched off by its name. */
export const rules = {
  "empty-uid": "a message names no pod",
  "early-message": "a message came before the answer to the one before it",
  "shared-netns": "two pods have one network namespace",
  "not-a-netns": "the descriptor of an Add is no namespace",
  oversized: "a message is longer than ztunnel's buffer of 1024 bytes",
  "control-truncated": "a message carries more descriptors than ztunnel's buffer holds",
  "lo-down": "the namespace of an Add has its loopback interface down",
} as const;

export type Rule = keyof typeof rules;

/** The agent broke a rule: the stand-in process ends with status 1. */
export class Violation extends Error {
  override readonly name = "Violation";
  readonly rule: Rule;

  constructor(rule: Rule, detail: string) {
    super(`${rules[rule]}: ${detail}`);
    this.rule = rule;
  }
}

/** ztunnel itself exits on these: Add without workload_info, Keep after SnapshotSent, a second SnapshotSent. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** The sockets of a pod could not be opened; ztunnel refuses the Add and tries again by itself. */
export class StartError extends Error {
  override readonly name = "StartError";
}
