// SPDX-License-Identifier: Apache-2.0
// What a failure says of a pod's rules: they are known to be wrong, or it cannot be known whether they are right. By code, never by words.

import { NetlinkError } from "../linux/netlink/exchange.ts";
import { ToolError } from "../linux/run-tool.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { RedirectionError, type RedirectionErrorCode } from "./redirection-error.ts";

/**
 * - `unknown`: they could not be read or judged; the pod may well be captured.
 * - `wrong`: they were judged, and could not be mended.
 */
export type RulesKnowledge = "unknown" | "wrong";

/** `undefined`: the namespace was not looked at, so nothing is said of what is in it. */
const BY_CODE: Readonly<Record<RedirectionErrorCode, RulesKnowledge | undefined>> = {
  HOST_NETNS: undefined,
  NETNS_CLOSED: undefined,
  UNREADABLE_TABLE: "unknown",
  HOOK_TAKEN: "unknown",
  TOO_MANY_RULES: "unknown",
  UNSTEADY: "unknown",
  NO_KNOWN_BYTES: "unknown",
  // none of a sleeping table's rules is looked at
  TABLE_DORMANT: "wrong",
  // only thrown where something has to be written
  TABLE_OWNED: "wrong",
  BATCH_REFUSED: "wrong",
  NOT_AS_TOLD: "wrong",
  NOT_CONVERGED: "wrong",
};

/** What an error says of the rules of the pod whose redirection it kept from being verified or mended; `undefined`: nothing. */
export function rulesKnowledge(error: unknown): RulesKnowledge | undefined {
  if (error instanceof RedirectionError || error instanceof NetfilterFault) return BY_CODE[error.code];
  // a program that was to read them, or to write them and to read them again
  if (error instanceof ToolError) return "unknown";
  // lists that changed whenever they were read
  if (error instanceof NetlinkError && error.code === "EAGAIN") return "unknown";
  return undefined;
}
