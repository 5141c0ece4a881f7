// SPDX-License-Identifier: Apache-2.0
// Parses the part of Go's template language that deploy/chart is written in; anything else is an error.
// Source: pkg.go.dev/text/template "Actions", "Arguments", "Pipelines"

/** An expression. */
export type Expression =
  | { readonly kind: "literal"; readonly value: string | number | boolean | null }
  /** `.a.b`, `$.a` or `$name.a`: variable "." is the dot. */
  | { readonly kind: "path"; readonly variable: string; readonly fields: readonly string[] }
  | { readonly kind: "call"; readonly name: string; readonly args: readonly Expression[] }
  /** `.Files.Get "name"`: a path that leads to a function. */
  | {
      readonly kind: "method";
      readonly path: Expression & { kind: "path" };
      readonly args: readonly Expression[];
    };

/** One piece of a template. */
export type Node =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "print"; readonly value: Expression }
  | { readonly kind: "assign"; readonly name: string; readonly declares: boolean; readonly value: Expression }
  | {
      readonly kind: "if" | "with";
      readonly value: Expression;
      readonly body: readonly Node[];
      readonly otherwise: readonly Node[];
    }
  | {
      readonly kind: "range";
      readonly names: readonly string[];
      readonly value: Expression;
      readonly body: readonly Node[];
      readonly otherwise: readonly Node[];
    }
  | { readonly kind: "define"; readonly name: string; readonly body: readonly Node[] };

interface Piece {
  readonly text: string;
  readonly isAction: boolean;
}

/** @throws Error naming the file and the action that cannot be read */
export function parseTemplate(source: string, fileName: string): Node[] {
  try {
    const cursor = { pieces: splitActions(source), at: 0 };
    const { nodes, end } = parseNodes(cursor);
    if (end !== undefined) throw new Error(`"${end}" without a beginning`);
    return nodes;
  } catch (error) {
    throw new Error(`Cannot parse "${fileName}": ${(error as Error).message}`, { cause: error });
  }
}

/** Text and actions in turn; `{{-` and `-}}` take the white space beside them away. */
function splitActions(source: string): Piece[] {
  const pieces: Piece[] = [];
  let trimNext = false;
  let from = 0;
  for (const match of source.matchAll(/\{\{-?\s*\/\*[\s\S]*?\*\/\s*-?\}\}|\{\{[\s\S]*?\}\}/g)) {
    const action = match[0];
    const trimsLeft = action.startsWith("{{-");
    const trimsRight = action.endsWith("-}}");
    let text = source.slice(from, match.index);
    if (trimNext) text = text.trimStart();
    if (trimsLeft) text = text.trimEnd();
    pieces.push({ text, isAction: false });
    const inner = action.slice(trimsLeft ? 3 : 2, trimsRight ? -3 : -2).trim();
    if (!inner.startsWith("/*")) pieces.push({ text: inner, isAction: true });
    trimNext = trimsRight;
    from = match.index + action.length;
  }
  const rest = source.slice(from);
  pieces.push({ text: trimNext ? rest.trimStart() : rest, isAction: false });
  return pieces;
}

interface Cursor {
  readonly pieces: readonly Piece[];
  at: number;
}

/** Nodes up to the `end` or `else` that closes their block; `end` is that action. */
function parseNodes(cursor: Cursor): { nodes: Node[]; end: string | undefined } {
  const nodes: Node[] = [];
  while (cursor.at < cursor.pieces.length) {
    const { text, isAction } = cursor.pieces[cursor.at++] ?? { text: "", isAction: false };
    if (!isAction) {
      if (text !== "") nodes.push({ kind: "text", text });
    } else if (text === "end" || text === "else" || text.startsWith("else ")) {
      return { nodes, end: text };
    } else {
      nodes.push(parseAction(text, cursor));
    }
  }
  return { nodes, end: undefined };
}

