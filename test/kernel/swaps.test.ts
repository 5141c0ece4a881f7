// SPDX-License-Identifier: Apache-2.0
// istio-cni and ours change places on a node, six times, under traffic and with pods that come and go: the real agent, its
// launcher and ztunnel's socket, and a stand-in with istio-cni's socket, plugin and installer.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./swaps.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "swaps.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

test("six changes of the image lose no request and no pod, and leave nothing of the loser", {
  timeout: 240_000,
}, async () => {
  const { born, refusals, wrong, requests, lost, errors } = await node.call.swap("in istio-cni's DaemonSet");
  console.log(
    `${requests} requests, ${born} pods, ${refusals.length} refused by istio-cni's plugin while no agent was there`,
  );
  expect({ lost, errors, wrong }).toEqual({ lost: 0, errors: [], wrong: [] });
  // istio-cni's own plugin does not wait for an agent: pods of the mesh are tried again, as with every update of istio-cni
  expect(refusals.filter((each) => !/^istio-cni: failed to contact node Istio CNI agent/.test(each))).toEqual(
    [],
  );
  expect(born).toBeGreaterThan(30);
});
