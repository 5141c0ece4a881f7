// SPDX-License-Identifier: Apache-2.0
// The rules of one pod as the input of iptables-restore, for people to read.
import type { Family } from "../netfilter/family.ts";
import * as netfilter from "../netfilter/restore-text.ts";
import type { RedirectOptions } from "./rules.ts";
import { toldRedirection } from "./told-redirection.ts";

/**
 * The input of `iptables-restore --noflush` that redirects a pod without rules of ours; chains of others stay as they are.
 * @throws {RedirectOptionsError} as redirectRules does.
 */
export function renderRestoreText(options: RedirectOptions, family: Family): string {
  return netfilter.renderRestoreText(toldRedirection(options, [family]), family);
}
