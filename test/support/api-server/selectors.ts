// SPDX-License-Identifier: Apache-2.0
// Field and label selectors as they stand in a query string (`labelSelector=a=b,c in (d,e),!f`).
import { type KubeObject, type ResourceName, StatusError } from "./objects.ts";

export type Matcher = (object: KubeObject) => boolean;

const selectableFields: Record<string, (object: KubeObject) => string> = {
  "metadata.name": (object) => object.metadata.name,
  "metadata.namespace": (object) => object.metadata.namespace ?? "",
  "spec.nodeName": (object) => String(object.spec?.nodeName ?? ""),
  "status.phase": (object) => String(object.status?.phase ?? ""),
};

const fieldsOf: Record<ResourceName, readonly string[]> = {
  pods: ["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"],
  namespaces: ["metadata.name", "status.phase"],
  events: ["metadata.name", "metadata.namespace"],
  nodes: ["metadata.name"],
  daemonsets: ["metadata.name", "metadata.namespace"],
};

/** Builds the matcher of a `fieldSelector`. @throws StatusError 400 for a field the resource cannot select by. */
export function parseFieldSelector(text: string, resource: ResourceName): Matcher {
  const terms = text.split(",").filter((term) => term !== "");
  const matchers = terms.map((term): Matcher => {
    const parts = /^([^!=]+)(!=|==?)(.*)$/.exec(term);
    const [, field = "", operator, value] = parts ?? [];
    const read = fieldsOf[resource].includes(field) ? selectableFields[field] : undefined;
    if (read === undefined) {
      throw new StatusError(
        400,
        `Unable to find "v1, Resource=${resource}" that match label selector "", field selector "${text}": field label not supported: ${field}`,
      );
    }
    return (object) => (read(object) === value) === (operator !== "!=");
  });
  return (object) => matchers.every((matches) => matches(object));
}

/** Builds the matcher of a `labelSelector`. @throws StatusError 400 when it does not parse. */
export function parseLabelSelector(text: string): Matcher {
  const terms = text.match(/(?:[^,(]|\([^)]*\))+/g) ?? [];
  const matchers = terms.map((term) => parseLabelTerm(term.trim()));
  return (object) => matchers.every((matches) => matches(object));
}

function parseLabelTerm(term: string): Matcher {
  const label = (object: KubeObject, key: string) => object.metadata.labels?.[key];
  const set = /^(\S+)\s+(in|notin)\s+\(([^)]*)\)$/.exec(term);
  if (set !== null) {
    const [, key = "", operator, list = ""] = set;
    const values = list.split(",").map((value) => value.trim());
    return (object) => {
      const value = label(object, key);
      return (value !== undefined && values.includes(value)) === (operator === "in");
    };
  }
  const equality = /^([^!=\s]+)\s*(!=|==?)\s*(\S*)$/.exec(term);
  if (equality !== null) {
    const [, key = "", operator, value] = equality;
    return (object) => (label(object, key) === value) === (operator !== "!=");
  }
  const existence = /^(!?)\s*([^!=\s]+)$/.exec(term);
  if (existence !== null) {
    const [, not, key = ""] = existence;
    return (object) => (label(object, key) !== undefined) === (not === "");
  }
  throw new StatusError(400, `unable to parse requirement: ${term}`);
}
