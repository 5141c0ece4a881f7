// SPDX-License-Identifier: Apache-2.0
// The control of toggle.test.ts: the same traffic in a node where the steps are done by hand, in an order of choice.
import { MeshNode } from "../support/node/mesh-node.ts";
import { ByHandWorld, type StepOrder } from "./by-hand-world.ts";
import { runRounds, type ToggleReport } from "./toggle-rounds.ts";
import { everyKind, makeScene, type ToggleName } from "./toggle-scene.ts";

const mesh = await MeshNode.start();

/** Rounds in a world without an agent. */
export async function toggleByHand(
  order: StepOrder,
  what: { rounds: number; toggles: readonly ToggleName[]; hungAfterMs: number },
): Promise<ToggleReport> {
  const world = await ByHandWorld.start(mesh, { order });
  const { rounds, toggles, hungAfterMs } = what;
  const scene = await makeScene(world, toggles);
  return await runRounds(scene, { world, load: { ...everyKind, hungAfterMs }, rounds });
}
