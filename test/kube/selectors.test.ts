// SPDX-License-Identifier: Apache-2.0
// Enablement selectors: matching, parsing, and every fault named with its entry.
import { expect, test } from "vitest";
import {
  defaultSelectors,
  type EnablementSelector,
  matchSelectors,
  parseEnablementSelectors as parse,
  SelectorError,
} from "../../src/kube/selectors.ts";

/** Selectors that must be followed as they are written. */
function parseEnablementSelectors(text: string): readonly EnablementSelector[] {
  const { selectors, warnings } = parse(text);
  expect(warnings).toEqual([]);
  return selectors;
}

const mode = "istio.io/dataplane-mode";

test.each([
  [{}, {}, undefined],
  [{ [mode]: "ambient" }, {}, 0],
  [{}, { [mode]: "ambient" }, 1],
  [{ [mode]: "none" }, { [mode]: "ambient" }, undefined],
  [{ [mode]: "ambient" }, { [mode]: "ambient" }, 0],
  [{ [mode]: "ambient" }, { [mode]: "none" }, 0],
  [{ [mode]: "sidecar" }, { [mode]: "ambient" }, 1],
  [{ [mode]: "" }, { [mode]: "ambient" }, 1],
  [{ [mode]: "sidecar" }, {}, undefined],
  [{}, { [mode]: "none" }, undefined],
  [{}, { [mode]: "Ambient" }, undefined],
])("the default selectors give pod %j in namespace %j entry %j", (podLabels, namespaceLabels, expected) => {
  expect(matchSelectors(defaultSelectors, podLabels, namespaceLabels)).toBe(expected);
});

const cases: [string, Record<string, string>, boolean][] = [
  ["{}", {}, true],
  ["{}", { a: "b" }, true],
  ["{matchLabels: {}}", {}, true],
  ["{matchExpressions: []}", {}, true],
  ["{matchLabels: {a: b}}", { a: "b" }, true],
  ["{matchLabels: {a: b}}", { a: "c" }, false],
  ["{matchLabels: {a: b}}", {}, false],
  ["{matchLabels: {a: b, c: d}}", { a: "b" }, false],
  ["{matchLabels: {a: b, c: d}}", { a: "b", c: "d", e: "f" }, true],
  ['{matchLabels: {a: ""}}', { a: "" }, true],
  ['{matchLabels: {a: ""}}', {}, false],
  ["{matchLabels: {a: true}}", { a: "true" }, true],
  ["{matchLabels: {a: 110}}", { a: "110" }, true],
  ["{matchExpressions: [{key: a, operator: In, values: [b, c]}]}", { a: "c" }, true],
  ["{matchExpressions: [{key: a, operator: In, values: [b, c]}]}", { a: "d" }, false],
  ["{matchExpressions: [{key: a, operator: In, values: [b, c]}]}", {}, false],
  ["{matchExpressions: [{key: a, operator: NotIn, values: [b]}]}", { a: "b" }, false],
  ["{matchExpressions: [{key: a, operator: NotIn, values: [b]}]}", { a: "c" }, true],
  ["{matchExpressions: [{key: a, operator: NotIn, values: [b]}]}", {}, true],
  ["{matchExpressions: [{key: a, operator: Exists}]}", { a: "" }, true],
  ["{matchExpressions: [{key: a, operator: Exists}]}", {}, false],
  ["{matchExpressions: [{key: a, operator: DoesNotExist}]}", {}, true],
  ["{matchExpressions: [{key: a, operator: DoesNotExist, values: []}]}", { a: "" }, false],
  ["{matchExpressions: [{key: toString, operator: DoesNotExist}]}", {}, true],
  ["{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}", { a: "b" }, false],
  ["{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}", { a: "b", c: "" }, true],
];

test.each(cases)("selector %s against labels %j gives %j", (text, labels, expected) => {
  const asPod = parseEnablementSelectors(`[{podSelector: ${text}}]`);
  expect(matchSelectors(asPod, labels, {}) !== undefined).toBe(expected);
  const asNamespace = parseEnablementSelectors(`[{namespaceSelector: ${text}}]`);
  expect(matchSelectors(asNamespace, {}, labels) !== undefined).toBe(expected);
});

test("the first of several entries that matches both sides decides", () => {
  const selectors = parseEnablementSelectors(`
- podSelector: {matchLabels: {a: "1"}}
  namespaceSelector: {matchLabels: {ns: "1"}}
- podSelector: {matchLabels: {a: "1"}}
- namespaceSelector: {matchLabels: {ns: "1"}}
`);
  expect(matchSelectors(selectors, { a: "1" }, { ns: "1" })).toBe(0);
  expect(matchSelectors(selectors, { a: "1" }, {})).toBe(1);
  expect(matchSelectors(selectors, {}, { ns: "1" })).toBe(2);
  expect(matchSelectors(selectors, {}, {})).toBeUndefined();
});

