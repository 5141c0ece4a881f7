// SPDX-License-Identifier: Apache-2.0
// A `.conf` holds one plugin and no chain: it is saved under a name no runtime reads, beside the list made of it.
import { chainEntries, removePlugin, wrapConf } from "./conflist-edit.ts";
import type { Conf, FolderFiles } from "./folder-files.ts";

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

/** Whether a list is what was made of this `.conf` and nothing else. */
export function isWrapOf(listText: string, confText: string): boolean {
  return chainEntries(listText).ours > 0 && removePlugin(listText) === wrapConf(confText);
}

/** Other configurations, and whether the list must be the first of them for the runtime to use it. */
interface Neighbours {
  readonly confs: readonly Conf[];
  readonly mustBeFirst: boolean;
}

/** A name for the list that is free, or held by our earlier list; undefined if there is none. */
export function chooseListName(
  single: Conf,
  files: FolderFiles,
  { confs, mustBeFirst }: Neighbours,
): string | undefined {
  return listNamesOf(single.name).find((name) => {
    const text = files.get(name);
    const isSaved = files.has(savedNameOf(single.name));
    const other = confs.find((conf) => conf.name === name);
    if (text !== undefined) {
      if (other === undefined || chainEntries(text).ours === 0) return false;
      if (!isSaved && !isWrapOf(text, single.text)) return false;
    }
    if (!mustBeFirst) return true;
    return confs.every(
      (conf) =>
        conf === single || conf === other || Buffer.compare(Buffer.from(name), Buffer.from(conf.name)) < 0,
    );
  });
}
