// SPDX-License-Identifier: Apache-2.0
// Patterns of namespaces; the launcher's own reading of them is tested in test/plugin.
import { expect, test } from "vitest";
import { NamespacePatterns } from "../../src/kube/namespace-patterns.ts";

test.each<[string[], string[], string[]]>([
  [["kube-system"], ["kube-system"], ["kube-system-2", "my-kube-system", ""]],
  [["openshift-*"], ["openshift-", "openshift-dns"], ["openshift", "my-openshift-dns"]],
  [["*-system"], ["kube-system", "-system"], ["system", "kube-system2"]],
  [
    ["a*c", "b"],
    ["ac", "abc", "b"],
    ["ab", "cab", "bb"],
  ],
  [["**"], ["", "anything"], []],
  [
    ["a.c", "x+"],
    ["a.c", "x+"],
    ["abc", "xx"],
  ],
  [[], [], ["", "a"]],
])("%j has %j and not %j", (patterns, names, others) => {
  const namespaces = new NamespacePatterns(patterns);
  for (const name of names) expect(namespaces.has(name), name).toBe(true);
  for (const name of others) expect(namespaces.has(name), name).toBe(false);
  expect([...namespaces]).toEqual(patterns);
});
