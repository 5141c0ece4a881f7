// SPDX-License-Identifier: Apache-2.0
// Puts our entry into a chain and takes it out again; every other byte of the file stays as it is. Pure.
import { isDeepStrictEqual } from "node:util";
import type { ConfPart } from "./conf.ts";
import { type ConfDocument, isObject, type PluginPlace, textAt } from "./conf-document.ts";
import type { ConfText } from "./conf-text.ts";
import { renderLike, separatorLike } from "./entry-style.ts";
import { arrayElements, findMember, type Span } from "./json-spans.ts";

/** Type of our entry under our own name. */
export const pluginType = "ambient-cni";
/** Type of istio-cni's entry, and of ours in its DaemonSet: its installer replaces what has this name. */
export const istioCniType = "istio-cni";

/** Type of our entry, which is the file name of the launcher. */
export type PluginType = typeof pluginType | typeof istioCniType;

/** Our entry in a chain: what the launcher reads. */
export interface PluginEntry extends Partial<IstioCniKeys> {
  readonly type: PluginType;
  /** Run dir as the host sees it. */
  readonly cni_agent_run_dir: string;
  readonly agent_wait_seconds: number;
  /** `namespace` or `namespace/pod-name-prefix` of pods that may start while the agent is away. */
  readonly exempt: readonly string[];
}

/**
 * What istio-cni's plugin reads: between its own binary and its own entry it is called with ours, and must not take a pod of
 * the mesh for another one. Source: istio/istio cni/pkg/plugin/plugin.go, Config; cni/pkg/install/install.go, installAll.
 */
export interface IstioCniKeys {
  readonly ambient_enabled: boolean;
  readonly enablement_selectors: readonly object[];
  readonly exclude_namespaces: readonly string[];
  readonly pod_namespace: string;
}

/** A key that is in each entry of ours and in none of istio-cni's: it tells whose an entry of its name is. */
const ownKey: keyof PluginEntry = "agent_wait_seconds";

/** Whose a plugin's configuration is; `undefined`: neither ours nor istio-cni's. */
export type Owner = "ours" | "istio-cni";

/** Tells whose it is. @param plugin its parsed configuration, wherever it stands */
export function ownerOf(plugin: unknown): Owner | undefined {
  if (!isObject(plugin)) return undefined;
  if (plugin.type === pluginType) return "ours";
  if (plugin.type !== istioCniType) return undefined;
  return Object.hasOwn(plugin, ownKey) ? "ours" : "istio-cni";
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
  const count = (places: readonly Pick<PluginPlace, "value">[], owner: Owner) =>
    places.filter((place) => ownerOf(place.value) === owner).length;
  const all = [...chain, ...delegates, ...parts];
  return {
    ours: count(all, "ours"),
    oursInDelegates: count(delegates, "ours"),
    istioCni: count(all, "istio-cni"),
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
  const theirs = options.replaceIstioCni === true ? placesOf(document, "istio-cni") : [];
  const [kept, ...surplus] = placesOf(document, "ours");
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
  const part = document.parts?.find((each) => ownerOf(each.value) === "ours");
  return (placesOf(document, "ours")[0] ?? part)?.value as PluginEntry | undefined;
}

/** Text without any entry of ours: the inverse of {@link insertPlugin}, byte for byte; or without those of others as well. */
export function removePlugin(document: ConfDocument, owners: readonly Owner[] = ["ours"]): ConfText {
  return edited(document, cuts(owners.flatMap((owner) => placesOf(document, owner))));
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
function placesOf({ chain, delegates }: ConfDocument, owner: Owner): PluginPlace[] {
  return [...delegates, ...chain].filter((place) => ownerOf(place.value) === owner);
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
