// SPDX-License-Identifier: Apache-2.0
// The agent leaves a node: every pod is taken out.
import type { Clock } from "../loop/clock.ts";
import type { KeyedQueue } from "../loop/keyed-queue.ts";
import type { Rest } from "./pod-runs.ts";

interface Means {
  readonly queue: KeyedQueue<Rest>;
  readonly clock: Clock;
}

/** Runs each pod until it has left, or cannot. Never rejects. */
export async function untilLeft(uids: Iterable<string>, means: Means): Promise<void> {
  await Promise.allSettled(Array.from(uids, (uid) => leave(uid, means)));
}

async function leave(uid: string, { queue, clock }: Means): Promise<void> {
  for (;;) {
    const { outcome, againMs = 0 } = await queue.run(uid);
    if (outcome !== "leaving") return;
    await new Promise<void>((resolve) => clock.after(againMs, resolve));
  }
}
