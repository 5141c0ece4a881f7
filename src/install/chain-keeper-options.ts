// SPDX-License-Identifier: Apache-2.0
// What the keeper of the chain is told, and whom it tells.
import type { PluginEntry } from "../conflist/conflist-edit.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import type { RuntimeNetwork } from "./runtime-network.ts";

/** Another program keeps removing our entry. */
export interface ChainFight {
  /** How often so far. */
  readonly rewrites: number;
  readonly path: string;
  readonly remedy: string;
}

/** What the keeper is told. */
export interface ChainKeeperOptions {
  /** The CNI folder as this process sees it. */
  readonly netDir: string;
  /** Prefix under which the host's files are seen, default "/". */
  readonly hostRoot?: string;
  readonly confName?: string | undefined;
  /** An own file instead of the primary; undefined: our entry goes into the primary. */
  readonly owned?: { readonly fileName: string } | undefined;
  /** Name an own file has or had in another mode, default 02-istio-cni.conflist. */
  readonly ownedFileName?: string;
  /** Which network the runtime gives its pods; default: that of the first file. */
  readonly runtimeNetwork?: () => Promise<RuntimeNetwork>;
  /** Default true. */
  readonly chained?: boolean;
  readonly groupRead?: boolean;
  readonly entry: PluginEntry;
  readonly replaceIstioCni?: boolean;
  readonly log: Logger;
  /** Why we are not in the chain, with the remedy; undefined: we are. Called on every change. */
  onstate(fault: string | undefined): void;
  /** Our entry was missing and is back: sandboxes may have been born without us. Also after the first install. */
  onrepaired(): void;
  /** Once per fight. */
  onfight(fight: ChainFight): void;
  /** The net under the file events, default 5000. */
  readonly pollMs?: number;
  /** How long a file that cannot be parsed may be half written, default 2000. */
  readonly halfWrittenMs?: number;
  /** How long another agent's settings are left alone, default 60 000: a rolling upgrade runs two of us. */
  readonly settingsGraceMs?: number;
  /** How long the own file outlives the primary it is a copy of, default 60 000. */
  readonly ownedGraceMs?: number;
  readonly clock?: Clock;
}
