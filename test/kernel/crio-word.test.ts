// SPDX-License-Identifier: Apache-2.0
// CRI-O's word of its sandboxes (NRI), in its order and by its rules, where its pods have a network without us.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./crio-word.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "crio-word.inside.ts"));
});
afterEach(async (context) => {
  if (context.task.result?.state === "fail") process.stderr.write(`${await node.call.logs()}\n`);
});
afterAll(async () => {
  await node?.stop();
});

describe("CRI-O without us in its chain", () => {
  test.each(["mesh", "plain"] as const)(
    "a sandbox of a %s pod is what it has to be before its first container",
    async (namespace) => {
      await node.call.begun(namespace);
    },
  );

  test("a sandbox that began while we registered is captured before its first container", async () => {
    await node.call.unseen();
  });

  test("a pod that is held stays so over a restart of the agent, from its first word on", async () => {
    const sentence = expect.stringMatching(/^Cannot capture pod "mesh\/pod-\d+" for the ambient mesh: /);
    expect(await node.call.held()).toEqual({ before: sentence, after: [sentence, sentence, ""] });
  });

  test("a captured pod gets its next container while a new agent waits for its ztunnel", async () => {
    await node.call.nextContainer();
  });

  test("a pod's new sandbox is found although the stopped one is still listed", async () => {
    await node.call.renewed();
  });
});
