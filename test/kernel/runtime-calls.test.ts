// SPDX-License-Identifier: Apache-2.0
// The calls of CRI-O, Multus and containerd as they were seen, in their order and with their arguments, against our launcher: data in
// runtime-calls.json.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { plays } from "./runtime-calls.ts";

type Inside = typeof import("./runtime-calls.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "runtime-calls.inside.ts"));
});
afterEach(async (context) => {
  if (context.task.result?.state === "fail") process.stderr.write(`${await node.call.logs()}\n`);
});
afterAll(async () => {
  await node?.stop();
});

describe.each(plays)("$name", ({ name, cniVersions }) => {
  test.each(cniVersions)("with CNI %s", async (cniVersion) => {
    await node.call.play(name, cniVersion);
  });
});

test("every verb that a runtime has is among them, with and without agent", () => {
  const steps = plays.flatMap((each) => each.steps);
  const verbs = new Set(steps.map((step) => ("verb" in step ? step.verb : "")));
  for (const verb of ["ADD", "CHECK", "DEL", "GC", "STATUS"]) expect(verbs).toContain(verb);
  expect(steps.filter((step) => "agent" in step && step.agent === "killed").length).toBeGreaterThan(1);
});
