// SPDX-License-Identifier: Apache-2.0
// What labels cost those who talk meanwhile: requests of every kind while pods leave the mesh and enter it.
import type { MeshNode } from "../support/node/mesh-node.ts";
import { AgentWorld } from "../toggle/agent-world.ts";
import { runRounds } from "../toggle/toggle-rounds.ts";
import { everyKind, makeScene, toggleNames } from "../toggle/toggle-scene.ts";
import { wrongs } from "../toggle/verdict.ts";

/** Counts over all rounds; hung ones are among the failed. */
export interface ToggleCosts {
  readonly requests: number;
  readonly failed: number;
  readonly hung: number;
}

/** Runs the rounds and says what was lost. */
export async function measureToggle(
  mesh: MeshNode,
  { rounds, say }: { rounds: number; say: (line: string) => void },
): Promise<ToggleCosts> {
  const world = new AgentWorld(mesh);
  const scene = await makeScene(world, toggleNames);
  say(`traffic while pods leave and enter, ${rounds} rounds`);
  const report = await runRounds(scene, { world, load: everyKind, rounds });
  for (const line of wrongs(report)) say(line);
  const { requests, failed, hung } = report.total;
  return { requests, failed, hung };
}
