// SPDX-License-Identifier: Apache-2.0
// Puts our entry into a chain and takes it out again; every other byte of the file stays as it is.
import { isDeepStrictEqual } from "node:util";
import { type ConfText, confValue } from "./conf-text.ts";
import { renderLike, separatorLike } from "./entry-style.ts";
import { arrayElements, findMember, type Span, skipSpace } from "./json-spans.ts";

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

/** One element of a list in the text, with all elements of that list. */
interface Place extends Span {
  readonly list: readonly Span[];
  readonly index: number;
}

/** Which of ours and istio-cni's entries a configuration holds, delegates included. */
export interface ChainEntries {
  readonly ours: number;
  /** How many of ours are inside a delegate, as Multus copies the chain of another file. */
  readonly oursInDelegates: number;
  readonly istioCni: number;
}

/** Counts the entries in a configuration. @param text valid JSON */
export function chainEntries(text: ConfText): ChainEntries {
  const { chain, delegates } = placesOf(text);
  const count = (places: readonly Place[], type: string) =>
    places.filter((place) => typeAt(text, place) === type).length;
  const oursInDelegates = count(delegates, pluginType);
  return {
    ours: count(chain, pluginType) + oursInDelegates,
    oursInDelegates,
    istioCni: count(chain, istioCniType) + count(delegates, istioCniType),
  };
}

/**
 * Text with exactly one entry of ours: appended as the last plugin if there was none, else mended where it stands.
 * An entry inside a delegate counts: the runtime calls it through the delegating plugin.
 * @param text a valid chain (`.conflist`); a byte order mark is left alone
 * @throws Error when there is no list `plugins`
 */
export function insertPlugin(text: ConfText, entry: PluginEntry, options: InsertOptions = {}): ConfText {
  let result = options.replaceIstioCni ? replaceIstioCni(text, entry) : text;
  const surplus = (): Place | undefined => {
    const ours = ourPlaces(result);
    // the entry kept is the first in a delegate, else the first in the chain: ourPlaces has them in that order
    return ours.slice(1).at(-1);
  };
  for (let place = surplus(); place !== undefined; place = surplus()) result = cut(result, place);
  const [place] = ourPlaces(result);
  if (place === undefined) return append(result, entry);
  if (options.keepSettings || isDeepStrictEqual(confValue(slice(result, place)), { ...entry })) return result;
  return splice(result, place, renderLike(result, place, entry));
}

/** Our entry as it stands in a configuration, whatever its settings. @param text valid JSON */
export function readEntry(text: ConfText): PluginEntry | undefined {
  const [place] = ourPlaces(text);
  return place === undefined ? undefined : (confValue(slice(text, place)) as PluginEntry);
}

/** Text without any entry of ours: the inverse of {@link insertPlugin}, byte for byte. */
export function removePlugin(text: ConfText): ConfText {
  let result = text;
  for (let place = ourPlaces(result).at(-1); place !== undefined; place = ourPlaces(result).at(-1)) {
    result = cut(result, place);
  }
  return result;
}

/**
 * A chain made of a single plugin's configuration, whose text becomes the list's element byte for byte.
 * @param text a valid `.conf`
 */
export function wrapConf(text: ConfText): ConfText {
  const start = rootStart(text);
  const end = text.lastIndexOf("}") + 1;
  const plugin = text.slice(start, end);
  const line = /\r?\n/.exec(plugin)?.[0] ?? "";
  const indent = line === "" ? "" : "  ";
  const colon = line === "" ? ":" : ": ";
  const version = findMember(text, start, "cniVersion");
  const name = findMember(text, start, "name");
  const head = [
    ...(version === undefined ? [] : [`"cniVersion"${colon}${slice(text, version)}`]),
    `"name"${colon}${name === undefined ? '""' : slice(text, name)}`,
    `"plugins"${colon}[${line}`,
  ];
  return `{${line}${indent}${head.join(`,${line}${indent}`)}${plugin}${line}${indent}]${line}}${line}`;
}

function append(text: ConfText, entry: PluginEntry): ConfText {
  const plugins = findMember(text, rootStart(text), "plugins");
  if (plugins === undefined || text[plugins.start] !== "[") {
    throw new Error('Cannot add the plugin: the configuration has no list "plugins"');
  }
  const last = arrayElements(text, plugins.start).at(-1);
  if (last === undefined) {
    const at = plugins.start + 1;
    return splice(text, { start: at, end: at }, renderLike(text, { start: at, end: at }, entry));
  }
  const at = { start: last.end, end: last.end };
  return splice(text, at, `,${separatorLike(text, last)}${renderLike(text, last, entry)}`);
}

function replaceIstioCni(text: ConfText, entry: PluginEntry): ConfText {
  let result = text;
  const find = (): Place | undefined => {
    const { chain, delegates } = placesOf(result);
    return [...delegates, ...chain].find((place) => typeAt(result, place) === istioCniType);
  };
  for (let place = find(); place !== undefined; place = find()) {
    result =
      ourPlaces(result).length > 0
        ? cut(result, place)
        : splice(result, place, renderLike(result, place, entry));
  }
  return result;
}

/** Takes one element and the comma that came with it out of its list. */
function cut(text: ConfText, place: Place): ConfText {
  const before = place.list[place.index - 1];
  const after = place.list[place.index + 1];
  if (before !== undefined) return splice(text, { start: before.end, end: place.end }, "");
  return splice(text, { start: place.start, end: after?.start ?? place.end }, "");
}

function ourPlaces(text: ConfText): Place[] {
  const { chain, delegates } = placesOf(text);
  return [...delegates, ...chain].filter((place) => typeAt(text, place) === pluginType);
}

function placesOf(text: ConfText): { chain: Place[]; delegates: Place[] } {
  const start = rootStart(text);
  if (text[start] !== "{") return { chain: [], delegates: [] };
  const chain = listAt(text, start, "plugins");
  const delegating = [{ start }, ...chain];
  return { chain, delegates: delegating.flatMap((plugin) => delegatePlaces(text, plugin.start)) };
}

/** Plugins of the chains inside a plugin's `delegates`. Source: k8snetworkplumbingwg/multus-cni docs/configuration.md */
function delegatePlaces(text: ConfText, start: number): Place[] {
  return listAt(text, start, "delegates").flatMap((delegate) => {
    const chain = listAt(text, delegate.start, "plugins");
    return [...chain, ...chain.flatMap((plugin) => delegatePlaces(text, plugin.start))];
  });
}

function listAt(text: ConfText, start: number, key: string): Place[] {
  const member = findMember(text, start, key);
  if (member === undefined || text[member.start] !== "[") return [];
  const list = arrayElements(text, member.start);
  return list.map((span, index) => ({ ...span, list, index }));
}

function typeAt(text: ConfText, place: Span): unknown {
  const member = findMember(text, place.start, "type");
  return member === undefined ? undefined : confValue(slice(text, member));
}

function rootStart(text: ConfText): number {
  return skipSpace(text, text.startsWith("\xef\xbb\xbf") ? 3 : text.startsWith("\ufeff") ? 1 : 0);
}

function slice(text: ConfText, span: Span): string {
  return text.slice(span.start, span.end);
}

function splice(text: ConfText, span: Span, insert: string): ConfText {
  return text.slice(0, span.start) + insert + text.slice(span.end);
}
