// SPDX-License-Identifier: Apache-2.0
// podman 4 with its CNI backend, another program than containerd that runs chains by libcni: arguments of its own, results kept for DEL.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";

type Inside = typeof import("./podman.inside.ts");

describe("podman with CNI", () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "podman.inside.ts"));
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    expect((await real?.stop()) ?? []).toEqual([]);
  });

  test("has a pod of the mesh captured before it says that it runs, and DEL has the result of ADD", async () => {
    expect(await inside().meshPod()).toEqual([
      { verb: "VERSION", ips: 0 },
      { verb: "ADD", ips: 2 },
      { verb: "VERSION", ips: 0 },
      { verb: "DEL", ips: 2 },
    ]);
  });

  test("takes a running pod's network off and on again, and the pod is captured anew", async () => {
    const verbs = await inside().reload();
    expect(verbs.filter((verb) => verb !== "VERSION")).toEqual(["ADD", "DEL", "ADD", "DEL"]);
  });

  test("has a container that is no pod untouched", async () => {
    await inside().noPod();
  });

  test("is refused a pod of the mesh without the agent, and can take one away", async () => {
    const said = await inside().away();
    expect(said).toMatch(
      /plugin type="ambient-cni".*Cannot get an answer from the ambient-cni agent of this node/s,
    );
  });
});
