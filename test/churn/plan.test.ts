// SPDX-License-Identifier: Apache-2.0
// The plan of a churn: repeatable, a prefix of its longer self, and possible at every step.
import { expect, test } from "vitest";
import { NodeModel } from "./node-model.ts";
import { planChurn } from "./plan.ts";

test("planChurn makes the same operations from the same seed, and others from another", () => {
  expect(planChurn(7, 200)).toEqual(planChurn(7, 200));
  expect(planChurn(7, 200)).not.toEqual(planChurn(8, 200));
});

test("planChurn begins a longer plan with the shorter one", () => {
  expect(planChurn(7, 300).slice(0, 100)).toEqual(planChurn(7, 100));
});

test("planChurn asks for every kind of operation, and for none that is impossible", () => {
  const model = new NodeModel();
  const kinds = new Set<string>();
  let most = 0;
  for (const operation of planChurn(1, 2000)) {
    if (operation.kind === "create") expect(model.pods.has(operation.pod)).toBe(false);
    else if ("pod" in operation) expect(model.pods.has(operation.pod)).toBe(true);
    model.apply(operation);
    kinds.add(operation.kind);
    most = Math.max(most, model.pods.size);
  }
  expect(kinds.size).toBe(14);
  expect(most).toBe(30);
});

test("NodeModel wants a pod by its own label, else by its namespace's, unless it is excluded", () => {
  const model = new NodeModel();
  const overrides = { dnsCapture: null, ingress: null, interfaces: null };
  const create = (pod: number, mode: "ambient" | "none" | null): void =>
    model.apply({ kind: "create", pod, uid: `u${pod}`, mode, overrides, seen: true, foreign: false });
  // slots 0 and 3 belong to "mesh", which is ambient, 1 and 4 to "plain", which is not
  create(0, null);
  create(3, "none");
  create(1, null);
  create(4, "ambient");
  const wanted = (): number[] =>
    [...model.pods.values()].filter((pod) => model.wanted(pod)).map(({ slot }) => slot);
  expect(wanted()).toEqual([0, 4]);
  model.apply({ kind: "label-namespace", namespace: "plain", mode: "ambient" });
  expect(wanted()).toEqual([0, 1, 4]);
  model.apply({ kind: "sidecar", pod: 0, on: true });
  model.apply({ kind: "finish", pod: 1, sandboxStays: true });
  expect(wanted()).toEqual([4]);
  model.apply({ kind: "replace-namespace", namespace: "plain", mode: "ambient" });
  expect([...model.pods.keys()]).toEqual([0, 3]);
});
