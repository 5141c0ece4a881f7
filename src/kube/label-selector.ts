// SPDX-License-Identifier: Apache-2.0
// Kubernetes label selectors: parsing with every fault named, and matching.
import { isMap, isScalar, isSeq, type Node as YamlNode } from "yaml";

/** Labels of an object. */
export type Labels = Readonly<Record<string, string>>;

const operators = ["In", "NotIn", "Exists", "DoesNotExist"] as const;
type Operator = (typeof operators)[number];

/** One condition; `matchLabels` entries are kept as `In` with one value. */
export interface LabelRequirement {
  readonly key: string;
  readonly operator: Operator;
  /** Empty for Exists and DoesNotExist. */
  readonly values: readonly string[];
}

/** All conditions must hold; none at all matches everything. */
export type LabelSelector = readonly LabelRequirement[];

/** Tells whether labels meet a selector. Source: Kubernetes API reference, LabelSelectorRequirement. */
export function matchLabelSelector(selector: LabelSelector, labels: Labels): boolean {
  return selector.every((requirement) => matchRequirement(requirement, labels));
}

function matchRequirement({ key, operator, values }: LabelRequirement, labels: Labels): boolean {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined;
  switch (operator) {
    case "In":
      return value !== undefined && values.includes(value);
    case "NotIn":
      return value === undefined || !values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
  }
}

/** Collects faults found while parsing; `where` names the place in the reader's terms. */
export type FaultSink = (where: string, fault: string) => void;

/** The fields of a YAML map by name; undefined (and a fault) when the node is no map. Null and absent count as empty. */
export function mapFields(
  node: unknown,
  options: { where: string; known?: readonly string[]; report: FaultSink },
): Map<string, unknown> | undefined {
  const { where, known, report } = options;
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return new Map();
  if (!isMap(node)) {
    report(where, `must be a map, is ${describeNode(node)}`);
    return undefined;
  }
  const fields = new Map<string, unknown>();
  for (const { key, value } of node.items) {
    const name = scalarText(key) ?? "";
    if (known !== undefined && !known.includes(name)) {
      report(where, `unknown field "${name}" (known: ${known.join(", ")})`);
    }
    fields.set(name, value);
  }
  return fields;
}

/** Parses one label selector from its YAML node, reporting each fault. */
export function parseLabelSelector(node: unknown, where: string, report: FaultSink): LabelSelector {
  const fields = mapFields(node, { where, known: ["matchLabels", "matchExpressions"], report });
  if (fields === undefined) return [];
  const labels = parseMatchLabels(fields.get("matchLabels"), `${where}.matchLabels`, report);
  const expressions = parseExpressions(fields.get("matchExpressions"), `${where}.matchExpressions`, report);
  return [...labels, ...expressions];
}

function parseMatchLabels(node: unknown, where: string, report: FaultSink): LabelRequirement[] {
  const fields = mapFields(node, { where, report }) ?? new Map<string, unknown>();
  return [...fields].map(([key, valueNode]) => {
    checkKey(key, where, report);
    const value = scalarText(valueNode);
    if (value === undefined) report(`${where}["${key}"]`, `must be text, is ${describeNode(valueNode)}`);
    else checkValue(value, `${where}["${key}"]`, report);
    return { key, operator: "In" as const, values: [value ?? ""] };
  });
}

function parseExpressions(node: unknown, where: string, report: FaultSink): LabelRequirement[] {
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return [];
  if (!isSeq(node)) {
    report(where, `must be a list, is ${describeNode(node)}`);
    return [];
  }
  return node.items.flatMap((item, index) => parseExpression(item, `${where}[${index}]`, report) ?? []);
}

function parseExpression(node: unknown, where: string, report: FaultSink): LabelRequirement | undefined {
  const fields = mapFields(node, { where, known: ["key", "operator", "values"], report });
  if (fields === undefined) return undefined;
  const key = scalarText(fields.get("key"));
  if (key === undefined) report(where, "key is missing");
  else checkKey(key, where, report);
  const operator = scalarText(fields.get("operator"));
  const values = parseValues(fields.get("values"), `${where}.values`, report);
  if (!isOperator(operator)) {
    const found = operator === undefined ? "operator is missing" : `unknown operator "${operator}"`;
    report(where, `${found} (known: ${operators.join(", ")})`);
    return undefined;
  }
  const takesValues = operator === "In" || operator === "NotIn";
  if (takesValues && values.length === 0) report(where, `operator ${operator} needs values`);
  if (!takesValues && values.length > 0) report(where, `operator ${operator} takes no values`);
  return { key: key ?? "", operator, values };
}

function parseValues(node: unknown, where: string, report: FaultSink): string[] {
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return [];
  if (!isSeq(node)) {
    report(where, `must be a list, is ${describeNode(node)}`);
    return [];
  }
  return node.items.map((item, index) => {
    const value = scalarText(item);
    if (value === undefined) report(`${where}[${index}]`, `must be text, is ${describeNode(item)}`);
    else checkValue(value, `${where}[${index}]`, report);
    return value ?? "";
  });
}

function isOperator(text: string | undefined): text is Operator {
  return operators.some((operator) => operator === text);
}

/**
 * The text of a scalar.
 * Unquoted booleans and numbers count as the text they were written as, because the Go parser of these settings
 * converts them too. Source: sigs.k8s.io/yaml, convertToJSONableObject.
 */
function scalarText(node: unknown): string | undefined {
  if (!isScalar(node)) return undefined;
  if (typeof node.value === "string") return node.value;
  return node.value === null ? undefined : (node.source ?? String(node.value));
}

function describeNode(node: unknown): string {
  if (isMap(node)) return "a map";
  if (isSeq(node)) return "a list";
  if (isScalar(node)) return node.value === null ? "empty" : JSON.stringify(node.value);
  return node === undefined || node === null ? "empty" : `a ${(node as YamlNode).constructor.name}`;
}

const namePattern = /^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$/;
const prefixPattern = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;

/** Source: Kubernetes documentation, "Labels and Selectors", syntax and character set. */
function checkKey(key: string, where: string, report: FaultSink): void {
  const slash = key.indexOf("/");
  const [prefix, name] = slash < 0 ? [undefined, key] : [key.slice(0, slash), key.slice(slash + 1)];
  if (name.length > 63 || !namePattern.test(name)) {
    report(where, `"${key}" is not a label key: the name must be 1 to 63 letters, digits, "-", "_" or "."`);
  }
  if (prefix !== undefined && (prefix.length > 253 || !prefixPattern.test(prefix))) {
    report(where, `"${key}" is not a label key: the part before "/" must be a DNS name`);
  }
}

function checkValue(value: string, where: string, report: FaultSink): void {
  if (value.length <= 63 && (value === "" || namePattern.test(value))) return;
  report(where, `"${value}" is not a label value: at most 63 letters, digits, "-", "_" or "."`);
}
