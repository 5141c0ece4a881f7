// SPDX-License-Identifier: Apache-2.0
// A file with our plugin alone: Multus calls it for the pods that name its network, or for all in an auxiliary chain. Pure.
import { basename, dirname } from "node:path/posix";
import type { ChainOptions, PlannedChain } from "./chain-options.ts";
import type { ConfDocument } from "./conf-document.ts";
import type { Action, ConfFolder } from "./conf-folder.ts";
import { type ConfText, jsonText } from "./conf-text.ts";
import { chainEntries, istioCniType, ownerOf, type PluginEntry } from "./conflist-edit.ts";
import { planRemoval } from "./removal-plan.ts";

/** Name of the file with our plugin alone. Source: istio/istio cni/pkg/install/cniconfig.go, getCNIConfigFilepath */
export const standaloneFileName = "YYY-istio-cni.conf";

/** Says what has to change so that the file is there, and no chain of the folder calls us besides. */
export function planStandalone(folder: ConfFolder, options: ChainOptions): PlannedChain {
  const name = options.confName ?? standaloneFileName;
  const current = folder.files.get(name);
  const { istioCni, ours } = ownersIn(folder.document(name));
  const tidy = planRemoval(folder, { ownedFileName: options.ownedFileName, except: name }).actions.filter(
    (action) => !isOfAnotherFolder(folder, action, name),
  );
  const rest = { missing: !ours, invalid: new Map(), types: [options.entry.type], orphaned: false };
  const isTaken = current !== undefined || folder.unread.has(name);
  if (isTaken && !ours && !(istioCni && options.replaceIstioCni)) {
    const whose = istioCni ? "it is istio-cni's: set REPLACE_ISTIO_CNI=true or" : "it is not ours:";
    const fault = `Cannot write the CNI configuration "${name}": ${whose} set CNI_CONF_NAME to another name`;
    return { ...rest, fileName: undefined, actions: tidy, fault, istioCni };
  }
  const text = standaloneText(name, options.entry);
  const keep = ours && (options.keepSettings === true || current === text);
  const write: Action[] = keep ? [] : [{ kind: "write", name, text }];
  return { ...rest, fileName: name, actions: [...write, ...tidy], fault: undefined, istioCni: false };
}

/** The file of an auxiliary chain below this folder, or the other way round: both may be there, each for its own callers. */
function isOfAnotherFolder(folder: ConfFolder, action: Action, name: string): boolean {
  if (action.kind !== "remove" || dirname(action.name) === dirname(name)) return false;
  const { value } = folder.document(action.name) ?? {};
  return ownerOf(value) === "ours" && value?.name === istioCniType;
}

/** A Multus network definition finds it by its network name. Source: multus-cni pkg/k8sclient, getCNIConfigFromFile */
function standaloneText(fileName: string, entry: PluginEntry): ConfText {
  const head = { cniVersion: "0.3.1", name: istioCniType };
  const isList = basename(fileName).endsWith(".conflist");
  return `${jsonText(isList ? { ...head, plugins: [entry] } : { ...head, ...entry }, 2)}\n`;
}

/** Whose plugins a file holds, as a configuration of its own or in a chain. */
export function ownersIn(document: ConfDocument | undefined): { ours: boolean; istioCni: boolean } {
  if (document === undefined) return { ours: false, istioCni: false };
  const owner = ownerOf(document.value);
  const found = chainEntries(document);
  return {
    ours: owner === "ours" || found.ours > 0,
    istioCni: owner === "istio-cni" || found.istioCni > 0,
  };
}