test("an empty list matches nothing, an empty entry everything", () => {
  expect(matchSelectors(parseEnablementSelectors("[]"), {}, {})).toBeUndefined();
  expect(matchSelectors(parseEnablementSelectors("[{}]"), {}, {})).toBe(0);
  expect(matchSelectors(parseEnablementSelectors("[null]"), {}, {})).toBe(0);
  expect(matchSelectors(parseEnablementSelectors("[{podSelector: null}]"), {}, {})).toBe(0);
});

test.each(["", "  \n"])("blank text %j stands for the default", (text) => {
  expect(parseEnablementSelectors(text)).toBe(defaultSelectors);
});

test("the default as istio-cni's chart writes it parses to our default", () => {
  const yaml = `
- podSelector:
    matchLabels:
      istio.io/dataplane-mode: ambient
- podSelector:
    matchExpressions:
      - key: istio.io/dataplane-mode
        operator: NotIn
        values: [none]
  namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
`;
  expect(parseEnablementSelectors(yaml)).toEqual(defaultSelectors);
  const json = JSON.stringify([{ podSelector: { matchLabels: { [mode]: "ambient" } } }]);
  expect(parseEnablementSelectors(json)).toEqual([defaultSelectors[0]]);
});

const long = "x".repeat(64);

test.each<[string, string[]]>([
  ["a: b", ["must be a list of {podSelector, namespaceSelector}"]],
  ["just text", ["must be a list of {podSelector, namespaceSelector}"]],
  ["[7]", ["entry 1: must be a map, is 7"]],
  ["[{podSelector: []}]", ["entry 1, podSelector: must be a map, is a list"]],
  ["[{podSelector: {matchLabels: [a]}}]", ["entry 1, podSelector.matchLabels: must be a map, is a list"]],
  [
    "[{podSelector: {matchLabels: {a: {}}}}]",
    ['entry 1, podSelector.matchLabels["a"]: must be text, is a map'],
  ],
  [
    "[{podSelector: {matchExpressions: {}}}]",
    ["entry 1, podSelector.matchExpressions: must be a list, is a map"],
  ],
  [
    "[{podSelector: {matchExpressions: [a]}}]",
    ['entry 1, podSelector.matchExpressions[0]: must be a map, is "a"'],
  ],
  [
    "[{}, {namespaceSelector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}]",
    [
      'entry 2, namespaceSelector.matchExpressions[0]: unknown operator "Equals" (known: In, NotIn, Exists, DoesNotExist)',
    ],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a}]}}]",
    [
      "entry 1, podSelector.matchExpressions[0]: operator is missing (known: In, NotIn, Exists, DoesNotExist)",
    ],
  ],
  [
    "[{podSelector: {matchExpressions: [{operator: Exists}]}}]",
    ["entry 1, podSelector.matchExpressions[0]: key is missing"],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: In}]}}]",
    ["entry 1, podSelector.matchExpressions[0]: operator In needs values"],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}]",
    ["entry 1, podSelector.matchExpressions[0]: operator NotIn needs values"],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]",
    ["entry 1, podSelector.matchExpressions[0]: operator Exists takes no values"],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: In, values: b}]}}]",
    [
      'entry 1, podSelector.matchExpressions[0].values: must be a list, is "b"',
      "entry 1, podSelector.matchExpressions[0]: operator In needs values",
    ],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: In, values: [[b]]}]}}]",
    ["entry 1, podSelector.matchExpressions[0].values[0]: must be text, is a list"],
  ],
  [
    "[{podSelector: {matchLabels: {-a: b}}}]",
    [
      'entry 1, podSelector.matchLabels: "-a" is not a label key: the name must be 1 to 63 letters, digits, "-", "_" or "."',
    ],
  ],
  [
    "[{podSelector: {matchLabels: {A_b/c: d}}}]",
    ['entry 1, podSelector.matchLabels: "A_b/c" is not a label key: the part before "/" must be a DNS name'],
  ],
  [
    `[{podSelector: {matchLabels: {a: ${long}}}}]`,
    [
      `entry 1, podSelector.matchLabels["a"]: "${long}" is not a label value: at most 63 letters, digits, "-", "_" or "."`,
    ],
  ],
  [
    "[{podSelector: {matchLabels: {a: b c}}}]",
    [
      'entry 1, podSelector.matchLabels["a"]: "b c" is not a label value: at most 63 letters, digits, "-", "_" or "."',
    ],
  ],
])("the selectors %s are refused with the entry and the reason", (text, faults) => {
  expect(faultsOf(text)).toEqual(faults);
});

