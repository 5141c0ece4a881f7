// SPDX-License-Identifier: Apache-2.0
// Enablement selectors: which pods of which namespaces belong to the mesh.
import { isScalar, isSeq, parseDocument } from "yaml";
import {
  type LabelSelector,
  type Labels,
  mapFields,
  matchLabelSelector,
  parseLabelSelector,
} from "./label-selector.ts";

/** A pod belongs to the mesh when any entry matches both its own labels and its namespace's. */
export interface EnablementSelector {
  readonly podSelector: LabelSelector;
  readonly namespaceSelector: LabelSelector;
}

const dataplaneMode = "istio.io/dataplane-mode";

/** istio-cni's own default: pods labelled `ambient`; and pods of namespaces labelled `ambient` that do not say `none`. */
export const defaultSelectors: readonly EnablementSelector[] = [
  { podSelector: [{ key: dataplaneMode, operator: "In", values: ["ambient"] }], namespaceSelector: [] },
  {
    podSelector: [{ key: dataplaneMode, operator: "NotIn", values: ["none"] }],
    namespaceSelector: [{ key: dataplaneMode, operator: "In", values: ["ambient"] }],
  },
];

/** Selectors that cannot be used; `faults` has one line each, with the number of the entry (the first is 1). */
export class SelectorError extends Error {
  override readonly name = "SelectorError";
  readonly faults: readonly string[];

  constructor(faults: readonly string[]) {
    super(`Cannot use the enablement selectors: ${faults.join("; ")}`);
    this.faults = faults;
  }
}

/** Selectors as they are followed. */
export interface ParsedSelectors {
  readonly selectors: readonly EnablementSelector[];
  /** What is followed in another way than it is written, a line each. */
  readonly warnings: readonly string[];
}

/**
 * Parses selectors from YAML or JSON; blank text stands for the default, `null` and an empty list select nobody.
 * As istio-cni reads them: unknown fields are left out, names count in any case, the last of repeated ones counts.
 *
 * @throws SelectorError with all faults at once; istio-cni takes none of these either
 * Source: istio/istio cni/pkg/cmd/root.go (sigs.k8s.io/yaml Unmarshal, not strict), cni/pkg/util/enablement_selector.go
 */
export function parseEnablementSelectors(text: string): ParsedSelectors {
  if (text.trim() === "") return { selectors: defaultSelectors, warnings: [] };
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: false, version: "1.1" });
  if (document.errors.length > 0) {
    throw new SelectorError(
      document.errors.map((error) => `not YAML: ${error.message.split("\n")[0] ?? ""}`),
    );
  }
  const root = document.contents;
  if (root === null || (isScalar(root) && root.value === null))
    return { selectors: [], warnings: ["it is null: no pod is selected"] };
  if (!isSeq(root)) throw new SelectorError(["must be a list of {podSelector, namespaceSelector}"]);
  const faults: string[] = [];
  const warnings: string[] = [];
  const selectors = root.items.map((item, index): EnablementSelector => {
    const into = (lines: string[]) => (where: string, what: string) => {
      lines.push(`entry ${index + 1}${where === "" ? "" : `, ${where}`}: ${what}`);
    };
    const report = { fault: into(faults), warn: into(warnings) };
    const fields = mapFields(item, { where: "", known: ["podSelector", "namespaceSelector"], report });
    return {
      podSelector: parseLabelSelector(fields?.get("podSelector"), "podSelector", report),
      namespaceSelector: parseLabelSelector(fields?.get("namespaceSelector"), "namespaceSelector", report),
    };
  });
  if (faults.length > 0) throw new SelectorError(faults);
  return { selectors, warnings };
}

/** The index of the first entry that matches, or undefined when the pod stays outside. */
export function matchSelectors(
  selectors: readonly EnablementSelector[],
  podLabels: Labels,
  namespaceLabels: Labels,
): number | undefined {
  const index = selectors.findIndex(
    ({ podSelector, namespaceSelector }) =>
      matchLabelSelector(podSelector, podLabels) && matchLabelSelector(namespaceSelector, namespaceLabels),
  );
  return index < 0 ? undefined : index;
}
