// SPDX-License-Identifier: Apache-2.0
// A configuration file parsed once: its JSON value, and where the plugins of its chains stand in the text. Pure.
import { type ConfText, confBytes } from "./conf-text.ts";
import { arrayElements, findMember, type Span, skipSpace } from "./json-spans.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

/** One element of a list of plugins, with all elements of that list. */
export interface PluginPlace extends Span {
  readonly value: unknown;
  readonly list: readonly Span[];
  readonly index: number;
}

/** The one parse of a file; whoever asks something of the text asks it of this. */
export interface ConfDocument {
  readonly text: ConfText;
  readonly value: JsonObject;
  /** Where the object's opening brace stands. */
  readonly start: number;
  /** Elements of `plugins`; none in the configuration of a single plugin. */
  readonly chain: readonly PluginPlace[];
  /** Plugins of the chains inside `delegates`. Source: k8snetworkplumbingwg/multus-cni docs/configuration.md */
  readonly delegates: readonly PluginPlace[];
}

/** Parses the text of a file. @throws Error with the reason: it is no JSON, or no object */
export function parseDocument(text: ConfText): ConfDocument {
  // Go's decoder takes no byte order mark, and refuses an empty file; so does this one
  const value: unknown = JSON.parse(confBytes(text).toString("utf8"));
  if (!isObject(value)) throw new Error("it holds no JSON object");
  const start = skipSpace(text, 0);
  const chain = placesAt(text, { start, value, key: "plugins" });
  const delegating = [{ start, value }, ...chain];
  return { text, value, start, chain, delegates: delegating.flatMap((plugin) => delegatesOf(text, plugin)) };
}

/** The part of the text that a span names. */
export function textAt({ text }: ConfDocument, span: Span): ConfText {
  return text.slice(span.start, span.end);
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

interface Parent {
  readonly start: number;
  readonly value: unknown;
}

function delegatesOf(text: ConfText, parent: Parent): PluginPlace[] {
  return placesAt(text, { ...parent, key: "delegates" }).flatMap((delegate) => {
    const chain = placesAt(text, { ...delegate, key: "plugins" });
    return [...chain, ...chain.flatMap((plugin) => delegatesOf(text, plugin))];
  });
}

/** Elements of a list, each with its value: with a key that stands twice, both readers take the last one. */
function placesAt(text: ConfText, { start, value, key }: Parent & { readonly key: string }): PluginPlace[] {
  const elements = isObject(value) ? value[key] : undefined;
  if (!Array.isArray(elements)) return [];
  const member = findMember(text, start, key);
  if (member === undefined) return [];
  const list = arrayElements(text, member.start);
  return list.map((span, index) => ({ ...span, value: (elements as unknown[])[index], list, index }));
}
