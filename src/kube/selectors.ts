// SPDX-License-Identifier: Apache-2.0
// Enablement selectors: which pods of which namespaces belong to the mesh.
import { isSeq, parseDocument } from "yaml";
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

/**
 * Parses selectors from YAML or JSON; blank text stands for the default.
 * Unknown and repeated fields are faults, as in istio-cni's strict parse: a misspelt field must not widen a selector.
 *
 * @throws SelectorError with all faults at once
 */
export function parseEnablementSelectors(text: string): readonly EnablementSelector[] {
  if (text.trim() === "") return defaultSelectors;
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true });
  if (document.errors.length > 0) {
    throw new SelectorError(
      document.errors.map((error) => `not YAML: ${error.message.split("\n")[0] ?? ""}`),
    );
  }
  const root = document.contents;
  if (!isSeq(root)) throw new SelectorError(["must be a list of {podSelector, namespaceSelector}"]);
  const faults: string[] = [];
  const entries = root.items.map((item, index): EnablementSelector => {
    const report = (where: string, fault: string) => {
      faults.push(`entry ${index + 1}${where === "" ? "" : `, ${where}`}: ${fault}`);
    };
    const fields = mapFields(item, { where: "", known: ["podSelector", "namespaceSelector"], report });
    return {
      podSelector: parseLabelSelector(fields?.get("podSelector"), "podSelector", report),
      namespaceSelector: parseLabelSelector(fields?.get("namespaceSelector"), "namespaceSelector", report),
    };
  });
  if (faults.length > 0) throw new SelectorError(faults);
  return entries;
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

/** Whether some pod of a namespace with these labels could belong to the mesh. */
export function namespaceCouldMatch(
  selectors: readonly EnablementSelector[],
  namespaceLabels: Labels,
): boolean {
  return selectors.some(({ namespaceSelector }) => matchLabelSelector(namespaceSelector, namespaceLabels));
}
