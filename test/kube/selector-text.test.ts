// SPDX-License-Identifier: Apache-2.0
// Which texts a server would take for selectors.
import { expect, test } from "vitest";
import { fieldSelectorFault, labelSelectorFault } from "../../src/kube/selector-text.ts";

test.each([
  ["", true],
  ["app", true],
  ["!app", true],
  ["! app", true],
  ["app=web", true],
  ["app==web,tier!=db", true],
  ["app = web", true],
  ["istio.io/rev in (a, b),!x", true],
  ["app notin (a)", true],
  ["replicas>3", true],
  ["app=web,", false],
  ["=web", false],
  ["app in a", false],
  ["app in (a", false],
  ["app=web tier=db", false],
  ["!app=web", false],
  ["a b", false],
  ["-x=1", false],
  ["app=a/b", false],
  ["][ %s /\u0001 -1", false],
])("whether %j is a label selector: %s", (text, isOne) => {
  expect(labelSelectorFault(text) === undefined).toBe(isOne);
});

test.each([
  ["", true],
  ["metadata.namespace!=kube-system", true],
  ["metadata.name=a,spec.nodeName==b", true],
  ["metadata.name=", true],
  ["metadata.name", false],
  ["=a", false],
  ["metadata.name=a b", false],
  ["metadata.name=a=b", false],
  ["][ %s /\u0001 -1", false],
])("whether %j is a field selector: %s", (text, isOne) => {
  expect(fieldSelectorFault(text) === undefined).toBe(isOne);
});
