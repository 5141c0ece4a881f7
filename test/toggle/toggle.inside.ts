// SPDX-License-Identifier: Apache-2.0
// What toggle.test.ts does inside a node: traffic in every direction while labels change under a real agent.
import { MeshNode } from "../support/node/mesh-node.ts";
import { AgentWorld } from "./agent-world.ts";
import { type DeletionReport, deleteServers } from "./deleted-pods.ts";
import { runRounds, type ToggleReport } from "./toggle-rounds.ts";
import { everyKind, makeScene, toggleNames } from "./toggle-scene.ts";

const mesh = await MeshNode.start();
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
const world = new AgentWorld(mesh);

/** Rounds of leaving and entering of a client, a server and a namespace at the same time. */
export async function toggle(rounds: number): Promise<ToggleReport> {
  return await runRounds(await makeScene(world, toggleNames), { world, load: everyKind, rounds });
}

/** Deletes servers that a client's ztunnel has a connection to. */
export async function deletePods(count: number): Promise<DeletionReport> {
  return await deleteServers(world, count);
}
