// SPDX-License-Identifier: Apache-2.0
// Descriptors a peer sent us: owned the moment they arrive, wanted or not.
import { closeSync } from "node:fs";

/** Closes descriptors that came with a packet. */
export function closeFds(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd);
}
