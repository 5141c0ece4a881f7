// SPDX-License-Identifier: Apache-2.0
// Which files of the CNI folder must change so that nothing of ours is left in any chain; pure, no I/O.
import { type ConfText, confValue, isConfName } from "./conf-text.ts";
import { isWrapOf, listNamesOf, originalNameOf, savedNameOf } from "./conf-wrap.ts";
import { chainEntries, pluginType, removePlugin } from "./conflist-edit.ts";
import type { Action, FolderFiles } from "./folder-files.ts";

/** What counts as ours when we leave. */
export interface RemovalOptions {
  /** Name of the file that is ours as a whole. */
  readonly ownedFileName: string;
  /** File to leave alone. */
  readonly except?: string;
}

/** What to do, and what could not be put back. */
export interface RemovalPlan {
  readonly actions: readonly Action[];
  readonly notes: readonly string[];
}

/** Says what has to change in the folder; copies that others made of our chain (`*.cilium_bak`) are included. */
export function planRemoval(files: FolderFiles, options: RemovalOptions): RemovalPlan {
  const actions: Action[] = [];
  const notes: string[] = [];
  const done = new Set<string>(options.except === undefined ? [] : [options.except]);
  for (const [name, text] of files) {
    const original = originalNameOf(name);
    if (original === undefined || done.has(original)) continue;
    const restored = restoreOriginal(files, { saved: { name, text }, original });
    actions.push(...restored.actions);
    for (const handled of restored.handled) done.add(handled);
    if (restored.note !== undefined) notes.push(restored.note);
  }
  for (const [name, text] of files) {
    if (done.has(name) || originalNameOf(name) !== undefined) continue;
    actions.push(...removeFrom(files, { name, text, options }));
  }
  return { actions, notes };
}

interface Saved {
  readonly saved: { readonly name: string; readonly text: ConfText };
  readonly original: string;
}

interface Restored {
  readonly actions: Action[];
  readonly handled: readonly string[];
  readonly note?: string;
}

function restoreOriginal(files: FolderFiles, { saved, original }: Saved): Restored {
  const listName = listNamesOf(original).find((name) => oursIn(files.get(name)) > 0);
  const rewritten = files.get(original);
  const list = listName === undefined ? undefined : files.get(listName);
  if (listName === undefined || list === undefined) {
    const hasOther = [...files.keys()].some((name) => isConfName(name));
    if (hasOther) {
      const note = `"${saved.name}" stays: the chain made of it is gone, and the folder has another configuration`;
      return { actions: [], handled: [], note };
    }
    return { actions: [{ kind: "rename", from: saved.name, to: original }], handled: [] };
  }
  const remove: Action = { kind: "remove", name: listName };
  // the original's owner wrote it anew: that is newer than what was saved
  if (rewritten !== undefined)
    return { actions: [remove, { kind: "remove", name: saved.name }], handled: [listName] };
  if (isWrapOf(list, saved.text)) {
    // the original first: at no time is the folder without a configuration
    return { actions: [{ kind: "rename", from: saved.name, to: original }, remove], handled: [listName] };
  }
  const stripped: Action = { kind: "write", name: listName, text: removePlugin(list) };
  return {
    actions: [stripped, { kind: "remove", name: saved.name }],
    handled: [listName],
    note: `"${listName}" stays a list: it was changed after it had been made of "${original}"`,
  };
}

interface Candidate {
  readonly name: string;
  readonly text: ConfText;
  readonly options: RemovalOptions;
}

function removeFrom(files: FolderFiles, { name, text, options }: Candidate): Action[] {
  const kind = oursAt(text);
  if (kind === "none") return [];
  const remove: Action = { kind: "remove", name };
  if (kind === "whole") return [remove];
  const others = [...files.keys()].filter((other) => other !== name && isConfName(other));
  if (name === options.ownedFileName && others.length > 0) return [remove];
  // a wrap whose original was not moved away yet
  const original = others.find((other) => listNamesOf(other).includes(name));
  const isEarlyWrap = original !== undefined && !files.has(savedNameOf(original));
  if (isEarlyWrap && isWrapOf(text, files.get(original) ?? "")) return [remove];
  return [{ kind: "write", name, text: removePlugin(text) }];
}

/** `whole`: the file holds nothing but our plugin. */
function oursAt(text: ConfText): "none" | "part" | "whole" {
  if (!text.includes(pluginType)) return "none";
  try {
    const { type, name } = confValue(text) as { type?: unknown; name?: unknown };
    if (type === pluginType) return "whole";
    if (chainEntries(text).ours === 0) return "none";
    // what a standalone list looks like
    const { plugins } = confValue(text) as { plugins?: readonly unknown[] };
    return name === "istio-cni" && plugins?.length === 1 ? "whole" : "part";
  } catch {
    return "none";
  }
}

function oursIn(text: ConfText | undefined): number {
  return text === undefined || oursAt(text) === "none" ? 0 : chainEntries(text).ours;
}
