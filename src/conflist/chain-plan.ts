// SPDX-License-Identifier: Apache-2.0
// Which files of the CNI folder must change so that the runtime's chain calls our plugin exactly once; pure, no I/O.

import type { ChainOptions, ChainPlan, PlannedChain } from "./chain-options.ts";
import { isSupportedVersion, supportedCniVersions } from "./cni-versions.ts";
import { type Conf, isMadeOfParts } from "./conf.ts";
import { parseDocument } from "./conf-document.ts";
import type { Action, ConfFolder, UnreadFile } from "./conf-folder.ts";
import { compareNames } from "./conf-text.ts";
import { chooseListName, savedNameOf } from "./conf-wrap.ts";
import {
  chainEntries,
  insertPlugin,
  istioCniType,
  pluginType,
  readEntry,
  removePlugin,
  wrapConf,
} from "./conflist-edit.ts";
import { delegateTarget } from "./multus-delegate.ts";
import { planPart, withoutParts } from "./part-plan.ts";
import { planRemoval } from "./removal-plan.ts";
import { ownersIn, planStandalone } from "./standalone-plan.ts";

/** Says what has to change in the folder. */
export function planChain(folder: ConfFolder, options: ChainOptions): ChainPlan {
  const plan = options.chained ? planChained(folder, options) : planStandalone(folder, options);
  return { ...plan, replaces: replacesIstioCni(folder, plan) };
}

function planChained(folder: ConfFolder, options: ChainOptions): PlannedChain {
  const { confs } = folder;
  const former = options.owned ? undefined : formerOwned(confs, options);
  const candidates = confs.filter(
    (conf) => !isOurOwn(conf, options) && conf !== former && !isStandalone(conf),
  );
  const primary = choosePrimary(candidates, options);
  const invalid = new Map([...folder.invalid].filter(([name]) => isBefore(name, primary, options)));
  const base = { invalid, types: primary?.types ?? [], istioCni: false, orphaned: false };
  const nowhere = { ...base, fileName: undefined, actions: [], missing: true };
  const unseen = [...invalid].find(([, { isOutOfSight }]) => isOutOfSight === true);
  if (unseen !== undefined) return { ...nowhere, fault: outOfSightFault(unseen) };
  if (primary === undefined) {
    const own = folder.document(options.ownedFileName);
    const orphaned = options.owned && own !== undefined && chainEntries(own).ours > 0;
    return { ...nowhere, fault: waitingFault(options, invalid), orphaned };
  }
  const { target, alsoRemoveFrom, sources } = delegateTarget(primary, candidates);
  const fault = versionFault(primary) ?? versionFault(target);
  if (fault !== undefined) return { ...nowhere, fault };
  const rivals = candidates.filter((conf) => isForNetwork(conf, options.defaultNetwork));
  const choice = { primary, target, alsoRemoveFrom, sources, rivals, options };
  const isOwned = options.owned && !isMadeOfParts(primary);
  const plan = isOwned ? planOwned(folder, choice) : planShared(folder, choice);
  const leftover = former === undefined ? [] : [{ kind: "remove", name: former.name } as const];
  return {
    ...base,
    ...plan,
    actions: plan.fault === undefined ? [...plan.actions, ...leftover] : plan.actions,
  };
}

/** The configuration that a runtime uses of those that it loads: of the network that is named to CRI-O, else the first. */
export function runtimesConf(confs: readonly Conf[], defaultNetwork: string | undefined): Conf | undefined {
  return confs.find((conf) => isForNetwork(conf, defaultNetwork));
}

interface Choice {
  /** What the runtime reads first. */
  readonly primary: Conf;
  /** What our entry goes into, and what must not hold one besides. */
  readonly target: Conf;
  readonly alsoRemoveFrom: readonly Conf[];
  /** What Multus copies its delegates from: our entry is in there, too. */
  readonly sources: readonly Conf[];
  /** Configurations that the runtime would take if they came first. */
  readonly rivals: readonly Conf[];
  readonly options: ChainOptions;
}

/** Why our entry in this chain would fail every pod of the node; undefined: it would not. */
function versionFault({ name, cniVersion }: Conf): string | undefined {
  if (cniVersion === "" || isSupportedVersion(cniVersion)) return undefined;
  return (
    `Cannot add ${pluginType} to the CNI chain "${name}": its cniVersion is "${cniVersion}", supported are ` +
    `${supportedCniVersions.join(", ")}. Set one of them in that file if its plugins have it`
  );
}

