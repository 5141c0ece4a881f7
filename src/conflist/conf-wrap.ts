// SPDX-License-Identifier: Apache-2.0
// A `.conf` holds one plugin and no chain: it is saved under a name no runtime reads, beside the list made of it.
import type { Conf } from "./conf.ts";
import type { ConfDocument } from "./conf-document.ts";
import type { ConfFolder } from "./conf-folder.ts";
import { compareNames } from "./conf-text.ts";
import { chainEntries, removePlugin, wrapConf } from "./conflist-edit.ts";

const savedSuffix = ".ambient-cni-saved";

/** Name under which the original of a wrapped `.conf` is kept. */
export function savedNameOf(fileName: string): string {
  return `${fileName}${savedSuffix}`;
}

/** Name the original had, if this is the name of a saved one. */
export function originalNameOf(fileName: string): string | undefined {
  return fileName.endsWith(savedSuffix) ? fileName.slice(0, -savedSuffix.length) : undefined;
}

/** Names of the list made of a `.conf` or `.json`, the preferred one first. */
export function listNamesOf(fileName: string): string[] {
  const stem = fileName.replace(/\.(conf|json)$/, "");
  return [`${stem}.conflist`, `${stem}.ambient-cni.conflist`];
}

/** Whether a list is what was made of this `.conf` and nothing else, our entry aside. */
export function isWrapOf(list: ConfDocument, conf: ConfDocument): boolean {
  return removePlugin(list) === wrapConf(conf);
}

/** A name for the list that is free, or held by our earlier list; undefined if there is none. */
export function chooseListName(
  single: Conf,
  { folder, before }: { readonly folder: ConfFolder; readonly before: readonly Conf[] },
): string | undefined {
  const isSaved = folder.files.has(savedNameOf(single.name));
  return listNamesOf(single.name).find((name) => {
    const other = folder.confs.find((conf) => conf.name === name);
    if (folder.unread.has(name)) return false;
    if (folder.files.has(name)) {
      if (other === undefined || chainEntries(other).ours === 0) return false;
      if (!isSaved && !isWrapOf(other, single)) return false;
    }
    return before.every((conf) => conf === single || conf === other || compareNames(name, conf.name) < 0);
  });
}
