// SPDX-License-Identifier: Apache-2.0
// Leaves the chain for good: needs no running agent and no API server.

import { folderFault } from "../conflist/conf-fault.ts";
import { parseFolder } from "../conflist/conf-folder.ts";
import { planRemoval } from "../conflist/removal-plan.ts";
import { applyActions, FolderChangedError, readFolder, removeTemporaries } from "./conf-dir.ts";

/** Where to leave from. */
export interface ChainRemovalOptions {
  /** The CNI folder as this process sees it. */
  readonly netDir: string;
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
  const { netDir, ownedFileName = defaultOwnedFileName } = options;
  const done: string[] = [];
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    try {
      const snapshot = await readFolder(netDir, { all: true });
      const { actions, notes } = planRemoval(parseFolder(snapshot.files), { ownedFileName });
      if (actions.length === 0) {
        await removeTemporaries(netDir);
        return { done, notes };
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
