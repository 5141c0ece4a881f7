// SPDX-License-Identifier: Apache-2.0
// A workload that migrates from its sidecar to ambient mode and back under a real containerd, while a client asks it without a pause.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./sidecar-moves.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("a workload", { timeout: 60_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "sidecar-moves.inside.ts"));
    await inside().start();
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("goes from sidecar to ambient and back, and loses no request but those of its restarts", async () => {
    const answers = 100;
    const report = await inside().move(["sidecar", "ambient", "sidecar"], { answers });
    const { served, asked, restartMs, failedInRestart, failedElsewhere } = report;
    say(
      `sidecar to ambient and back: ${asked} requests, answered ${served.map(({ answered }) => answered).join(", ")}; ` +
        `restarts of ${restartMs.join(" and ")} ms with ${JSON.stringify(failedInRestart)}`,
    );
    const byKind = { sidecar: ["its sidecar"], ambient: ["the client"] };
    for (const { kind, answered, byApp, byProxy, peers, isHeld } of served) {
      expect(answered).toBeGreaterThanOrEqual(answers);
      // one connection for each request: none went past the proxy, and none was answered twice
      expect({ kind, byApp, byProxy, peers }).toEqual({
        kind,
        byApp: answered,
        byProxy: answered,
        peers: byKind[kind],
      });
      expect(isHeld).toBe(kind === "ambient");
    }
    expect(failedElsewhere).toEqual({});
    // whoever had a pod's address got an answer
    expect(Object.keys(failedInRestart)).toEqual(["nobody"]);
    const answered = served.reduce((sum, each) => sum + each.answered, 0);
    expect(answered + (failedInRestart.nobody ?? 0)).toBe(asked);
  });
});
