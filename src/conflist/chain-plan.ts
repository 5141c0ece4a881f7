// SPDX-License-Identifier: Apache-2.0
// Which files of the CNI folder must change so that the runtime's chain calls our plugin exactly once; pure, no I/O.

import { supportedCniVersions } from "./cni-versions.ts";
import { type ConfText, confValue, isConfName, parseConf } from "./conf-text.ts";
import { chooseListName, savedNameOf } from "./conf-wrap.ts";
import {
  chainEntries,
  insertPlugin,
  istioCniType,
  type PluginEntry,
  pluginType,
  readEntry,
  removePlugin,
  wrapConf,
} from "./conflist-edit.ts";
import type { Action, Conf, FolderFiles } from "./folder-files.ts";
import { delegateTarget } from "./multus-delegate.ts";
import { planRemoval } from "./removal-plan.ts";

/** How we want to be in the chain. */
export interface ChainOptions {
  /** `CNI_CONF_NAME`: the file to use instead of the first valid one. */
  readonly confName: string | undefined;
  /** `ISTIO_OWNED_CNI_CONFIG`: an own file, the primary stays untouched. */
  readonly owned: boolean;
  readonly ownedFileName: string;
  /** `CHAINED_CNI_PLUGIN`; false: a file with our plugin alone, which a Multus network definition names. */
  readonly chained: boolean;
  readonly entry: PluginEntry;
  readonly replaceIstioCni: boolean;
  /** Leave an entry of ours with other settings, which another agent of this node may have written. */
  readonly keepSettings?: boolean;
}

/** What to do, and what to tell people. */
export interface ChainPlan {
  /** File that holds our entry once the actions are done; undefined: nowhere yet. */
  readonly fileName: string | undefined;
  readonly actions: readonly Action[];
  /** Our entry is not in the chain as it is now. */
  readonly missing: boolean;
  /** Why we are not in the chain, or not in the one the runtime uses, with the remedy. */
  readonly fault: string | undefined;
  /** Files before the chosen one that no runtime can load, and why: perhaps half written. */
  readonly invalid: ReadonlyMap<string, string>;
  /** Plugin types of the chosen chain. */
  readonly types: readonly string[];
  /** Entries of istio-cni that were found and stay. */
  readonly istioCni: boolean;
  /** The file our own file was a copy of is gone. */
  readonly orphaned: boolean;
}

/** Name of the file with our plugin alone. Source: istio/istio cni/pkg/install/cniconfig.go, getCNIConfigFilepath */
export const standaloneFileName = "YYY-istio-cni.conf";

/** Says what has to change in the folder. */
export function planChain(files: FolderFiles, options: ChainOptions): ChainPlan {
  if (!options.chained) return planStandalone(files, options);
  const { confs, invalid } = readConfs(files);
  const former = options.owned ? undefined : formerOwned(confs, options);
  const candidates = confs.filter(
    (conf) => !isOurOwn(conf, options) && conf !== former && !isStandalone(conf),
  );
  const primary = choosePrimary(candidates, options.confName);
  const relevant = new Map([...invalid].filter(([name]) => isBefore(name, primary, options)));
  const base = { invalid: relevant, types: primary?.types ?? [], orphaned: false };
  const fault = primary === undefined ? undefined : versionFault(primary);
  if (fault !== undefined)
    return { ...base, fileName: undefined, actions: [], missing: true, fault, istioCni: false };
  if (primary === undefined) {
    const orphaned = options.owned && entriesOf(files, options.ownedFileName).ours > 0;
    const fault = waitingFault(options, relevant);
    return { ...base, fileName: undefined, actions: [], missing: true, fault, istioCni: false, orphaned };
  }
  const plan = options.owned
    ? planOwned(files, { confs: candidates, primary, options })
    : planShared(files, { confs: candidates, primary, options });
  const leftover = former === undefined ? [] : [{ kind: "remove", name: former.name } as const];
  return {
    ...base,
    ...plan,
    actions: plan.fault === undefined ? [...plan.actions, ...leftover] : plan.actions,
  };
}

