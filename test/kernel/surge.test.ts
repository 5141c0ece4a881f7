// SPDX-License-Identifier: Apache-2.0
// Two agents on one node: a DaemonSet with maxSurge ends the old one only when the new one is ready.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./surge.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "surge.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

test.each([
  ["SIGTERM", 0],
  ["SIGKILL", 0],
  ["SIGTERM", 4],
  ["SIGKILL", 4],
] as const)(
  "an agent that is ended by %s once the next one is ready loses no pod (labels that come and go meanwhile: %i)",
  { timeout: 90_000 * patience() },
  async (signal, flaps) => {
    expect(await node.call.replace(signal, flaps)).toEqual({
      writes: 0,
      chainWrites: 1,
      isNewcomersEntry: true,
      bin: ["ambient-cni", "ambient-cni.exempt-namespaces"],
      run: ["iptables-backend.json", "pluginevent.sock", "sandboxes", "state.sock"],
    });
  },
);
