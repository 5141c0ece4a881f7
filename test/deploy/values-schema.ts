// SPDX-License-Identifier: Apache-2.0
// Checks values against the chart's schema, as far as that schema goes; Helm does the same before it renders.
// Source: json-schema.org draft-07

type Schema = Readonly<Record<string, unknown>>;

const known = new Set([
  "$ref",
  "$schema",
  "additionalProperties",
  "description",
  "enum",
  "items",
  "maximum",
  "minimum",
  "pattern",
  "properties",
  "required",
  "title",
  "type",
]);

/** Faults of a value, each with its place; empty when there is none. @throws Error for keywords not known here */
export function schemaFaults(
  value: unknown,
  schema: Schema,
  root: Schema = schema,
  place = "values",
): string[] {
  const unknown = Object.keys(schema).find((keyword) => !known.has(keyword));
  if (unknown !== undefined) throw new Error(`Cannot check "${place}": the schema uses "${unknown}"`);
  if (typeof schema.$ref === "string") return schemaFaults(value, resolve(schema.$ref, root), root, place);
  const faults: string[] = [];
  const types = schema.type === undefined ? undefined : [schema.type].flat();
  if (types !== undefined && !types.some((type) => isOfType(value, type as string))) {
    return [`${place}: must be ${types.join(" or ")}`];
  }
  if (Array.isArray(schema.enum) && !schema.enum.includes(value))
    faults.push(`${place}: must be one of a list`);
  if (
    typeof value === "string" &&
    typeof schema.pattern === "string" &&
    !new RegExp(schema.pattern).test(value)
  ) {
    faults.push(`${place}: must match ${schema.pattern}`);
  }
  if (typeof value === "number") {
    if (value < Number(schema.minimum ?? value)) faults.push(`${place}: is too small`);
    if (value > Number(schema.maximum ?? value)) faults.push(`${place}: is too large`);
  }
  if (Array.isArray(value) && schema.items !== undefined) {
    const items = schema.items as Schema;
    faults.push(...value.flatMap((item, at) => schemaFaults(item, items, root, `${place}[${at}]`)));
  }
  if (isMap(value)) faults.push(...mapFaults(value, schema, { root, place }));
  return faults;
}

function mapFaults(
  value: Record<string, unknown>,
  schema: Schema,
  { root, place }: { root: Schema; place: string },
): string[] {
  const properties = (schema.properties ?? {}) as Record<string, Schema>;
  const missing = ((schema.required ?? []) as string[]).filter((name) => !(name in value));
  const faults = missing.map((name) => `${place}.${name}: is missing`);
  for (const [name, inner] of Object.entries(value)) {
    const rest = schema.additionalProperties;
    const own = properties[name] ?? (isMap(rest) ? rest : undefined);
    if (own !== undefined) faults.push(...schemaFaults(inner, own, root, `${place}.${name}`));
    else if (rest === false) faults.push(`${place}.${name}: is not known`);
  }
  return faults;
}

function resolve(reference: string, root: Schema): Schema {
  return reference
    .replace(/^#\//, "")
    .split("/")
    .reduce<Schema>((schema, name) => schema[name] as Schema, root);
}

function isOfType(value: unknown, type: string): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return isMap(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
