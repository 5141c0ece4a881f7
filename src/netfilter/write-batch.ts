// SPDX-License-Identifier: Apache-2.0
// A batch of changes of nf_tables and the look at what it made, in one conversation.
import { NativeError } from "../linux/native.ts";
import { errorCode } from "../linux/netlink/exchange.ts";
import type { NetlinkAnswer, NetlinkRequest } from "../linux/netlink/message.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { Ask } from "./nft/nft-wire.ts";
import { batch, getRules } from "./nft/nft-wire.ts";

/** Asks the kernel for changes first, and then whatever is asked of it. */
export interface Writing {
  readonly ask: Ask;
  /** What the kernel said against the changes, once it was asked. Nothing of them stayed then. */
  refusal(): NetfilterFault | undefined;
}

/**
 * One conversation: the batch goes before the first question. Nothing is acknowledged: the kernel says what it refuses.
 * @param changeCount as for {@link batch}
 */
export function writeBefore(ask: Ask, changes: readonly NetlinkRequest[], changeCount?: number): Writing {
  // a list is sent apart from what stands before it; behind a batch in one piece with it, nothing would be heard
  const fence = getRules({ family: 4, table: "", chain: "" });
  let first: readonly NetlinkRequest[] = [...batch(changes, changeCount), fence];
  let refusal: NetfilterFault | undefined;
  return {
    ask: async (requests, enoughBytes) => {
      const sent = first;
      first = [];
      try {
        const answers = await ask([...sent, ...requests], enoughBytes);
        refusal ??= refusalIn(answers.slice(0, Math.max(0, sent.length - 1)));
        return answers.slice(sent.length);
      } catch (error) {
        // more than the socket takes at once
        if (!(error instanceof NativeError && error.code === "EMSGSIZE" && sent.length > 0)) throw error;
        throw refused(error.code, { cause: error });
      }
    },
    refusal: () => refusal,
  };
}

function refusalIn(answers: readonly NetlinkAnswer[]): NetfilterFault | undefined {
  const refusal = answers.find(({ error }) => error !== undefined && error !== 0);
  if (refusal === undefined) return undefined;
  const code = errorCode(refusal.error);
  return refused(refusal.reason === undefined ? code : `${code} (${refusal.reason})`);
}

function refused(why: string, options: { cause?: unknown } = {}): NetfilterFault {
  return new NetfilterFault(
    "BATCH_REFUSED",
    `Cannot write nf_tables rules: the kernel refused them: ${why}; nothing of them stayed`,
    options,
  );
}