function parseAction(text: string, cursor: Cursor): Node {
  const [, keyword = "", rest = ""] = /^(\w+)\s+([\s\S]*)$/.exec(text) ?? [];
  if (keyword === "if" || keyword === "with") {
    return { kind: keyword, value: parseExpression(rest), ...parseBranches(cursor) };
  }
  if (keyword === "range") {
    const named = /^((?:\$\w+\s*,\s*)?\$\w+)\s*:=\s*([\s\S]*)$/.exec(rest);
    const names = named?.[1]?.split(",").map((name) => name.trim()) ?? [];
    return { kind: "range", names, value: parseExpression(named?.[2] ?? rest), ...parseBranches(cursor) };
  }
  if (keyword === "define") {
    const { nodes, end } = parseNodes(cursor);
    if (end !== "end") throw new Error(`"${text}" has no end`);
    return { kind: "define", name: JSON.parse(rest) as string, body: nodes };
  }
  const assigned = /^(\$\w+)\s*(:?=)\s*([\s\S]*)$/.exec(text);
  if (assigned !== null) {
    const [, name = "", sign, value = ""] = assigned;
    return { kind: "assign", name, declares: sign === ":=", value: parseExpression(value) };
  }
  return { kind: "print", value: parseExpression(text) };
}

function parseBranches(cursor: Cursor): { body: Node[]; otherwise: Node[] } {
  const { nodes: body, end } = parseNodes(cursor);
  if (end === undefined) throw new Error("a block has no end");
  if (end === "end") return { body, otherwise: [] };
  if (end !== "else") return { body, otherwise: [parseAction(end.slice("else ".length), cursor)] };
  const { nodes: otherwise, end: last } = parseNodes(cursor);
  if (last !== "end") throw new Error("a block has no end after its else");
  return { body, otherwise };
}

const tokenPattern = /\s+|"(?:[^"\\]|\\.)*"|[()|]|\$?[\w]*(?:\.\w+)+|\$\w*|\.|-?\d+|\w+/gy;

function parseExpression(text: string): Expression {
  const tokens: string[] = [];
  tokenPattern.lastIndex = 0;
  while (tokenPattern.lastIndex < text.length) {
    const at = tokenPattern.lastIndex;
    const token = tokenPattern.exec(text)?.[0];
    if (token === undefined) throw new Error(`"${text.slice(at)}" is not understood`);
    if (token.trim() !== "") tokens.push(token);
  }
  const state = { tokens, at: 0 };
  const value = parsePipeline(state);
  if (state.at < tokens.length) throw new Error(`"${tokens[state.at]}" is one too many in "${text}"`);
  return value;
}

interface TokenCursor {
  readonly tokens: readonly string[];
  at: number;
}

/** `a b | c d` is `c d (a b)`. */
function parsePipeline(state: TokenCursor): Expression {
  let value = parseCommand(state);
  while (state.tokens[state.at] === "|") {
    state.at++;
    const next = parseCommand(state);
    if (next.kind !== "call") throw new Error("only functions can stand behind |");
    value = { ...next, args: [...next.args, value] };
  }
  return value;
}

function parseCommand(state: TokenCursor): Expression {
  const isComplete = state.tokens[state.at] === "(";
  const first = parseOperand(state);
  const args: Expression[] = [];
  while (state.at < state.tokens.length && !["|", ")"].includes(state.tokens[state.at] ?? "")) {
    args.push(parseOperand(state));
  }
  if (first.kind === "call" && !isComplete) return { ...first, args };
  if (args.length === 0) return first;
  if (first.kind !== "path") throw new Error("something follows a value that is no function");
  return { kind: "method", path: first, args };
}

function parseOperand(state: TokenCursor): Expression {
  const token = state.tokens[state.at++] ?? "";
  if (token === "(") {
    const inner = parsePipeline(state);
    if (state.tokens[state.at++] !== ")") throw new Error("a parenthesis is not closed");
    return inner;
  }
  if (token.startsWith('"')) return { kind: "literal", value: JSON.parse(token) as string };
  if (/^-?\d+$/.test(token)) return { kind: "literal", value: Number(token) };
  if (token === "true" || token === "false") return { kind: "literal", value: token === "true" };
  if (token === "nil") return { kind: "literal", value: null };
  if (token.startsWith("$") || token.startsWith(".")) {
    const [variable = "", ...fields] = token.split(".");
    return {
      kind: "path",
      variable: variable === "" ? "." : variable,
      fields: fields.filter((field) => field !== ""),
    };
  }
  if (/^\w+$/.test(token)) return { kind: "call", name: token, args: [] };
  throw new Error(token === "" ? "an operand is missing" : `"${token}" is not understood`);
}
