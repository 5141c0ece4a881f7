// SPDX-License-Identifier: Apache-2.0
// Conversations with nf_tables of a namespace: reading what is ours, and one batch of changes with the look at what it made.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import type { Counted, Talk, Wanted } from "../engine.ts";
import { FirstWrites } from "../first-writes.ts";
import type { Applied, NetnsCall } from "../rule-engine.ts";
import { writeBefore } from "../write-batch.ts";
import { CHANGE_COUNT, changeCountIn } from "./change-count.ts";
import { type Ask, askBy, namesByHandle, type Tell, tell } from "./nft-wire.ts";
import { readOwnObjects, type SeenObjects } from "./own-objects.ts";
import type { AskedTable } from "./own-tables.ts";

export interface NftTalksOptions<Known> {
  /** The same list for each call. */
  readonly own: readonly AskedTable[];
  /** Called before each conversation: a descriptor may be another namespace's by now. What it throws, the call throws. */
  readonly assertUsable?: ((call: NetnsCall) => void) | undefined;
  /** About as much as a list of what should be there takes; default as for {@link readOwnObjects}. */
  readonly bytesOf?: (known: Known) => number;
}

/** Of an engine. */
export class NftTalks<Known extends object> implements Counted<Known, SeenObjects, NetlinkRequest> {
  readonly #options: NftTalksOptions<Known>;
  readonly #firstWrites = new FirstWrites<Applied>();

  constructor(options: NftTalksOptions<Known>) {
    this.#options = options;
  }

  /** @param ask default: the call's own */
  talk(
    call: NetnsCall,
    { known }: Wanted<Known>,
    ask: Ask = askBy(this.#tell(call)),
  ): Talk<SeenObjects, NetlinkRequest> {
    const { own, bytesOf } = this.#options;
    const read = (by: Ask) =>
      readOwnObjects(call.netns, own, { ask: by, wantedBytes: bytesOf?.(known) ?? 0 });
    return {
      read: () => read(ask),
      write: async (changes, { changeCount }) => {
        const isOfNow = changes.some(namesByHandle);
        const writing = writeBefore(ask, changes, isOfNow ? changeCount : undefined);
        const seen = await read(writing.ask);
        const refusal = writing.refusal();
        return { seen, taken: refusal === undefined ? 1 : 0, refusal };
      },
    };
  }

  first(
    call: NetnsCall,
    wanted: Wanted<Known>,
    write: (talk: Talk<SeenObjects, NetlinkRequest>) => Promise<Applied>,
  ): Promise<Applied> {
    const { known: rules, families } = wanted;
    return this.#firstWrites.run({ rules, families }, this.#tell(call), (ask) =>
      write(this.talk(call, wanted, ask)),
    );
  }

  async now(call: NetnsCall): Promise<number | undefined> {
    const [answer] = await askBy(this.#tell(call))([CHANGE_COUNT], Number.POSITIVE_INFINITY);
    return changeCountIn(answer);
  }

  /** What a process owns goes with it, which is no change that the kernel counts. */
  of({ tables, generation, changeCount }: SeenObjects) {
    return tables.some(({ isOwned }) => isOwned) ? {} : { generation, changeCount };
  }

  #tell(call: NetnsCall): Tell {
    return async (request, enoughBytes) => {
      call.signal?.throwIfAborted();
      this.#options.assertUsable?.(call);
      return await tell(call.visit ?? call.netns.fd, request, { enoughBytes });
    };
  }
}
