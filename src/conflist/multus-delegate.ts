// SPDX-License-Identifier: Apache-2.0
// Multus runs the chain of another file as its delegate: our entry must be in one of the two, never in both.
import { basename } from "node:path";
import { confValue } from "./conf-text.ts";
import { chainEntries } from "./conflist-edit.ts";
import type { Conf } from "./folder-files.ts";

/** Where our entry belongs, and which files must not hold one besides. */
export interface DelegateTarget {
  readonly target: Conf;
  readonly alsoRemoveFrom: readonly Conf[];
}

/**
 * Follows Multus from its own configuration to the one it delegates to.
 *
 * A copy of our entry in its `delegates` is as good as one of its own. The thick plugin names the file in
 * `clusterNetwork`; without it, its daemon takes the next file of the folder. A delegate that is no list is left
 * alone, because Multus knows it by its file name, and the entry goes behind Multus itself.
 * Source: k8snetworkplumbingwg/multus-cni docs/configuration.md, docs/thick-plugin.md, pkg/server/config
 */
export function delegateTarget(primary: Conf, confs: readonly Conf[]): DelegateTarget {
  const multus = multusPlugin(primary);
  if (multus === undefined || chainEntries(primary.text).oursInDelegates > 0) {
    return { target: primary, alsoRemoveFrom: [] };
  }
  const others = confs.filter((conf) => conf !== primary);
  if (typeof multus.clusterNetwork === "string" && multus.clusterNetwork !== "") {
    const named = findNetwork(multus.clusterNetwork, others);
    // named in the API: Multus may still resolve the name to any file of this folder
    if (named?.kind !== "list") return { target: primary, alsoRemoveFrom: others };
    return { target: named, alsoRemoveFrom: [primary] };
  }
  if (Array.isArray(multus.delegates) && multus.delegates.length > 0) {
    return { target: primary, alsoRemoveFrom: [] };
  }
  const next = others.find((conf) => multusPlugin(conf) === undefined);
  if (next?.kind !== "list") return { target: primary, alsoRemoveFrom: [] };
  return { target: next, alsoRemoveFrom: [primary] };
}

interface MultusPlugin {
  readonly type?: unknown;
  readonly clusterNetwork?: unknown;
  readonly delegates?: unknown;
}

function multusPlugin(conf: Conf): MultusPlugin | undefined {
  if (!conf.types.some(isMultusType)) return undefined;
  const root = confValue(conf.text) as MultusPlugin & { readonly plugins?: readonly MultusPlugin[] };
  const plugins = conf.kind === "list" ? (root.plugins ?? []) : [root];
  return plugins.find((plugin) => isMultusType(String(plugin.type)));
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
