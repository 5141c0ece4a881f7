// SPDX-License-Identifier: Apache-2.0
// A success that is no list, as proxies give it: taken for an empty list it would delete every pod of the node.
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ApiClient } from "../../src/kube/api-client.ts";
import { sameFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { pod } from "./kube-fixture.ts";

const first = { kind: "PodList", metadata: { resourceVersion: "5" }, items: [pod("a"), pod("b")] };
const expired = {
  type: "ERROR",
  object: { kind: "Status", code: 410, reason: "Expired", message: "too old" },
};

test.each([
  ["an empty object", "{}"],
  ["another program's answer", '{"status":"ok"}'],
  ["a list without a version", '{"kind":"PodList","items":[]}'],
  ["a version without a list", '{"kind":"Status","metadata":{"resourceVersion":"6"}}'],
  ["null", "null"],
  ["brackets in brackets", `{"kind":"PodList","metadata":{"resourceVersion":"6"},"items":[[[]]]}`],
  ["a number", `{"kind":"PodList","metadata":{"resourceVersion":"6"},"items":[7]}`],
  [
    "two million brackets",
    `{"metadata":{"resourceVersion":"6"},"items":[${"[".repeat(2e6)}${"]".repeat(2e6)}]}`,
  ],
])("a new list that is %s deletes nothing", async (_name, garbage) => {
  let lists = 0;
  // the stub API server cannot be made to say such things
  const server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? "", "http://localhost");
    if (searchParams.get("watch") === "true") return void response.end(`${JSON.stringify(expired)}\n`);
    lists += 1;
    response.end(lists === 1 ? JSON.stringify(first) : garbage);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const folder = mkdtempSync(join(tmpdir(), "garbage-lists-"));
  const kubeconfigPath = writeKubeconfig(join(folder, "kubeconfig"), `http://127.0.0.1:${port}`, {});
  const client = ApiClient.load({ kubeconfigPath });
  const reflector = new Reflector({
    client,
    what: "pods",
    path: "/api/v1/pods",
    convert: toPodFacts,
    same: sameFacts,
    log: silentLogger,
    backoff: new Backoff({ baseMs: 5, capMs: 20 }),
  });
  const changes: string[] = [];
  reflector.subscribe(({ type }) => changes.push(type));
  try {
    reflector.start();
    await waitFor("two lists more", () => lists >= 3);
    expect({ changes, size: reflector.size }).toEqual({ changes: ["set", "set"], size: 2 });
  } finally {
    await reflector.stop();
    client.close();
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true });
  }
});
