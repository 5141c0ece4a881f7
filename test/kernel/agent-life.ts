// SPDX-License-Identifier: Apache-2.0
// The steps of a node's life that agent-rights.inside.ts has an agent go through.

/** What there is in a node's life, in its order. */
export const STEPS = [
  "started",
  "installed",
  "captured at ADD",
  "host probes",
  "captured while it ran",
  "verified",
  "repaired",
  "left",
  "uninstalled",
] as const;
export type Step = (typeof STEPS)[number];
