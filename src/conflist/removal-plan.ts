// SPDX-License-Identifier: Apache-2.0
// Which files of the CNI folder must change so that nothing of ours is left in any chain; pure, no I/O.
import type { ConfDocument } from "./conf-document.ts";
import type { Action, ConfFolder } from "./conf-folder.ts";
import { isConfName } from "./conf-text.ts";
import { isWrapOf, listNamesOf, originalNameOf, savedNameOf } from "./conf-wrap.ts";
import { chainEntries, istioCniType, ownerOf, removePlugin } from "./conflist-edit.ts";

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
export function planRemoval(folder: ConfFolder, options: RemovalOptions): RemovalPlan {
  const actions: Action[] = [];
  const notes: string[] = [];
  const done = new Set<string>(options.except === undefined ? [] : [options.except]);
  const names = [...folder.files.keys()];
  for (const name of names) {
    const original = originalNameOf(name);
    if (original === undefined || done.has(original)) continue;
    const restored = restoreOriginal(folder, { saved: name, original });
    actions.push(...restored.actions);
    for (const handled of restored.handled) done.add(handled);
    if (restored.note !== undefined) notes.push(restored.note);
  }
  for (const name of names) {
    if (done.has(name) || originalNameOf(name) !== undefined) continue;
    actions.push(...removeFrom(folder, name, options));
  }
  return { actions, notes };
}

interface Saved {
  readonly saved: string;
  readonly original: string;
}

interface Restored {
  readonly actions: Action[];
  readonly handled: readonly string[];
  readonly note?: string;
}

function restoreOriginal(folder: ConfFolder, { saved, original }: Saved): Restored {
  const listNames = listNamesOf(original);
  const listName =
    listNames.find((name) => oursIn(folder, name) !== undefined) ??
    listNames.find((name) => folder.files.has(name));
  const list = listName === undefined ? undefined : folder.document(listName);
  const conf = folder.document(saved);
  const removeSaved: Action = { kind: "remove", name: saved };
  // its owner wrote it anew: that is newer than what was saved
  const isAnew = folder.files.has(original);
  if (listName !== undefined && list !== undefined && conf !== undefined && !isAnew && isWrapOf(list, conf)) {
    // the original first: at no time is the folder without a configuration
    const actions: Action[] = [
      { kind: "rename", from: saved, to: original },
      { kind: "remove", name: listName },
    ];
    return { actions, handled: [listName] };
  }
  if (listName === undefined || list === undefined || chainEntries(list).ours === 0) {
    // so is a list in its place
    if (isAnew || list !== undefined) return { actions: [removeSaved], handled: [] };
    const hasOther = [...folder.files.keys()].some((name) => isConfName(name));
    if (hasOther) {
      const note = `"${saved}" stays: the chain made of it is gone, and the folder has another configuration`;
      return { actions: [], handled: [], note };
    }
    return { actions: [{ kind: "rename", from: saved, to: original }], handled: [] };
  }
  if (isAnew) return { actions: [{ kind: "remove", name: listName }, removeSaved], handled: [listName] };
  const stripped: Action = { kind: "write", name: listName, text: removePlugin(list) };
  return {
    actions: [stripped, removeSaved],
    handled: [listName],
    note: `"${listName}" stays a list: it was changed after it had been made of "${original}"`,
  };
}

function removeFrom(folder: ConfFolder, name: string, options: RemovalOptions): Action[] {
  const document = folder.document(name);
  if (document === undefined) return [];
  const remove: Action = { kind: "remove", name };
  if (isOursAlone(document)) return [remove];
  if (chainEntries(document).ours === 0) return [];
  const others = [...folder.files.keys()].filter((other) => other !== name && isConfName(other));
  if (name === options.ownedFileName && others.length > 0) return [remove];
  // a wrap whose original was not moved away yet
  const original = others.find((other) => listNamesOf(other).includes(name));
  const conf =
    original === undefined || folder.files.has(savedNameOf(original)) ? undefined : folder.document(original);
  if (conf !== undefined && isWrapOf(document, conf)) return [remove];
  return [{ kind: "write", name, text: removePlugin(document) }];
}

/** The file holds nothing but our plugin. */
function isOursAlone(document: ConfDocument): boolean {
  const { name } = document.value;
  // what a standalone list looks like
  return (
    ownerOf(document.value) === "ours" ||
    (chainEntries(document).ours > 0 && name === istioCniType && document.chain.length === 1)
  );
}

/** The file, if it holds an entry of ours. */
function oursIn(folder: ConfFolder, name: string): ConfDocument | undefined {
  const document = folder.document(name);
  return document !== undefined && chainEntries(document).ours > 0 ? document : undefined;
}
