// SPDX-License-Identifier: Apache-2.0
// A process that owns a node with running sandboxes until it is killed: what end.test.ts kills.
import { join } from "node:path";
import { RealNode } from "../../cluster/support/real-node.ts";

const path = join(import.meta.dirname, "../fleet.inside.ts");
const real = await RealNode.start<typeof import("../fleet.inside.ts")>(path);
await real.module.call.start();
await real.module.call.runFleet(2);
process.stdout.write(`${JSON.stringify({ cgroupFolder: real.module.handle.cgroupFolder })}\n`);
