// SPDX-License-Identifier: Apache-2.0
// The end of each suite: the machine is as it was.
import { expect } from "vitest";
import type { RealNode } from "../../cluster/support/real-node.ts";

/** Ends the node and looks for anything of it on the machine. */
export async function expectNothingLeft(real: RealNode<unknown> | undefined): Promise<void> {
  expect((await real?.stop()) ?? []).toEqual([]);
}
