// SPDX-License-Identifier: Apache-2.0
// Where an ADD said that a pod is, opened again later.
import { join } from "node:path";
import { Netns } from "../linux/netns.ts";
import type { Place } from "./attachments.ts";

/**
 * The namespace that was there at ADD; the handle is the caller's to close.
 * @param hostRoot below which paths of the runtime are seen
 * @returns undefined when its path is gone, or leads to another namespace by now
 */
export function openPlace(
  { netnsPath, netnsKey }: Pick<Place, "netnsPath" | "netnsKey">,
  hostRoot: string,
): Netns | undefined {
  const netns = openIfThere(join(hostRoot, netnsPath));
  if (netns === undefined || netns.key === netnsKey) return netns;
  netns.close();
  return undefined;
}

function openIfThere(path: string): Netns | undefined {
  try {
    return Netns.open(path);
  } catch {
    return undefined;
  }
}
