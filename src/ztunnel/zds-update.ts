// SPDX-License-Identifier: Apache-2.0
// A request that waits for its turn on a ZDS connection.
import type { RosterEntry } from "./workload.ts";
import type { ZdsAnswer } from "./zds-codec.ts";
import { ZdsError } from "./zds-error.ts";

/** One request, and what is asked of it when its turn comes. */
export interface ZdsUpdate {
  readonly send: () => Promise<ZdsAnswer>;
  /** Asked when the update's turn comes; the reason why it must not be sent any more, if there is one. */
  readonly stale: () => string | undefined;
  /** Asked when the update's turn comes: the snapshot may have said it already. */
  readonly done: () => boolean;
  readonly settled: PromiseWithResolvers<void>;
}

/** The namespace of an entry. @throws ZdsError for a namespace that was closed while the request waited: its number may be another file's */
export function openFd({ netns }: RosterEntry): number {
  if (netns !== undefined && !netns.closed) return netns.fd;
  throw new ZdsError("DISCONNECTED", "the pod's namespace was closed while its turn came");
}
