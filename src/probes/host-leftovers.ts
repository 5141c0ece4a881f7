// SPDX-License-Identifier: Apache-2.0
// What an earlier agent left on the host for probes, by the other variant of iptables or under other names.
import type { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import type { HostState } from "./host-state.ts";
import { describeDrift } from "./probe-drift.ts";

/** Takes it away. */
export class HostLeftovers {
  readonly #state: Pick<HostState, "removeLeftovers">;
  readonly #log: Logger;
  #isDone = false;
  #isSaid = false;

  constructor(state: Pick<HostState, "removeLeftovers">, log: Logger) {
    this.#state = state;
    this.#log = log;
  }

  /** Once, as the variant is chosen for the boot, and last: until ours stands the earlier agent's rule does the work. */
  async remove(netns: Netns): Promise<void> {
    if (this.#isDone) return;
    try {
      const removed = await this.#state.removeLeftovers(netns);
      this.#isDone = true;
      if (removed.length === 0) return;
      const fields = { drift: describeDrift(removed) };
      this.#log.info(fields, "removed what an earlier agent left for probes");
    } catch (error) {
      // what is left there is one rule too many; probes pass
      if (!this.#isSaid)
        this.#log.warn({ err: error }, "cannot remove what an earlier agent left for probes; trying again");
      this.#isSaid = true;
    }
  }
}