type PartPlan = Pick<ChainPlan, "fileName" | "actions" | "missing" | "fault" | "istioCni">;

function replacesIstioCni(folder: ConfFolder, { actions, istioCni }: PartPlan): boolean {
  const isTheirs = (action: Action): boolean =>
    action.kind !== "rename" && ownersIn(folder.document(action.name)).istioCni;
  return !istioCni && actions.some(isTheirs);
}

function planShared(folder: ConfFolder, choice: Choice): PartPlan {
  const { primary, target, rivals, options } = choice;
  const found = chainEntries(target);
  const missing = found.ours === 0;
  // it goes behind Multus where we go into the delegate: the pods get both
  const theirs = [target, primary].find((conf) => chainEntries(conf).istioCni > 0);
  if (theirs !== undefined && !options.replaceIstioCni)
    return standAside(folder, { name: theirs.name, missing, options });
  const rest = { missing, fault: undefined, istioCni: false };
  const strip = choice.alsoRemoveFrom.flatMap((conf): Action[] => {
    const owners = conf === theirs ? (["ours", "istio-cni"] as const) : (["ours"] as const);
    const text = removePlugin(conf, owners);
    const write: Action[] = text === conf.text ? [] : [{ kind: "write", name: conf.name, text }];
    return [...write, ...withoutParts(conf, owners)];
  });
  if (isMadeOfParts(target)) {
    const { fileName, actions } = planPart(target, options);
    return { ...rest, fileName, actions: [...actions, ...strip] };
  }
  if (target.kind === "list" || found.oursInDelegates > 0) {
    const write = mended(target, options);
    // one in a file of its own is called besides the one in the list
    const parts = withoutParts(target, [
      "ours",
      ...(options.replaceIstioCni ? (["istio-cni"] as const) : []),
    ]);
    const copied = choice.sources.flatMap((conf) => mended(conf, options));
    return { ...rest, fileName: target.name, actions: [...write, ...copied, ...parts, ...strip] };
  }
  const mustBeFirst = options.confName === undefined && target === primary;
  const listName = chooseListName(target, { folder, before: mustBeFirst ? rivals : [] });
  if (listName === undefined) {
    const fault = `Cannot add ${pluginType} to the CNI chain "${target.name}": it must become a list, and every name for that is taken or sorts behind another file. Rename "${target.name}" or the files that follow it`;
    return { ...rest, fileName: undefined, actions: [], fault };
  }
  const text = insertPlugin(parseDocument(wrapConf(target)), options.entry, options);
  const write: Action[] =
    folder.files.get(listName) === text ? [] : [{ kind: "write", name: listName, text, like: target.name }];
  // only now: until the list is there, the runtime needs the original
  const save: Action = { kind: "rename", from: target.name, to: savedNameOf(target.name) };
  const others = strip.filter((action) => action.kind === "write" && action.name !== listName);
  return { ...rest, fileName: listName, actions: [...write, save, ...others] };
}

/** The file with our entry as it is to be. */
function mended(conf: Conf, options: ChainOptions): Action[] {
  const text = insertPlugin(conf, options.entry, options);
  return text === conf.text ? [] : [{ kind: "write", name: conf.name, text }];
}

/** Two agents in one chain: the other one's is left, unless we were told to take its place. */
function standAside(
  folder: ConfFolder,
  { name, missing, options }: { name: string; missing: boolean; options: ChainOptions },
): PartPlan {
  const { actions } = planRemoval(folder, options);
  const fault = `istio-cni is in the CNI chain "${name}", and a node has one agent: set REPLACE_ISTIO_CNI=true to take its place, or uninstall istio-cni`;
  return { fileName: undefined, actions, missing, fault, istioCni: true };
}

