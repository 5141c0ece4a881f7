// SPDX-License-Identifier: Apache-2.0
// A validator of the part of JSON Schema that our schema is written in; a keyword it does not know is an error, not a pass.

type Schema = Readonly<Record<string, unknown>>;

const knownKeywords = new Set([
  "$ref",
  "type",
  "enum",
  "anyOf",
  "items",
  "properties",
  "required",
  "additionalProperties",
  "pattern",
  "format",
  "minimum",
  "description",
]);

/** Everything in `value` that is not as `$defs[name]` of the document says; empty when it is valid. */
export function validate(document: Schema, name: string, value: unknown): string[] {
  const definitions = document.$defs as Readonly<Record<string, Schema>>;
  const resolve = (schema: Schema): Schema => {
    if (typeof schema.$ref !== "string") return schema;
    const target = definitions[schema.$ref.replace("#/$defs/", "")];
    if (target === undefined) throw new Error(`the schema has no "${schema.$ref}"`);
    return target;
  };
  return check({ resolve, schema: { $ref: `#/$defs/${name}` }, value, where: "$" });
}

interface Place {
  readonly resolve: (schema: Schema) => Schema;
  readonly schema: Schema;
  readonly value: unknown;
  readonly where: string;
}

function check(place: Place): string[] {
  const schema = place.resolve(place.schema);
  const { value, where, resolve } = place;
  const unknown = Object.keys(schema).filter((keyword) => !knownKeywords.has(keyword));
  if (unknown.length > 0) throw new Error(`the validator does not know ${unknown.join(", ")}`);
  const faults: string[] = [];
  const { type, enum: values, anyOf, pattern, format, minimum } = schema;
  if (type !== undefined && ![type].flat().includes(typeName(value, [type].flat() as string[])))
    return [`${where}: ${JSON.stringify(value)} is no ${[type].flat().join(" or ")}`];
  if (Array.isArray(values) && !values.includes(value))
    faults.push(`${where}: ${JSON.stringify(value)} is none of ${JSON.stringify(values)}`);
  if (Array.isArray(anyOf)) {
    const tried = anyOf.map((schema) => check({ resolve, schema, value, where }));
    if (!tried.some((found) => found.length === 0)) faults.push(...(tried[0] ?? []));
  }
  if (typeof value === "string") {
    if (typeof pattern === "string" && !new RegExp(pattern).test(value))
      faults.push(`${where}: "${value}" does not match ${pattern}`);
    if (format === "date-time" && new Date(value).toISOString() !== value)
      faults.push(`${where}: "${value}" is no time`);
  }
  if (typeof value === "number" && typeof minimum === "number" && value < minimum)
    faults.push(`${where}: ${value} is less than ${minimum}`);
  if (Array.isArray(value) && schema.items !== undefined) {
    for (const [index, item] of value.entries())
      faults.push(
        ...check({ resolve, schema: schema.items as Schema, value: item, where: `${where}[${index}]` }),
      );
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    faults.push(...checkObject(place, schema));
  return faults;
}

function checkObject({ resolve, value, where }: Place, schema: Schema): string[] {
  const fields = value as Readonly<Record<string, unknown>>;
  const properties = (schema.properties ?? {}) as Readonly<Record<string, Schema>>;
  const required = (schema.required ?? []) as readonly string[];
  const faults = required.filter((name) => !(name in fields)).map((name) => `${where}.${name} is missing`);
  for (const [name, field] of Object.entries(fields)) {
    const known = properties[name];
    const rest = schema.additionalProperties;
    if (known !== undefined)
      faults.push(...check({ resolve, schema: known, value: field, where: `${where}.${name}` }));
    else if (rest === false) faults.push(`${where}.${name} is not in the schema`);
    else if (typeof rest === "object" && rest !== null)
      faults.push(...check({ resolve, schema: rest as Schema, value: field, where: `${where}.${name}` }));
  }
  return faults;
}

function typeName(value: unknown, wanted: readonly string[]): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return "no number";
    return Number.isInteger(value) && wanted.includes("integer") ? "integer" : "number";
  }
  return typeof value;
}
