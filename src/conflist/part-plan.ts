// SPDX-License-Identifier: Apache-2.0
// A list whose plugins all lie in files of their own has no place for our entry: it becomes such a file, the last one. Pure.
import { isDeepStrictEqual } from "node:util";
import type { ChainOptions } from "./chain-options.ts";
import type { Conf, ConfPart } from "./conf.ts";
import type { Action } from "./conf-folder.ts";
import { compareNames, jsonText } from "./conf-text.ts";
import { type Owner, ownerOf } from "./conflist-edit.ts";

/** Exactly one file of ours in the network's folder. Its name and version are the list's, whatever it says itself. */
export function planPart(
  target: Conf,
  { entry, replaceIstioCni, keepSettings }: ChainOptions,
): { readonly fileName: string; readonly actions: readonly Action[] } {
  const [kept, ...surplus] = partsOf(target, "ours");
  const theirs = replaceIstioCni ? partsOf(target, "istio-cni") : [];
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

/** Removes the files of a list that hold plugins of these owners. */
export function withoutParts(conf: Conf, owners: readonly Owner[]): Action[] {
  return owners
    .flatMap((owner) => partsOf(conf, owner))
    .map(({ name }): Action => ({ kind: "remove", name }));
}

function partsOf(conf: Conf, owner: Owner): ConfPart[] {
  return conf.parts.filter(({ value }) => ownerOf(value) === owner);
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
