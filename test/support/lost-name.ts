// SPDX-License-Identifier: Apache-2.0
// A socket's name that somebody removed: the kernel tells of it in its own time, what follows is the fake clock's.
import type { FakeClock } from "./fake-clock.ts";
import { waitFor } from "./node/wait-for.ts";

/** For a successor to take the name. Source: src/linux/unix-socket.ts. */
export const SUCCESSOR_MS = 500;

/** Waits until it is known that the name is gone: a look is planned for the end of a successor's time, and not only by the clock. */
export async function untilMissed(clock: FakeClock): Promise<void> {
  const isPlanned = (): boolean =>
    (clock.nextDueMs() ?? Number.POSITIVE_INFINITY) <= clock.nowMs() + SUCCESSOR_MS;
  await waitFor("the kernel to tell that the name is gone", isPlanned, { timeoutMs: 2_000, intervalMs: 1 });
}

/** Lets a successor's time pass without one. */
export async function letItBeMissed(clock: FakeClock): Promise<void> {
  await untilMissed(clock);
  clock.advance(SUCCESSOR_MS);
}
