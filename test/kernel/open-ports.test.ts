// SPDX-License-Identifier: Apache-2.0
// What a pod without rights can read on the agent's ports: of other pods nothing at all.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./open-ports.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "open-ports.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

/** Questions whose answer has a word in it that tells of the other pod. */
async function leaks(): Promise<string[]> {
  const words = await node.call.words();
  return Object.entries(await node.call.answers()).flatMap(([question, answer]) => {
    // a question that names the pod may be said back
    const told = words.filter((word) => answer.includes(word) && !question.includes(word));
    return told.length === 0 ? [] : [`${question}: ${told.join(" ")}`];
  });
}

test("the agent listens on two ports, for the kubelet and for Prometheus", async () => {
  expect((await node.call.listeners()).map(({ port }) => port).sort((a, b) => a - b)).toEqual([8000, 15014]);
});

test("no answer of any of them names another tenant's pod", async () => {
  const answers = await node.call.answers();
  const of = (question: string): string => answers[`${question} HTTP/1.1 (node-1)`] ?? "";
  // they are reached, so that silence means something
  expect(of("15014 GET /metrics")).toMatch(/^HTTP\/1.1 200.*ambient_cni_pods\{state="enrolled"\} 1/s);
  expect(of("8000 GET /readyz")).toMatch(/^HTTP\/1.1 200.*ready/s);
  expect(of("15014 GET /api/v1/pods")).toMatch(/^HTTP\/1.1 404/);
  expect(await leaks()).toEqual([]);
});

test("while somebody looks at the page it is not there for pods, and says nothing to who has not its key", async () => {
  const { pod, host } = await node.call.besideThePage();
  expect(pod).toBe("ECONNREFUSED");
  expect(host).toMatch(/^HTTP\/1.1 401 .*\r\n\r\nopen the address that ambient-cni dashboard printed/s);
  for (const word of await node.call.words()) expect(host).not.toContain(word);
});

test("an agent that is not ready tells the node why, and a pod only that it is not", async () => {
  await node.call.withFaultySetting();
  expect(await node.call.ownReadiness()).toContain('HOST_PROBE_SNAT_IP="payroll"');
  const answers = await node.call.answers();
  expect(answers["8000 GET /readyz HTTP/1.1 (node-1)"]).toMatch(
    /^HTTP\/1.1 503.*\r\nnot ready: 1 condition is not met; see ambient-cni status\n/s,
  );
  expect(await leaks()).toEqual([]);
});
