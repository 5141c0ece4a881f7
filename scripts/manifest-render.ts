// SPDX-License-Identifier: Apache-2.0
// Evaluates parsed templates as Go does; what Go would print as "<no value>" is an error here.
import { functions, isEmpty, printed, sortedKeys, type Value } from "./manifest-functions.ts";
import type { Expression, Node } from "./manifest-template.ts";

/** Templates by the name they are defined under. */
export type Definitions = ReadonlyMap<string, readonly Node[]>;

/** Variables of a block; assignments reach outwards, declarations do not. */
class Scope {
  readonly #variables = new Map<string, Value>();
  readonly #outer: Scope | undefined;
  readonly dot: Value;

  constructor(dot: Value, outer?: Scope) {
    this.dot = dot;
    this.#outer = outer;
  }

  declare(name: string, value: Value): void {
    this.#variables.set(name, value);
  }

  assign(name: string, value: Value): void {
    if (this.#variables.has(name)) this.#variables.set(name, value);
    else if (this.#outer === undefined) throw new Error(`"${name}" is not declared`);
    else this.#outer.assign(name, value);
  }

  read(name: string): Value {
    if (name === ".") return this.dot;
    if (this.#variables.has(name)) return this.#variables.get(name);
    if (this.#outer === undefined) throw new Error(`"${name}" is not declared`);
    return this.#outer.read(name);
  }
}

/** Text of a template for a dot; `$` is the dot, too. @throws Error of `fail`, or for what cannot be evaluated */
export function renderTemplate(nodes: readonly Node[], dot: Value, definitions: Definitions): string {
  const scope = new Scope(dot);
  scope.declare("$", dot);
  return renderNodes(nodes, scope, definitions);
}

function renderNodes(nodes: readonly Node[], scope: Scope, definitions: Definitions): string {
  return nodes.map((node) => renderNode(node, scope, definitions)).join("");
}

function renderNode(node: Node, scope: Scope, definitions: Definitions): string {
  switch (node.kind) {
    case "text":
      return node.text;
    case "define":
      return "";
    case "print":
      return printed(evaluate(node.value, scope, definitions));
    case "assign": {
      const value = evaluate(node.value, scope, definitions);
      if (node.declares) scope.declare(node.name, value);
      else scope.assign(node.name, value);
      return "";
    }
    case "if":
    case "with": {
      const value = evaluate(node.value, scope, definitions);
      if (isEmpty(value)) return renderNodes(node.otherwise, new Scope(scope.dot, scope), definitions);
      return renderNodes(node.body, new Scope(node.kind === "with" ? value : scope.dot, scope), definitions);
    }
    case "range":
      return renderRange(node, scope, definitions);
  }
}

function renderRange(node: Node & { kind: "range" }, scope: Scope, definitions: Definitions): string {
  const value = evaluate(node.value, scope, definitions);
  if (isEmpty(value)) return renderNodes(node.otherwise, new Scope(scope.dot, scope), definitions);
  const table = value as Record<string, Value>;
  const entries: [Value, Value][] = Array.isArray(value)
    ? value.map((item, index) => [index, item])
    : sortedKeys(table).map((key) => [key, table[key]]);
  const [first, second] = node.names;
  return entries
    .map(([key, item]) => {
      const inner = new Scope(item, scope);
      if (first !== undefined) inner.declare(first, second === undefined ? item : key);
      if (second !== undefined) inner.declare(second, item);
      return renderNodes(node.body, inner, definitions);
    })
    .join("");
}

function evaluate(expression: Expression, scope: Scope, definitions: Definitions): Value {
  if (expression.kind === "literal") return expression.value;
  if (expression.kind === "path") return readPath(expression, scope);
  if (expression.kind === "method") {
    const method = readPath(expression.path, scope);
    if (typeof method !== "function") throw new Error(`"${expression.path.fields.join(".")}" is no function`);
    return method(...expression.args.map((argument) => evaluate(argument, scope, definitions)));
  }
  const { name, args } = expression;
  const value = (at: number): Value => {
    const argument = args[at];
    if (argument === undefined) throw new Error(`"${name}" needs ${at + 1} arguments`);
    return evaluate(argument, scope, definitions);
  };
  if (name === "and" || name === "or") {
    for (let at = 0; at < args.length - 1; at++) {
      const candidate = value(at);
      if (isEmpty(candidate) === (name === "and")) return candidate;
    }
    return value(args.length - 1);
  }
  if (name === "include") {
    const body = definitions.get(printed(value(0)));
    if (body === undefined) throw new Error(`template "${value(0)}" is not defined`);
    return renderTemplate(body, value(1), definitions);
  }
  const run = functions[name];
  if (run === undefined) throw new Error(`function "${name}" is not among those that the chart may use`);
  return run(...args.map((_, at) => value(at)));
}

function readPath({ variable, fields }: Expression & { kind: "path" }, scope: Scope): Value {
  let value = scope.read(variable);
  for (const [at, field] of fields.entries()) {
    if (typeof value !== "object" || value === null) {
      throw new Error(
        `Cannot read "${[variable, ...fields].join(".")}": there is nothing before "${field}" (${at})`,
      );
    }
    value = (value as Record<string, Value>)[field];
  }
  return value;
}
