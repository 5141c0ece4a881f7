// SPDX-License-Identifier: Apache-2.0
// Leaves the chain for good: needs no running agent and no API server.

import { folderFault } from "../conflist/conf-fault.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { isConfName } from "../conflist/conf-text.ts";
import { planRemoval } from "../conflist/removal-plan.ts";
import {
  applyActions,
  FolderChangedError,
  type FolderSnapshot,
  readFolder,
  removeTemporaries,
} from "./conf-dir.ts";

/** Where to leave from. */
export interface ChainRemovalOptions {
  /** The CNI folder as this process sees it. */
  readonly netDir: string;
  /** Prefix under which the host's files are seen, default "/". */
  readonly hostRoot?: string;
  /** Default 02-istio-cni.conflist. */
  readonly ownedFileName?: string;
}

/** What was done. */
export interface ChainRemovalReport {
  /** One line for each file that was changed, removed or put back. */
  readonly done: readonly string[];
  /** What could not be put back as it had been, and why. */
  readonly notes: readonly string[];
}

/** `ISTIO_OWNED_CNI_CONFIG_FILENAME` where it is not set. */
export const defaultOwnedFileName = "02-istio-cni.conflist";

const maxAttempts = 50;

/**
 * Takes our entry out of every configuration of the folder and puts wrapped originals back; a missing folder is success.
 * Returns only when a last look found nothing of ours.
 * @throws Error with the remedy when the folder cannot be changed, or another program keeps putting our entry back
 */
export async function removeFromChain(options: ChainRemovalOptions): Promise<ChainRemovalReport> {
  const { netDir, hostRoot, ownedFileName = defaultOwnedFileName } = options;
  const done: string[] = [];
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    try {
      const snapshot = await readFolder(netDir, {
        all: true,
        ...(hostRoot === undefined ? {} : { hostRoot }),
      });
      const { actions, notes } = planRemoval(parseFolder(snapshot.files, snapshot.unread), { ownedFileName });
      if (actions.length === 0) {
        await removeTemporaries(netDir);
        return { done, notes: [...notes, ...unreadNotes(snapshot)] };
      }
      for (const action of actions) {
        await applyActions(netDir, [action], { snapshot, groupRead: false });
        if (action.kind === "write") done.push(`took our entry out of "${action.name}"`);
        else if (action.kind === "remove") done.push(`removed "${action.name}"`);
        else done.push(`put back "${action.to}"`);
      }
    } catch (error) {
      if (error instanceof FolderChangedError) continue;
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return { done, notes: [] };
      throw new Error(folderFault(netDir, error), { cause: error });
    }
  }
  throw new Error(
    `Cannot leave the CNI chain in "${netDir}": another program keeps writing our entry; stop the agent of this node first`,
  );
}

/** Configurations that may hold an entry of ours, and cannot be looked into. */
function unreadNotes({ unread }: FolderSnapshot): string[] {
  return [...unread]
    .filter(([name, { isAbsent }]) => isConfName(name) && isAbsent !== true)
    .map(([name, { why }]) => `"${name}" was not looked into: ${why}`);
}