function planOwned(folder: ConfFolder, { primary, rivals, options }: Choice): PartPlan {
  const name = options.ownedFileName;
  const current = folder.files.get(name);
  const own = folder.document(name);
  const found = own === undefined ? undefined : chainEntries(own);
  const source = parseDocument(primary.kind === "list" ? removePlugin(primary) : wrapConf(primary));
  const missing = found === undefined || found.ours === 0;
  if (chainEntries(source).istioCni > 0 && !options.replaceIstioCni)
    return standAside(folder, { name: primary.name, missing, options });
  const isTheirs = found !== undefined && found.istioCni > 0;
  const mayWrite =
    (current === undefined && !folder.unread.has(name)) ||
    !missing ||
    current === source.text ||
    (isTheirs && options.replaceIstioCni);
  if (!mayWrite) {
    const whose = isTheirs ? "it is istio-cni's: set REPLACE_ISTIO_CNI=true or" : "it is not ours:";
    const fault = `Cannot write the CNI configuration "${name}": ${whose} set ISTIO_OWNED_CNI_CONFIG_FILENAME to another name`;
    return { fileName: undefined, actions: [], missing, fault, istioCni: isTheirs };
  }
  const kept = options.keepSettings && own !== undefined ? readEntry(own) : undefined;
  const text = insertPlugin(source, kept ?? options.entry, options);
  const write: Action[] = text === current ? [] : [{ kind: "write", name, text }];
  // an entry left by another mode would be a second one where a delegating plugin reads that file
  const tidy = planRemoval(folder, { ownedFileName: name, except: name }).actions;
  const first = rivals.find((conf) => conf.name !== name);
  const preempted = first !== undefined && compareNames(first.name, name) < 0;
  const fault = preempted
    ? `Cannot capture pods: the runtime reads "${first.name}" before our own "${name}". Set ISTIO_OWNED_CNI_CONFIG_FILENAME to a name that sorts before it`
    : undefined;
  return { fileName: name, actions: [...write, ...tidy], missing, fault, istioCni: false };
}

function isOurOwn(conf: Conf, options: ChainOptions): boolean {
  return options.owned && conf.name === options.ownedFileName;
}

/** The own file of an earlier mode, ours or istio-cni's: a stale copy as soon as there is another configuration. */
function formerOwned(confs: readonly Conf[], options: ChainOptions): Conf | undefined {
  const own = confs.find((conf) => conf.name === options.ownedFileName && conf.name !== options.confName);
  if (own === undefined) return undefined;
  const { ours, istioCni } = chainEntries(own);
  const isOurs = ours > 0 || (istioCni > 0 && options.replaceIstioCni);
  const hasOther = confs.some((conf) => conf !== own && !isStandalone(conf));
  return isOurs && hasOther ? own : undefined;
}

function isStandalone(conf: Conf): boolean {
  return conf.types.every((type) => type === pluginType || type === istioCniType);
}

/** CRI-O names a network without a name after its file. Source: cri-o/ocicni pkg/ocicni/ocicni.go, loadNetworks */
function isForNetwork(conf: Conf, defaultNetwork: string | undefined): boolean {
  return defaultNetwork === undefined || (conf.network === "" ? conf.name : conf.network) === defaultNetwork;
}

function choosePrimary(candidates: readonly Conf[], options: ChainOptions): Conf | undefined {
  const { confName, defaultNetwork } = options;
  if (confName === undefined) return runtimesConf(candidates, defaultNetwork);
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

function outOfSightFault([name, { why }]: readonly [string, UnreadFile]): string {
  return (
    `Cannot tell which CNI configuration the runtime uses: "${name}" ${why}. Mount what it leads to at the same path ` +
    "below /host, or name the file to use: CNI_CONF_NAME"
  );
}

function waitingFault(options: ChainOptions, invalid: ReadonlyMap<string, UnreadFile>): string {
  const { confName, defaultNetwork } = options;
  const broken = [...invalid].map(([name, { why }]) => `; "${name}" cannot be loaded: ${why}`).join("");
  const [wanted, remedy] =
    confName !== undefined
      ? [
          `the CNI configuration "${confName}"`,
          "check CNI_CONF_NAME, or unset it to use the first file as the runtime does",
        ]
      : defaultNetwork !== undefined
        ? [
            `a CNI configuration of the network "${defaultNetwork}", which is CRI-O's cni_default_network`,
            "its plugin has to write one; or correct CRI-O's setting and restart CRI-O",
          ]
        : [
            "a CNI configuration",
            "the cluster's network plugin has to write one; check that MOUNTED_CNI_NET_DIR is the folder the container runtime reads",
          ];
  return `Waiting for ${wanted}${broken}: ${remedy}`;
}
