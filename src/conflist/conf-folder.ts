// SPDX-License-Identifier: Apache-2.0
// The runtime's folder as a planner sees it, each file parsed once, and what it may do there. Pure.
import { type Conf, parseConf } from "./conf.ts";
import { type ConfDocument, parseDocument } from "./conf-document.ts";
import { type ConfText, compareNames, isConfName, isPartName } from "./conf-text.ts";

/** Files of the folder by name, those of the folders in it as `FOLDER/FILE.conf`. */
export type FolderFiles = ReadonlyMap<string, ConfText>;

/** Why a file of the folder could not be read. */
export interface UnreadFile {
  readonly why: string;
  /** A runtime can read it all the same: it lies where this process does not see. */
  readonly isOutOfSight?: boolean;
  /** A link to nothing, for the runtime as well. */
  readonly isAbsent?: boolean;
}

/** One change in the folder; a list of them is safe to stop after any. */
export type Action =
  /** `like`: the file whose mode and owner a new file gets. */
  | { readonly kind: "write"; readonly name: string; readonly text: ConfText; readonly like?: string }
  | { readonly kind: "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "remove"; readonly name: string };

/** The folder, parsed once. */
export interface ConfFolder {
  readonly files: FolderFiles;
  /** Files that are there and could not be read. */
  readonly unread: ReadonlyMap<string, UnreadFile>;
  /** Configurations that a runtime loads, in its order. */
  readonly confs: readonly Conf[];
  /** Files that no runtime loads or that cannot be read here, by name, and why. */
  readonly invalid: ReadonlyMap<string, UnreadFile>;
  /** A file of any name as JSON; undefined where there is none, or it holds none. */
  document(name: string): ConfDocument | undefined;
}

/** Parses a folder. @param unread files that are there, and why they are not among `files` */
export function parseFolder(
  files: FolderFiles,
  unread: ReadonlyMap<string, UnreadFile> = new Map(),
): ConfFolder {
  const confs: Conf[] = [];
  const invalid = new Map<string, UnreadFile>();
  const partFiles = partsIn(files, unread);
  for (const name of [...files.keys(), ...unread.keys()].filter(isConfName).sort(compareNames)) {
    const fault = unread.get(name);
    if (fault !== undefined) {
      invalid.set(name, fault);
      continue;
    }
    try {
      confs.push(parseConf(name, files.get(name) ?? "", partFiles));
    } catch (error) {
      const isOutOfSight = error instanceof OutOfSightError;
      invalid.set(name, { why: (error as Error).message, ...(isOutOfSight ? { isOutOfSight } : {}) });
    }
  }
  return { files, unread, confs, invalid, document: documentsOf(files, confs) };
}

/** A plugin's file that the runtime reads and this process cannot. */
class OutOfSightError extends Error {
  override readonly name = "OutOfSightError";
}

function partsIn(files: FolderFiles, unread: ReadonlyMap<string, UnreadFile>) {
  const names = [...files.keys(), ...unread.keys()].filter(isPartName).sort(compareNames);
  return (network: string): [string, ConfText][] =>
    names
      .filter((name) => name.startsWith(`${network}/`))
      .map((name) => {
        const fault = unread.get(name);
        const why = fault === undefined ? "" : `its plugin "${name}" cannot be read: ${fault.why}`;
        if (fault?.isOutOfSight === true) throw new OutOfSightError(why);
        if (fault !== undefined) throw new Error(why);
        return [name, files.get(name) ?? ""];
      });
}

function documentsOf(files: FolderFiles, confs: readonly Conf[]): ConfFolder["document"] {
  const parsed = new Map<string, ConfDocument | undefined>(confs.map((conf) => [conf.name, conf]));
  for (const { parts } of confs) for (const part of parts) parsed.set(part.name, part);
  return (name) => {
    if (!parsed.has(name)) parsed.set(name, documentOrNone(files.get(name)));
    return parsed.get(name);
  };
}

function documentOrNone(text: ConfText | undefined): ConfDocument | undefined {
  try {
    return text === undefined ? undefined : parseDocument(text);
  } catch {
    return undefined;
  }
}
