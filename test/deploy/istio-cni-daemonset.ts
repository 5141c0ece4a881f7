// SPDX-License-Identifier: Apache-2.0
// The DaemonSet that istio-cni's chart makes, with an image of ours.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";

/** A Kubernetes object. */
export type KubeObject = Record<string, unknown>;

/** Objects in the order in which they are to be created; all belong to the namespace istio-system. */
export function istioCniObjects(image: string): KubeObject[] {
  const text = readFileSync(join(import.meta.dirname, "istio-cni-daemonset.yaml"), "utf8");
  return parseAllDocuments(text.replace(/(?<=image: )IMAGE$/m, JSON.stringify(image))).map(
    (document) => document.toJS() as KubeObject,
  );
}