test.each(["[", "- a: [}"])("text that is no YAML is refused: %s", (text) => {
  expect(faultsOf(text)[0]).toMatch(/^not YAML: /);
});

const asB = [{ key: "a", operator: "In", values: ["b"] }];

// each line run with istio-cni's own parser: sigs.k8s.io/yaml Unmarshal into []util.EnablementSelector
test.each<[string, unknown, string[]]>([
  ["null", [], ["it is null: no pod is selected"]],
  ["~", [], ["it is null: no pod is selected"]],
  [
    "[{podselector: {MATCHLABELS: {a: b}}}]",
    [{ podSelector: asB, namespaceSelector: [] }],
    [
      'entry 1: "podselector" is taken for "podSelector"',
      'entry 1, podSelector: "MATCHLABELS" is taken for "matchLabels"',
    ],
  ],
  [
    "[{pods: {matchLabels: {a: b}}}]",
    [{ podSelector: [], namespaceSelector: [] }],
    ['entry 1: unknown field "pods" is left out (known: podSelector, namespaceSelector)'],
  ],
  [
    "[{podSelector: {matchLabels: {a: c, a: b}}}]",
    [{ podSelector: asB, namespaceSelector: [] }],
    ['entry 1, podSelector.matchLabels: "a" is there twice: the last counts'],
  ],
  [
    "[{podSelector: {matchExpressions: [{key: a, operator: Exists, value: b}]}}]",
    [{ podSelector: [{ key: "a", operator: "Exists", values: [] }], namespaceSelector: [] }],
    [
      'entry 1, podSelector.matchExpressions[0]: unknown field "value" is left out (known: key, operator, values)',
    ],
  ],
  [
    "[{podSelector: {matchLabels: {a: null}}}]",
    [{ podSelector: [{ key: "a", operator: "In", values: [""] }], namespaceSelector: [] }],
    ['entry 1, podSelector.matchLabels["a"]: is empty'],
  ],
  [
    "[{podSelector: {matchLabels: {a: yes}}}]",
    [{ podSelector: [{ key: "a", operator: "In", values: ["true"] }], namespaceSelector: [] }],
    ['entry 1, podSelector.matchLabels["a"]: yes without quotes is read as "true"'],
  ],
  ...["0x10", "1_6", "020", "1.6e1"].map((written): [string, unknown, string[]] => [
    `[{podSelector: {matchLabels: {a: ${written}}}}]`,
    [{ podSelector: [{ key: "a", operator: "In", values: ["16"] }], namespaceSelector: [] }],
    [`entry 1, podSelector.matchLabels["a"]: ${written} without quotes is read as "16"`],
  ]),
  [
    "[{podSelector: {matchLabels: {n: b}}}]",
    [{ podSelector: [{ key: "false", operator: "In", values: ["b"] }], namespaceSelector: [] }],
    ['entry 1, podSelector.matchLabels: n without quotes is read as "false"'],
  ],
  [
    "[{podSelector: {matchLabels: {a: 1.10}}}]",
    [{ podSelector: [{ key: "a", operator: "In", values: ["1.1"] }], namespaceSelector: [] }],
    ['entry 1, podSelector.matchLabels["a"]: 1.10 without quotes is read as "1.1"'],
  ],
  [
    "[{podSelector: {matchLabels: {a: 2024-01-01}}}]",
    [{ podSelector: [{ key: "a", operator: "In", values: ["2024-01-01"] }], namespaceSelector: [] }],
    [],
  ],
])("the selectors %s are read as istio-cni reads them, with a warning", (text, selectors, warnings) => {
  expect(parse(text)).toEqual({ selectors, warnings });
});

test("all faults of all entries are reported at once", () => {
  const faults = faultsOf(`
- podSelector: {matchExpressions: [{key: a, operator: in}, {key: "b c", operator: Exists, values: [x]}]}
- namespaceSelector: []
`);
  expect(faults).toHaveLength(4);
  expect(faults.filter((fault) => fault.startsWith("entry 1"))).toHaveLength(3);
  expect(faults.filter((fault) => fault.startsWith("entry 2"))).toHaveLength(1);
});

function faultsOf(text: string): readonly string[] {
  try {
    parseEnablementSelectors(text);
  } catch (error) {
    expect(error).toBeInstanceOf(SelectorError);
    return (error as SelectorError).faults;
  }
  return [];
}
