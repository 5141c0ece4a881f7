// SPDX-License-Identifier: Apache-2.0
// Which namespaces' pods are certainly outside the mesh, by their labels and by what was seen.
import { expect, test } from "vitest";
import {
  claimOf,
  parseVerdicts,
  renderVerdicts,
  selectorsMark,
} from "../../src/install/namespace-verdicts.ts";
import { defaultSelectors, parseEnablementSelectors } from "../../src/kube/selectors.ts";

const mode = "istio.io/dataplane-mode";
const optIn = `[{podSelector: {matchLabels: {mesh: "yes"}}, namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [infra]}]}}]`;
const marked = `[{podSelector: {matchLabels: {mesh: "yes"}}, namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]`;
const everywhere = `[{podSelector: {matchExpressions: [{key: mesh, operator: DoesNotExist}]}}]`;

test.each<[string, Record<string, string>, string, string]>([
  ["no label", {}, "", "opt-in"],
  ["the mesh's label", { [mode]: "ambient" }, "", "mesh"],
  ["the label that says no", { [mode]: "none" }, "", "opt-in"],
  ["sidecar injection", { "istio-injection": "enabled" }, "", "mesh"],
  ["sidecar injection of another word", { "istio-injection": "true" }, "", "mesh"],
  ["a revision", { "istio.io/rev": "canary" }, "", "mesh"],
  ["no sidecar injection", { "istio-injection": "disabled" }, "", "opt-in"],
  [
    "no sidecar injection whatever the revision",
    { "istio-injection": "disabled", "istio.io/rev": "a" },
    "",
    "opt-in",
  ],
  ["a label that some lack", {}, optIn, "opt-in"],
  ["a label that shuts it out", { team: "infra" }, optIn, "none"],
  ["sidecars, shut out", { team: "infra", "istio.io/rev": "a" }, optIn, "mesh"],
  ["the mark for pods that opt in", { team: "shop" }, marked, "mesh"],
  ["no such mark", {}, marked, "none"],
  ["anything, where pods that say nothing belong to the mesh", {}, everywhere, "mesh"],
])("a namespace with %s", (_what, labels, selectors, claim) => {
  expect(claimOf(labels, parseEnablementSelectors(selectors).selectors)).toBe(claim);
});

test("no selectors at all leave every namespace outside", () => {
  expect(claimOf({ [mode]: "ambient" }, [])).toBe("none");
});

test("the list says again what it was told, in an order that does not depend on it", () => {
  const namespace = (name: string) => ({
    key: name,
    name,
    uid: `uid-${name}`,
    labels: {},
    resourceVersion: "1",
  });
  const memory = {
    selectors: selectorsMark(defaultSelectors),
    seen: new Map([
      ["z", "1"],
      ["mesh", "2"],
    ]),
  };
  const text = renderVerdicts(memory, [namespace("start"), namespace("b")]);
  expect(text.split("\n").slice(2)).toEqual([
    `selectors ${memory.selectors}`,
    "hold mesh 2",
    "hold z 1",
    "start b uid-b",
    "start start uid-start",
    "",
  ]);
  expect(parseVerdicts(text)).toEqual({ ...memory, starting: ["b", "start"] });
  expect(parseVerdicts("\0garbage\nstart")).toEqual({ selectors: "", seen: new Map(), starting: [""] });
});
