// SPDX-License-Identifier: Apache-2.0
// Kills a process at a random moment, every second time at one at which it is changing files.
import { randomInt } from "node:crypto";
import { type FSWatcher, watch } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { ManagedProcess } from "../../support/node/managed-process.ts";

/** Where a death may fall. */
export interface DeathSpan {
  /** How long the process takes when nobody kills it. */
  readonly spanMs: number;
  /** Folders that it changes. */
  readonly folders: readonly string[];
}

/** Changes of files come in bursts of this length. */
const burstMs = 40;

/** Sends SIGKILL and waits. @returns how long the process had run, in milliseconds */
export async function dieSomewhere(victim: ManagedProcess, { spanMs, folders }: DeathSpan): Promise<number> {
  const began = performance.now();
  const changed = Promise.withResolvers<void>();
  const watchers: FSWatcher[] = folders.map((folder) => watch(folder, () => changed.resolve()));
  try {
    if (randomInt(2) === 0) await delay(randomInt(Math.ceil(spanMs)));
    else {
      await Promise.race([changed.promise, victim.exited]);
      await delay(randomInt(burstMs));
    }
  } finally {
    for (const watcher of watchers) watcher.close();
  }
  await victim.kill();
  return performance.now() - began;
}
