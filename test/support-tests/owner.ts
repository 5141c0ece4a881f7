// SPDX-License-Identifier: Apache-2.0
// A process that owns a node until it is killed: what node.test.ts kills.
import { NodeModule } from "../support/node/node-module.ts";

const inside = await NodeModule.start<typeof import("./two-pods.inside.ts")>(process.argv[2] as string);
await inside.call.addPod("a");
await inside.call.serve("a", 8080);
process.stdout.write(`${JSON.stringify({ cgroupFolder: inside.handle.cgroupFolder })}\n`);