/** Byte order, as Go sorts strings. */
export function compareNames(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** All configurations a runtime could load, in its order, and the files it would refuse. */
export function readConfs(files: FolderFiles): { confs: Conf[]; invalid: Map<string, string> } {
  const confs: Conf[] = [];
  const invalid = new Map<string, string>();
  for (const name of [...files.keys()].filter(isConfName).sort(compareNames)) {
    const text = files.get(name) ?? "";
    try {
      confs.push({ name, text, ...parseConf(name, text) });
    } catch (error) {
      invalid.set(name, (error as Error).message);
    }
  }
  return { confs, invalid };
}

interface Choice {
  /** Without our own file and those of another mode. */
  readonly confs: readonly Conf[];
  readonly primary: Conf;
  readonly options: ChainOptions;
}

/** Why our entry in this chain would fail every pod of the node; undefined: it would not. */
function versionFault({ name, text }: Conf): string | undefined {
  const { cniVersion } = confValue(text) as { cniVersion?: string };
  const isServed = supportedCniVersions.some((supported) => supported === cniVersion);
  if (isServed || cniVersion === undefined || cniVersion === "") return undefined;
  return (
    `Cannot add ${pluginType} to the CNI chain "${name}": its cniVersion is "${cniVersion}", supported are ` +
    `${supportedCniVersions.join(", ")}. Set one of them in that file if its plugins have it`
  );
}

type PartPlan = Pick<ChainPlan, "fileName" | "actions" | "missing" | "fault" | "istioCni">;

function planShared(files: FolderFiles, { confs, primary, options }: Choice): PartPlan {
  const { target, alsoRemoveFrom } = delegateTarget(primary, confs);
  const found = chainEntries(target.text);
  const missing = found.ours === 0;
  const istioCni = found.istioCni > 0 && !options.replaceIstioCni;
  const strip = alsoRemoveFrom.flatMap((conf): Action[] => {
    const text = removePlugin(conf.text);
    return text === conf.text ? [] : [{ kind: "write", name: conf.name, text }];
  });
  if (target.kind === "list" || found.oursInDelegates > 0) {
    const text = insertPlugin(target.text, options.entry, options);
    const write: Action[] = text === target.text ? [] : [{ kind: "write", name: target.name, text }];
    return { fileName: target.name, actions: [...write, ...strip], missing, fault: undefined, istioCni };
  }
  const listName = chooseListName(target, files, {
    confs,
    mustBeFirst: options.confName === undefined && target === primary,
  });
  if (listName === undefined) {
    const fault = `Cannot add ${pluginType} to the CNI chain "${target.name}": it must become a list, and every name for that is taken or sorts behind another file. Rename "${target.name}" or the files that follow it`;
    return { fileName: undefined, actions: [], missing, fault, istioCni };
  }
  const text = insertPlugin(wrapConf(target.text), options.entry, options);
  const write: Action[] =
    files.get(listName) === text ? [] : [{ kind: "write", name: listName, text, like: target.name }];
  // only now: until the list is there, the runtime needs the original
  const save: Action = { kind: "rename", from: target.name, to: savedNameOf(target.name) };
  const others = strip.filter((action) => action.kind === "write" && action.name !== listName);
  return { fileName: listName, actions: [...write, save, ...others], missing, fault: undefined, istioCni };
}

function planOwned(files: FolderFiles, { confs, primary, options }: Choice): PartPlan {
  const name = options.ownedFileName;
  const current = files.get(name);
  const found = entriesOf(files, name);
  const source = removePlugin(primary.kind === "list" ? primary.text : wrapConf(primary.text));
  const istioCni = chainEntries(source).istioCni > 0 && !options.replaceIstioCni;
  const missing = found.ours === 0;
  const mayWrite =
    current === undefined ||
    !missing ||
    current === source ||
    (found.istioCni > 0 && options.replaceIstioCni);
  if (!mayWrite) {
    const whose = found.istioCni > 0 ? "it is istio-cni's: set REPLACE_ISTIO_CNI=true or" : "it is not ours:";
    const fault = `Cannot write the CNI configuration "${name}": ${whose} set ISTIO_OWNED_CNI_CONFIG_FILENAME to another name`;
    return { fileName: undefined, actions: [], missing, fault, istioCni };
  }
  const kept = options.keepSettings && current !== undefined ? readEntry(current) : undefined;
  const text = insertPlugin(source, kept ?? options.entry, options);
  const write: Action[] = text === current ? [] : [{ kind: "write", name, text }];
  // an entry left by another mode would be a second one where a delegating plugin reads that file
  const tidy = planRemoval(files, { ownedFileName: name, except: name }).actions;
  const first = confs.find((conf) => conf.name !== name);
  const preempted = first !== undefined && compareNames(first.name, name) < 0;
  const fault = preempted
    ? `Cannot capture pods: the runtime reads "${first.name}" before our own "${name}". Set ISTIO_OWNED_CNI_CONFIG_FILENAME to a name that sorts before it`
    : undefined;
  return { fileName: name, actions: [...write, ...tidy], missing, fault, istioCni };
}

function planStandalone(files: FolderFiles, options: ChainOptions): ChainPlan {
  const name = options.confName ?? standaloneFileName;
  const current = files.get(name);
  const { istioCni, ours } = standaloneType(current);
  const tidy = planRemoval(files, { ownedFileName: options.ownedFileName, except: name }).actions;
  const rest = { missing: !ours, invalid: new Map<string, string>(), types: [pluginType], orphaned: false };
  if (current !== undefined && !ours && !(istioCni && options.replaceIstioCni)) {
    const whose = istioCni ? "it is istio-cni's: set REPLACE_ISTIO_CNI=true or" : "it is not ours:";
    const fault = `Cannot write the CNI configuration "${name}": ${whose} set CNI_CONF_NAME to another name`;
    return { ...rest, fileName: undefined, actions: tidy, fault, istioCni };
  }
  const text = standaloneText(name, options.entry);
  const keep = ours && (options.keepSettings === true || current === text);
  const write: Action[] = keep ? [] : [{ kind: "write", name, text }];
  return { ...rest, fileName: name, actions: [...write, ...tidy], fault: undefined, istioCni: false };
}

/** A Multus network definition finds it by its network name. Source: multus-cni pkg/k8sclient, getCNIConfigFromFile */
function standaloneText(fileName: string, entry: PluginEntry): ConfText {
  const head = { cniVersion: "0.3.1", name: istioCniType };
  const conf = fileName.endsWith(".conflist") ? { ...head, plugins: [entry] } : { ...head, ...entry };
  return `${Buffer.from(JSON.stringify(conf, null, 2)).toString("latin1")}\n`;
}

function standaloneType(text: ConfText | undefined): { ours: boolean; istioCni: boolean } {
  if (text === undefined) return { ours: false, istioCni: false };
  try {
    const { type } = confValue(text) as { type?: unknown };
    const found = chainEntries(text);
    return {
      ours: type === pluginType || found.ours > 0,
      istioCni: type === istioCniType || found.istioCni > 0,
    };
  } catch {
    return { ours: false, istioCni: false };
  }
}

function entriesOf(files: FolderFiles, name: string): ReturnType<typeof chainEntries> {
  try {
    const text = files.get(name) ?? "";
    parseConf(name, text);
    return chainEntries(text);
  } catch {
    return { ours: 0, oursInDelegates: 0, istioCni: 0 };
  }
}

function isOurOwn(conf: Conf, options: ChainOptions): boolean {
  return options.owned && conf.name === options.ownedFileName;
}

/** The own file of an earlier mode, ours or istio-cni's: a stale copy as soon as there is another configuration. */
function formerOwned(confs: readonly Conf[], options: ChainOptions): Conf | undefined {
  const own = confs.find((conf) => conf.name === options.ownedFileName && conf.name !== options.confName);
  if (own === undefined) return undefined;
  const { ours, istioCni } = chainEntries(own.text);
  const isOurs = ours > 0 || (istioCni > 0 && options.replaceIstioCni);
  const hasOther = confs.some((conf) => conf !== own && !isStandalone(conf));
  return isOurs && hasOther ? own : undefined;
}

function isStandalone(conf: Conf): boolean {
  return conf.types.every((type) => type === pluginType || type === istioCniType);
}

function choosePrimary(candidates: readonly Conf[], confName: string | undefined): Conf | undefined {
  if (confName === undefined) return candidates[0];
  // as istio-cni: a .conf may have become a .conflist, and the other way round
  const other = confName.endsWith(".conf") ? `${confName}list` : confName.replace(/\.conflist$/, ".conf");
  return [confName, other]
    .map((name) => candidates.find((conf) => conf.name === name))
    .find((conf) => conf !== undefined);
}

function isBefore(name: string, primary: Conf | undefined, options: ChainOptions): boolean {
  if (name === options.ownedFileName && options.owned) return false;
  if (options.confName !== undefined) return primary === undefined && name === options.confName;
  return primary === undefined || compareNames(name, primary.name) < 0;
}

function waitingFault(options: ChainOptions, invalid: ReadonlyMap<string, string>): string {
  const wanted =
    options.confName === undefined ? "a CNI configuration" : `the CNI configuration "${options.confName}"`;
  const broken = [...invalid].map(([name, why]) => `; "${name}" cannot be loaded: ${why}`).join("");
  const remedy =
    options.confName === undefined
      ? "the cluster's network plugin has to write one; check that MOUNTED_CNI_NET_DIR is the folder the container runtime reads"
      : "check CNI_CONF_NAME, or unset it to use the first file as the runtime does";
  return `Waiting for ${wanted}${broken}: ${remedy}`;
}
