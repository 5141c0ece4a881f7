// SPDX-License-Identifier: Apache-2.0
// Whether a DaemonSet has a place for a node, as the DaemonSet controller sees it.
import { expect, test } from "vitest";
import { fitsNode, type NodeFacts } from "../../src/kube/node-fit.ts";

const node: NodeFacts = { name: "n1", labels: { os: "linux", zone: "a", gen: "4", "": "" } };

const terms = (...nodeSelectorTerms: object[]) => ({
  affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms } } },
});
const when = (key: string, operator: string, ...values: string[]) => ({ key, operator, values });
const one = (key: string, operator: string, ...values: string[]) =>
  terms({ matchExpressions: [when(key, operator, ...values)] });

test.each<[string, object, boolean]>([
  ["nothing", {}, true],
  ["its selector", { nodeSelector: { os: "linux" } }, true],
  ["another value of its selector", { nodeSelector: { os: "linux", zone: "b" } }, false],
  ["a label that it has not got", { nodeSelector: { gpu: "" } }, false],
  ["In", one("zone", "In", "b", "a"), true],
  ["In, and the label is absent", one("gpu", "In", ""), false],
  ["NotIn", one("zone", "NotIn", "a"), false],
  ["NotIn, and the label is absent", one("gpu", "NotIn", "x"), true],
  ["Exists", one("zone", "Exists"), true],
  ["DoesNotExist", one("zone", "DoesNotExist"), false],
  ["Gt", one("gen", "Gt", "3"), true],
  ["Gt, not greater", one("gen", "Gt", "4"), false],
  ["Lt", one("gen", "Lt", "5"), true],
  ["Lt of a word", one("zone", "Lt", "5"), false],
  ["an operator of a later Kubernetes", one("zone", "Near", "b"), true],
  ["its name", terms({ matchFields: [when("metadata.name", "In", "n1")] }), true],
  ["another name", terms({ matchFields: [when("metadata.name", "In", "n2")] }), false],
  [
    "one of two terms",
    terms({ matchExpressions: [when("zone", "In", "b")] }, { matchExpressions: [when("os", "Exists")] }),
    true,
  ],
  [
    "both conditions of a term",
    terms({ matchExpressions: [when("zone", "In", "a"), when("gen", "In", "5")] }),
    false,
  ],
  ["an empty term", terms({}), false],
  ["no term", terms(), false],
  [
    "a preference alone",
    { affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 1 }] } } },
    true,
  ],
  [
    "selector and affinity, the one without the other",
    { nodeSelector: { os: "windows" }, ...one("zone", "Exists") },
    false,
  ],
])("a DaemonSet that asks for %s", (_what, spec, fits) => {
  expect(fitsNode({ spec: { template: { spec } } }, node)).toBe(fits);
});

test("garbage is no reason to leave", () => {
  for (const spec of [null, [], 7, { nodeSelector: 7, affinity: [] }])
    expect(fitsNode({ spec: { template: { spec } } }, node)).toBe(true);
});
