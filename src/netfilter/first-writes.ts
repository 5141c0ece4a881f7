// SPDX-License-Identifier: Apache-2.0
// Rules written where nothing of ours is: the same question each time, and nearly always the same answer, byte by byte. What was asked is kept,
// and an answer equal to one that was judged right needs no second judgement.

import { eachMessage, encodeRequests, sortAnswers } from "../linux/netlink/message.ts";
import type { Family } from "./family.ts";
import type { Ask, Tell } from "./nft/nft-wire.ts";
import { NEW_GENERATION } from "./nft/nft-wire.ts";

/** How rules are written through the conversations that it is given. */
type Write<Result> = (ask: Ask) => Promise<Result>;

interface First<Result> {
  readonly request: Uint8Array;
  readonly enoughBytes: number;
  readonly received: Uint8Array;
  /** Bytes of the answer that say nothing of rules: who made the last change, by the number and name of its thread. */
  readonly unheard: readonly [start: number, end: number];
  readonly result: Result;
}

/** Remembers first writes by the rules written, for as long as somebody holds these. */
export class FirstWrites<Result> {
  readonly #last = new WeakMap<object, Map<string, First<Result>>>();

  /**
   * Writes rules, with one conversation where the kernel shows what it showed when `write` last succeeded with one.
   * @param rules the same object, with the same families, for the same requests of `write`
   * @param write asks the kernel for changes with its first question; resolves once what stands there is right
   * @throws what `tell` and `write` throw
   */
  async run(
    { rules, families }: { readonly rules: object; readonly families: readonly Family[] },
    tell: Tell,
    write: Write<Result>,
  ): Promise<Result> {
    const known = this.#last.get(rules) ?? new Map<string, First<Result>>();
    const last = known.get(families.join());
    const told = last && tell(last.request, last.enoughBytes);
    // why it failed, `write` is told
    const shown = await told?.catch(() => undefined);
    if (last !== undefined && shown !== undefined && shows(shown, last)) return last.result;
    let only: Omit<First<Result>, "result" | "unheard"> | undefined;
    let count = 0;
    const result = await write(async (requests, enoughBytes) => {
      const isFirst = count++ === 0;
      const request = isFirst && last !== undefined ? last.request : encodeRequests(requests);
      const received = await (isFirst && told !== undefined ? told : tell(request, enoughBytes));
      only = isFirst ? { request, enoughBytes, received } : undefined;
      return sortAnswers(requests.length, received);
    });
    if (only !== undefined) {
      known.set(families.join(), { ...only, unheard: changedBy(only.received), result });
      this.#last.set(rules, known);
    }
    return result;
  }
}

function shows(received: Uint8Array, { received: before, unheard: [start, end] }: First<unknown>): boolean {
  return (
    received.length === before.length &&
    Buffer.compare(received.subarray(0, start), before.subarray(0, start)) === 0 &&
    Buffer.compare(received.subarray(end), before.subarray(end)) === 0
  );
}

/** Behind the count, which stands first, as the kernel's answer has it. Source: linux net/netfilter/nf_tables_api.c, nf_tables_fill_gen_info. */
function changedBy(received: Uint8Array): readonly [start: number, end: number] {
  for (const { type, body } of eachMessage(received)) {
    if (type !== NEW_GENERATION.type || body.length < NEW_GENERATION.countBytes) continue;
    const end = body.byteOffset - received.byteOffset + body.length;
    return [end - body.length + NEW_GENERATION.countBytes, end];
  }
  return [0, 0];
}
