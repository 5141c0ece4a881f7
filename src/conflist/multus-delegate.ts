// SPDX-License-Identifier: Apache-2.0
// Multus runs the chain of another file as its delegate: our entry must be in one of the two, never in both. Pure.
import { basename, dirname, join } from "node:path/posix";
import type { Conf } from "./conf.ts";
import { chainEntries } from "./conflist-edit.ts";

/** Where our entry belongs, and which files must not hold one besides. */
export interface DelegateTarget {
  readonly target: Conf;
  readonly alsoRemoveFrom: readonly Conf[];
  /** Files with an entry of ours that Multus may make its delegates of once more, so that it is to be like that of the target. */
  readonly sources: readonly Conf[];
}

/**
 * Follows Multus from its own configuration to the one it delegates to.
 *
 * A copy of our entry in its `delegates` is as good as one of its own; at its next start Multus copies the other file again, with the
 * entry as it stands there. The thick plugin names the file in `clusterNetwork`; without it, its daemon takes the next file of the folder. A delegate that is no list is left
 * alone, because Multus knows it by its file name, and the entry goes behind Multus itself.
 * Source: k8snetworkplumbingwg/multus-cni docs/configuration.md, docs/thick-plugin.md, pkg/server/config; cmd/thin_entrypoint of
 * 95a09323, createMultusConfig
 */
export function delegateTarget(primary: Conf, confs: readonly Conf[]): DelegateTarget {
  const multus = multusPlugin(primary);
  const itself = { target: primary, alsoRemoveFrom: [], sources: [] };
  if (multus === undefined) return itself;
  const others = confs.filter((conf) => conf !== primary);
  if (chainEntries(primary).oursInDelegates > 0)
    return {
      ...itself,
      sources: others.filter((conf) => conf.kind === "list" && chainEntries(conf).ours > 0),
    };
  if (typeof multus.clusterNetwork === "string" && multus.clusterNetwork !== "") {
    const named = findNetwork(multus.clusterNetwork, others);
    // named in the API: Multus may still resolve the name to any file of this folder
    if (named?.kind !== "list") return { ...itself, alsoRemoveFrom: others };
    return { ...itself, target: named, alsoRemoveFrom: [primary] };
  }
  if (Array.isArray(multus.delegates) && multus.delegates.length > 0) return itself;
  const next = others.find((conf) => multusPlugin(conf) === undefined);
  if (next?.kind !== "list") return itself;
  return { ...itself, target: next, alsoRemoveFrom: [primary] };
}

/** A chain that Multus runs for every pod besides its networks. */
export interface AuxiliaryChain {
  readonly name: string;
  /** Folder on the host that holds the file of the cluster's network. */
  readonly baseDir: string;
  /** Folder on the host whose `*.conf` files are the chain's plugins. */
  readonly folder: string;
}

/**
 * The chain that `auxiliaryCNIChainName` names; its folder lies beside the file of the cluster's network, which must be named by
 * its path. The path is one of the container of Multus, in which the host's folders are below /host.
 * Source: k8snetworkplumbingwg/multus-cni pkg/multus/multus.go, CmdAdd; openshift/cluster-network-operator
 * bindata/network/multus/multus.yaml
 */
export function auxiliaryChain(conf: Conf): AuxiliaryChain | undefined {
  const { auxiliaryCNIChainName: name, clusterNetwork } = multusPlugin(conf) ?? {};
  if (typeof name !== "string" || name === "" || name.includes("/")) return undefined;
  if (typeof clusterNetwork !== "string" || !clusterNetwork.includes("/")) return undefined;
  // /var/run is a link to /run on every host of today
  const baseDir = dirname(join("/", clusterNetwork.replace(/^\/host\//, "/"))).replace(
    /^\/var\/run(?=\/|$)/,
    "/run",
  );
  return { name, baseDir, folder: join(baseDir, name) };
}

/** Whether the chain calls Multus. */
export function callsMultus(conf: Conf): boolean {
  return multusPlugin(conf) !== undefined;
}

interface MultusPlugin {
  readonly type?: unknown;
  readonly clusterNetwork?: unknown;
  readonly delegates?: unknown;
  readonly auxiliaryCNIChainName?: unknown;
}

function multusPlugin(conf: Conf): MultusPlugin | undefined {
  if (!conf.types.some(isMultusType)) return undefined;
  const inline = conf.kind === "list" ? conf.chain : [conf];
  return [...inline, ...conf.parts]
    .map(({ value }) => value as MultusPlugin)
    .find((plugin) => isMultusType(String(plugin.type)));
}

function isMultusType(type: string): boolean {
  return type === "multus" || type === "multus-shim";
}

/** Paths are as Multus' container sees them, so only the file's name can be compared. */
function findNetwork(network: string, confs: readonly Conf[]): Conf | undefined {
  return network.includes("/")
    ? confs.find((conf) => conf.name === basename(network))
    : confs.find((conf) => conf.network === network);
}
