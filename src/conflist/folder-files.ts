// SPDX-License-Identifier: Apache-2.0
// The runtime's folder as a planner sees it, and what it may do there.
import type { ConfText, ParsedConf } from "./conf-text.ts";

/** Files of the folder by name; what is no regular file is not among them. */
export type FolderFiles = ReadonlyMap<string, ConfText>;

/** One change in the folder; a list of them is safe to stop after any. */
export type Action =
  /** `like`: the file whose mode and owner a new file gets. */
  | { readonly kind: "write"; readonly name: string; readonly text: ConfText; readonly like?: string }
  | { readonly kind: "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "remove"; readonly name: string };

/** A configuration of the folder that a runtime would load. */
export interface Conf extends ParsedConf {
  readonly name: string;
  readonly text: ConfText;
}
