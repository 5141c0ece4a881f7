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

function matchRequirement({ key, ...wanted }: LabelRequirement, labels: Labels): boolean {
  return matchValue(wanted, Object.hasOwn(labels, key) ? labels[key] : undefined);
}

/** Tells whether a label's value is as wanted. @param value undefined: there is no such label */
export function matchValue(
  { operator, values }: Omit<LabelRequirement, "key">,
  value: string | undefined,
): boolean {
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

/** Hears what is found while parsing; `where` names the place in the reader's terms. */
export interface ParseReport {
  /** It cannot be used. */
  fault(where: string, fault: string): void;
  /** It is used in another way than it is written. */
  warn(where: string, what: string): void;
}

/**
 * The fields of a YAML map by name; undefined (and a fault) when the node is no map. Null and absent count as empty. Where names
 * are `known`, others are left out and case does not matter; the last of two counts. Source: Go encoding/json Unmarshal.
 */
export function mapFields(
  node: unknown,
  options: { where: string; known?: readonly string[]; report: ParseReport },
): Map<string, unknown> | undefined {
  const { where, known, report } = options;
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return new Map();
  if (!isMap(node)) {
    report.fault(where, `must be a map, is ${describeNode(node)}`);
    return undefined;
  }
  const fields = new Map<string, unknown>();
  for (const { key, value } of node.items) {
    const written = scalarText(key) ?? "";
    if (known === undefined) warnIfRead(key, where, report);
    const name = known === undefined ? written : known.find((each) => isSameName(each, written));
    if (name === undefined) {
      report.warn(where, `unknown field "${written}" is left out (known: ${known?.join(", ")})`);
      continue;
    }
    if (name !== written) report.warn(where, `"${written}" is taken for "${name}"`);
    if (fields.has(name)) report.warn(where, `"${name}" is there twice: the last counts`);
    fields.set(name, value);
  }
  return fields;
}

function isSameName(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}

/** Parses one label selector from its YAML node, reporting each fault. */
export function parseLabelSelector(node: unknown, where: string, report: ParseReport): LabelSelector {
  const fields = mapFields(node, { where, known: ["matchLabels", "matchExpressions"], report });
  if (fields === undefined) return [];
  const labels = parseMatchLabels(fields.get("matchLabels"), `${where}.matchLabels`, report);
  const expressions = parseExpressions(fields.get("matchExpressions"), `${where}.matchExpressions`, report);
  return [...labels, ...expressions];
}

function parseMatchLabels(node: unknown, where: string, report: ParseReport): LabelRequirement[] {
  const fields = mapFields(node, { where, report }) ?? new Map<string, unknown>();
  return [...fields].map(([key, valueNode]) => {
    checkKey(key, where, report);
    return { key, operator: "In" as const, values: [valueText(valueNode, `${where}["${key}"]`, report)] };
  });
}

function parseExpressions(node: unknown, where: string, report: ParseReport): LabelRequirement[] {
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return [];
  if (!isSeq(node)) {
    report.fault(where, `must be a list, is ${describeNode(node)}`);
    return [];
  }
  return node.items.flatMap((item, index) => parseExpression(item, `${where}[${index}]`, report) ?? []);
}

function parseExpression(node: unknown, where: string, report: ParseReport): LabelRequirement | undefined {
  const fields = mapFields(node, { where, known: ["key", "operator", "values"], report });
  if (fields === undefined) return undefined;
  const key = scalarText(fields.get("key"));
  if (key === undefined) report.fault(where, "key is missing");
  else checkKey(key, where, report);
  const operator = scalarText(fields.get("operator"));
  const values = parseValues(fields.get("values"), `${where}.values`, report);
  if (!isOperator(operator)) {
    const found = operator === undefined ? "operator is missing" : `unknown operator "${operator}"`;
    report.fault(where, `${found} (known: ${operators.join(", ")})`);
    return undefined;
  }
  const takesValues = operator === "In" || operator === "NotIn";
  if (takesValues && values.length === 0) report.fault(where, `operator ${operator} needs values`);
  if (!takesValues && values.length > 0) report.fault(where, `operator ${operator} takes no values`);
  return { key: key ?? "", operator, values };
}

function parseValues(node: unknown, where: string, report: ParseReport): string[] {
  if (node === undefined || node === null || (isScalar(node) && node.value === null)) return [];
  if (!isSeq(node)) {
    report.fault(where, `must be a list, is ${describeNode(node)}`);
    return [];
  }
  return node.items.map((item, index) => valueText(item, `${where}[${index}]`, report));
}

/** A label's value; null counts as empty. Source: Go encoding/json Unmarshal, null into a string. */
function valueText(node: unknown, where: string, report: ParseReport): string {
  if (isScalar(node) && node.value === null) {
    report.warn(where, "is empty");
    return "";
  }
  const value = scalarText(node);
  if (value === undefined) report.fault(where, `must be text, is ${describeNode(node)}`);
  else checkValue(value, where, report);
  warnIfRead(node, where, report);
  return value ?? "";
}

function warnIfRead(node: unknown, where: string, report: ParseReport): void {
  const value = scalarText(node);
  if (isScalar(node) && typeof node.value !== "string" && value !== undefined && node.source !== value)
    report.warn(where, `${node.source} without quotes is read as "${value}"`);
}

function isOperator(text: string | undefined): text is Operator {
  return operators.some((operator) => operator === text);
}

/**
 * The text of a scalar. Booleans and numbers without quotes become the text of their value, `yes` becomes "true" and 1.10
 * becomes "1.1". Source: sigs.k8s.io/yaml convertToJSONableObject (YAML 1.1).
 */
function scalarText(node: unknown): string | undefined {
  if (!isScalar(node) || node.value === null) return undefined;
  const { value, source } = node;
  if (typeof value === "string") return value;
  return typeof value === "boolean" || typeof value === "number" ? String(value) : (source ?? String(value));
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
export function isLabelKey(key: string): boolean {
  const { prefix, name } = partsOf(key);
  return isLabelName(name) && (prefix === undefined || isLabelPrefix(prefix));
}

/** Source: as {@link isLabelKey}. */
export function isLabelValue(value: string): boolean {
  return value.length <= 63 && (value === "" || namePattern.test(value));
}

function isLabelName(name: string): boolean {
  return name.length <= 63 && namePattern.test(name);
}

function isLabelPrefix(prefix: string): boolean {
  return prefix.length <= 253 && prefixPattern.test(prefix);
}

function partsOf(key: string): { readonly prefix: string | undefined; readonly name: string } {
  const slash = key.indexOf("/");
  return slash < 0
    ? { prefix: undefined, name: key }
    : { prefix: key.slice(0, slash), name: key.slice(slash + 1) };
}

function checkKey(key: string, where: string, report: ParseReport): void {
  const { prefix, name } = partsOf(key);
  if (!isLabelName(name)) {
    report.fault(
      where,
      `"${key}" is not a label key: the name must be 1 to 63 letters, digits, "-", "_" or "."`,
    );
  }
  if (prefix !== undefined && !isLabelPrefix(prefix)) {
    report.fault(where, `"${key}" is not a label key: the part before "/" must be a DNS name`);
  }
}

function checkValue(value: string, where: string, report: ParseReport): void {
  if (isLabelValue(value)) return;
  report.fault(where, `"${value}" is not a label value: at most 63 letters, digits, "-", "_" or "."`);
}
