// SPDX-License-Identifier: Apache-2.0
// Settings that cannot be followed, on a node with pods: none of them keeps a pod of another mesh or of none from starting, takes
// one out of the mesh, or lets one start outside it unseen.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./settings.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "settings.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const works = { mesh: "captured", plain: "untouched" };
const standsBy = (reason: string) => ({
  mesh: expect.stringMatching(`the ambient-cni agent of this node cannot work: .*${reason}`) as string,
  plain: "untouched",
});

test.each<[Record<string, string>, string, object]>([
  [
    { HOST_PROBE_SNAT_IP: "169.254.7", FORCE_IPTABLES_BINARY: "ebpf", LEAVE_PAUSE_MS: "soon" },
    // nothing else is missing
    "^not ready: settings: [^\\n]*is used instead\n$",
    works,
  ],
  [
    { FORCE_IPTABLES_BINARY: "legacy" },
    '^not ready: iptables: Cannot use iptables variant "legacy"[^\n]*what the host uses is used instead\n$',
    works,
  ],
  [
    { AMBIENT_ENABLEMENT_SELECTOR: "a: b" },
    "settings: AMBIENT_ENABLEMENT_SELECTOR",
    standsBy("AMBIENT_ENABLEMENT_SELECTOR"),
  ],
  [{ NODE_NAME: "" }, "settings: NODE_NAME", standsBy("NODE_NAME")],
])("with %j the agent is not ready, and no pod outside the mesh is held", async (env, said, starts) => {
  const effects = await node.call.withSettings(env, {
    said,
    hasLegacy: env.FORCE_IPTABLES_BINARY !== "legacy",
  });
  expect(effects).toMatchObject({ starts, before: "captured", status: "0" });
  for (const name of Object.keys(env)) expect(effects.ready).toContain(name);
});
