// SPDX-License-Identifier: Apache-2.0
// What a planner of the CNI folder is told, and what it answers.
import type { Action, UnreadFile } from "./conf-folder.ts";
import type { PluginEntry } from "./conflist-edit.ts";

/** How we want to be in the chain. */
export interface ChainOptions {
  /** `CNI_CONF_NAME`: the file to use instead of the one that the runtime uses. */
  readonly confName: string | undefined;
  /** CRI-O's `cni_default_network`; undefined: the runtime uses the first file that it can load. */
  readonly defaultNetwork?: string | undefined;
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
  readonly invalid: ReadonlyMap<string, UnreadFile>;
  /** Plugin types of the chosen chain. */
  readonly types: readonly string[];
  /** istio-cni is in the chain and stays, so that we are not. */
  readonly istioCni: boolean;
  /** The actions take an entry of istio-cni away. */
  readonly replaces: boolean;
  /** The file our own file was a copy of is gone. */
  readonly orphaned: boolean;
}

/** A plan before it is said whose entries it takes away. */
export type PlannedChain = Omit<ChainPlan, "replaces">;
