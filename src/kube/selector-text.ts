// SPDX-License-Identifier: Apache-2.0
// Whether a selector, as it stands in a request's query, can be one: a server that refuses it is asked in vain for ever. Pure.
import { isLabelKey, isLabelValue } from "./label-selector.ts";

/**
 * What is wrong with the text of a label selector such as `app=web,tier in (a, b),!canary`; undefined when nothing is.
 * Source: Kubernetes documentation, "Labels and Selectors", set-based and equality-based requirements.
 */
export function labelSelectorFault(text: string): string | undefined {
  if (text.trim() === "") return undefined;
  return requirementsOf(text)
    .map(requirementFault)
    .find((fault) => fault !== undefined);
}

/**
 * What is wrong with the text of a field selector such as `metadata.namespace!=kube-system`; undefined when nothing is. Which
 * fields there are is the server's to say. Source: Kubernetes documentation, "Field Selectors", supported operators.
 */
export function fieldSelectorFault(text: string): string | undefined {
  const terms = text.split(/(?<!\\),/).filter((term) => term !== "");
  const wrong = terms.find((term) => !/^[A-Za-z][A-Za-z0-9.]*(?:!=|==?)[^=\s]*$/.test(term));
  return wrong === undefined ? undefined : `has "${wrong}", which is not FIELD=VALUE or FIELD!=VALUE`;
}

export function labelKeyFault(key: string): string | undefined {
  return isLabelKey(key) ? undefined : `is no label key`;
}

export function labelValueFault(value: string): string | undefined {
  return isLabelValue(value) ? undefined : `is no label value`;
}

/** Split at commas that are not in brackets. */
function requirementsOf(text: string): string[] {
  return text.split(/,(?![^(]*\))/).map((requirement) => requirement.trim());
}

function requirementFault(requirement: string): string | undefined {
  const [, inverted, key = "", rest = ""] = /^(!?)\s*([^\s!=<>(),]*)\s*(.*)$/s.exec(requirement) ?? [];
  const wrong = `has "${requirement}", which is no requirement such as KEY=VALUE, KEY in (A,B), KEY or !KEY`;
  if (!isLabelKey(key)) return wrong;
  if (rest === "") return undefined;
  const values = inverted === "" ? valuesOf(rest) : undefined;
  return values?.every(isLabelValue) === true ? undefined : wrong;
}

/** @returns undefined when it does not begin with an operator, or not end after what that takes */
function valuesOf(rest: string): readonly string[] | undefined {
  const one = /^(?:==?|!=)\s*([^\s=!<>]*)$/.exec(rest)?.[1];
  if (one !== undefined) return [one];
  const number = /^[<>]\s*(-?\d+)$/.exec(rest)?.[1];
  if (number !== undefined) return [];
  const several = /^(?:in|notin)\s*\(([^()]*)\)$/.exec(rest)?.[1];
  return several?.split(",").map((value) => value.trim());
}
