// SPDX-License-Identifier: Apache-2.0
// Puts our entry into a chain and takes it out again; every other byte of the file stays as it is. Pure.
import { isDeepStrictEqual } from "node:util";
import type { ConfPart } from "./conf.ts";
import { type ConfDocument, type PluginPlace, textAt, typeAt } from "./conf-document.ts";
import type { ConfText } from "./conf-text.ts";
import { renderLike, separatorLike } from "./entry-style.ts";
import { arrayElements, findMember, type Span } from "./json-spans.ts";

/** Type of our entry, which is the file name of the launcher. */
export const pluginType = "ambient-cni";
/** Type of the entry of the agent that this one can replace. */
export const istioCniType = "istio-cni";

/** Our entry in a chain: exactly what the launcher reads. */
export interface PluginEntry {
  readonly type: typeof pluginType;
  /** Run dir as the host sees it. */
  readonly cni_agent_run_dir: string;
  readonly agent_wait_seconds: number;
  /** `namespace` or `namespace/pod-name-prefix` of pods that may start while the agent is away. */
  readonly exempt: readonly string[];
}

/** How {@link insertPlugin} deals with what it finds. */
export interface InsertOptions {
  /** Replace istio-cni's entry, default false: it stays. */
  readonly replaceIstioCni?: boolean;
  /** Leave an entry of ours that has other settings, default false. */
  readonly keepSettings?: boolean;
}

/** Which of ours and istio-cni's entries a configuration holds, delegates and parts included. */
export interface ChainEntries {
  readonly ours: number;
  /** How many of ours are inside a delegate, as Multus copies the chain of another file. */
  readonly oursInDelegates: number;
  readonly istioCni: number;
}

/** A file, with its parts where it is a list that has some. */
type WithParts = ConfDocument & { readonly parts?: readonly ConfPart[] };

/** Counts the entries in a configuration. */
export function chainEntries({ chain, delegates, parts = [] }: WithParts): ChainEntries {
  const count = (places: readonly Pick<PluginPlace, "value">[], type: string) =>
    places.filter((place) => typeAt(place) === type).length;
  const all = [...chain, ...delegates, ...parts];
  return {
    ours: count(all, pluginType),
    oursInDelegates: count(delegates, pluginType),
    istioCni: count(all, istioCniType),
  };
}

/**
 * Text with exactly one entry of ours: appended as the last plugin if there was none, else mended where it stands.
 * An entry inside a delegate counts: the runtime calls it through the delegating plugin.
 * @param document a chain (`.conflist`) @throws Error when there is no list `plugins`
 */
export function insertPlugin(
  document: ConfDocument,
  entry: PluginEntry,
  options: InsertOptions = {},
): ConfText {
  const theirs = options.replaceIstioCni === true ? placesOfType(document, istioCniType) : [];
  const [kept, ...surplus] = placesOfType(document, pluginType);
  const place = kept ?? theirs[0];
  if (place === undefined) return append(document, entry);
  const isRight =
    place === kept && (options.keepSettings === true || isDeepStrictEqual(place.value, { ...entry }));
  const mended = isRight ? [] : [{ ...place, insert: renderLike(document.text, place, entry) }];
  const cut = [...surplus, ...theirs].filter((each) => each !== place);
  return edited(document, [...mended, ...cuts(cut)]);
}

/** Our entry as it stands in a configuration, whatever its settings. */
export function readEntry(document: WithParts): PluginEntry | undefined {
  const part = document.parts?.find((each) => typeAt(each) === pluginType);
  return (placesOfType(document, pluginType)[0] ?? part)?.value as PluginEntry | undefined;
}

/** Text without any entry of ours: the inverse of {@link insertPlugin}, byte for byte. */
export function removePlugin(document: ConfDocument): ConfText {
  return edited(document, cuts(placesOfType(document, pluginType)));
}

/** A chain made of a single plugin's configuration, whose text becomes the list's element byte for byte. */
export function wrapConf(document: ConfDocument): ConfText {
  const { text, start } = document;
  const plugin = text.slice(start, text.lastIndexOf("}") + 1);
  const line = /\r?\n/.exec(plugin)?.[0] ?? "";
  const indent = line === "" ? "" : "  ";
  const colon = line === "" ? ":" : ": ";
  const version = findMember(text, start, "cniVersion");
  const name = findMember(text, start, "name");
  const head = [
    ...(version === undefined ? [] : [`"cniVersion"${colon}${textAt(document, version)}`]),
    `"name"${colon}${name === undefined ? '""' : textAt(document, name)}`,
    `"plugins"${colon}[${line}`,
  ];
  return `{${line}${indent}${head.join(`,${line}${indent}`)}${plugin}${line}${indent}]${line}}${line}`;
}

/** The entry kept of several is the first in a delegate, else the first in the chain. */
function placesOfType({ chain, delegates }: ConfDocument, type: string): PluginPlace[] {
  return [...delegates, ...chain].filter((place) => typeAt(place) === type);
}

function append(document: ConfDocument, entry: PluginEntry): ConfText {
  const { text, start } = document;
  const plugins = findMember(text, start, "plugins");
  if (plugins === undefined || text[plugins.start] !== "[") {
    throw new Error('Cannot add the plugin: the configuration has no list "plugins"');
  }
  const last = arrayElements(text, plugins.start).at(-1);
  const at = last === undefined ? plugins.start + 1 : last.end;
  const style = last ?? { start: at, end: at };
  const separator = last === undefined ? "" : `,${separatorLike(text, last)}`;
  return edited(document, [{ start: at, end: at, insert: separator + renderLike(text, style, entry) }]);
}

/** Text to put in place of a span. */
interface Edit extends Span {
  readonly insert: string;
}

/** Takes elements out of their lists, with the comma that came with each. */
function cuts(places: readonly PluginPlace[]): Edit[] {
  const gone = new Set(places.map(({ start }) => start));
  return places.map(({ list, index, start, end }) => {
    const isKept = (span: Span | undefined) => span !== undefined && !gone.has(span.start);
    // the comma before it, unless all that stands before it goes as well
    if (list.slice(0, index).some(isKept)) return { start: list[index - 1]?.end ?? start, end, insert: "" };
    return { start, end: list[index + 1]?.start ?? end, insert: "" };
  });
}

/** Edits that do not overlap, from the last to the first, so that no place moves before its turn. */
function edited({ text }: ConfDocument, edits: readonly Edit[]): ConfText {
  return edits
    .toSorted((a, b) => b.start - a.start)
    .reduce((result, { start, end, insert }) => result.slice(0, start) + insert + result.slice(end), text);
}
