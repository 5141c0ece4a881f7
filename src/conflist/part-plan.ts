// SPDX-License-Identifier: Apache-2.0
// A list whose plugins all lie in files of their own has no place for our entry: it becomes such a file, the last one. Pure.
import { isDeepStrictEqual } from "node:util";
import type { Conf } from "./conf.ts";
import { type Action, partsOfType } from "./conf-folder.ts";
import { compareNames, jsonText } from "./conf-text.ts";
import { istioCniType, type PluginEntry, pluginType } from "./conflist-edit.ts";

interface PartOptions {
  readonly entry: PluginEntry;
  readonly replaceIstioCni: boolean;
  readonly keepSettings?: boolean;
}

/** Exactly one file of ours in the network's folder. Its name and version are the list's, whatever it says itself. */
export function planPart(
  target: Conf,
  { entry, replaceIstioCni, keepSettings }: PartOptions,
): { readonly fileName: string; readonly actions: readonly Action[] } {
  const [kept, ...surplus] = partsOfType(target, pluginType);
  const theirs = replaceIstioCni ? partsOfType(target, istioCniType) : [];
  const fileName = kept?.name ?? freeName(target);
  const isRight =
    kept !== undefined && (keepSettings === true || isDeepStrictEqual(kept.value, { ...entry }));
  const like = target.parts[0]?.name ?? target.name;
  const write: Action[] = isRight
    ? []
    : [{ kind: "write", name: fileName, text: `${jsonText(entry, 2)}\n`, like }];
  const remove = [...surplus, ...theirs].map(({ name }): Action => ({ kind: "remove", name }));
  return { fileName, actions: [...write, ...remove] };
}

/** Removes the files of a list that hold plugins of these types. */
export function withoutParts(conf: Conf, types: readonly string[]): Action[] {
  return conf.parts
    .filter(({ type }) => types.includes(type))
    .map(({ name }): Action => ({ kind: "remove", name }));
}

const fileNames = ["zz-ambient-cni.conf", "~ambient-cni.conf", "~~ambient-cni.conf"] as const;

/** The files of a folder are called in the order of their names, and ours has to see what the others made. */
function freeName({ network, parts }: Conf): string {
  const names = fileNames.map((name) => `${network}/${name}`);
  const isLast = (name: string) => parts.every((part) => compareNames(part.name, name) < 0);
  return (
    names.find(isLast) ?? names.find((name) => parts.every((part) => part.name !== name)) ?? names[0] ?? ""
  );
}
