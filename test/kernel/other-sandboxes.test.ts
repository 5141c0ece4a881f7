// SPDX-License-Identifier: Apache-2.0
// Pods and nodes that are not as most are: without IPv4, without IPv6, with users of their own, with a clock that jumps. Each pod goes the
// whole way, in a node of such pods.
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { MeshNodeOptions } from "../support/node/mesh-node.ts";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./other-sandboxes.inside.ts");

const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" };
const jumpingClock = `--import=${join(import.meta.dirname, "../support/node/jumping-clock.ts")}`;
type Kind = Pick<MeshNodeOptions, "network" | "ownUsers">;

describe.each<[string, Kind, readonly (4 | 6)[], Readonly<Record<string, string>>?]>([
  ["both families", {}, [4, 6]],
  ["IPv6 alone", { network: { subnetV4: null } }, [6]],
  ["IPv4 alone", { network: { subnetV6: null } }, [4]],
  ["users of its own", { ownUsers: true }, [4, 6]],
  ["users of its own and IPv6 alone", { ownUsers: true, network: { subnetV4: null } }, [6]],
  ["users of its own, by iptables-legacy", { ownUsers: true }, [4, 6], { FORCE_IPTABLES_BINARY: "legacy" }],
  ["both families, on a node whose clock jumps by ten hours", {}, [4, 6], { NODE_OPTIONS: jumpingClock }],
])("a pod with %s", (_, kind, families, env = {}) => {
  test("is captured, probed, kept over a restart, mended, let go and found again", {
    timeout: 90_000 * patience(),
  }, async () => {
    const node = await NodeModule.start<Inside>(join(import.meta.dirname, "other-sandboxes.inside.ts"));
    try {
      await node.call.start(kind);
      const { ips, ...seen } = await node.call.walk(env);
      const of = (family: 4 | 6) => ips.filter((ip) => ip.includes(":") === (family === 6));
      expect(ips).toHaveLength(families.length);
      expect(seen).toEqual({
        sets: Object.fromEntries(families.map((family) => [`istio-inpod-probes-v${family}`, of(family)])),
        probes: Object.fromEntries(families.map((family) => [family, snat[family]])),
        writes: 0,
        annotation: "enabled",
      });
    } finally {
      await node.stop();
    }
  });
});
