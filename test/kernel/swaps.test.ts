// SPDX-License-Identifier: Apache-2.0
// istio-cni and ours change places on a node, six times, under traffic and with pods that come and go: the real agent, its
// launcher and ztunnel's socket, and a stand-in with istio-cni's socket, plugin and installer.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
import type { Naming } from "./swaps.inside.ts";

type Inside = typeof import("./swaps.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "swaps.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const swaps: readonly [how: string, naming: Naming][] = [
  ["of the image", "in istio-cni's DaemonSet"],
  ["of the agent beside the other one", "under our own names"],
];

test.each(swaps)(
  "six changes %s lose no request and no pod, and leave nothing of the loser",
  { timeout: 240_000 * patience() },
  async (_how, naming) => {
    const { born, refusals, wrong, requests, lost, errors } = await node.call.swap(naming);
    // the socket is gone, or its agent went while it was asked
    const byIstio = refusals.filter((each) =>
      /^istio-cni: failed to contact node Istio CNI agent: (connect |socket hang up)/.test(each),
    );
    console.log(
      `${requests} requests, ${born} pods, ${byIstio.length} refused by istio-cni's plugin while no agent was there`,
    );
    expect({ lost, errors, wrong }).toEqual({ lost: 0, errors: [], wrong: [] });
    // istio-cni's plugin does not wait for an agent: its pods are tried again, as with every update of istio-cni
    expect(refusals.filter((each) => !byIstio.includes(each))).toEqual([]);
    expect(born).toBeGreaterThanOrEqual(30);
  },
);

test("beside a running istio-cni ours touches nothing until it is gone, and serves the node then", {
  timeout: 60_000 * patience(),
}, async () => {
  const { reason, readyMs } = await node.call.standAside();
  expect(reason).toMatch(/^istio-cni's agent serves this node.*uninstall istio-cni.*REPLACE_ISTIO_CNI=true/);
  console.log(`ready ${Math.round(readyMs)} ms after istio-cni had ended`);
});
