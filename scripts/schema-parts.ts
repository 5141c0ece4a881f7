// SPDX-License-Identifier: Apache-2.0
// Parts of a JSON Schema, put together. Pure.

/** A schema, or a part of one. */
export type Schema = Readonly<Record<string, unknown>>;

export const nullSchema: Schema = { type: "null" };

/** Any of these, as short as it can be said. */
export function union(parts: readonly Schema[]): Schema {
  const rest = parts.filter((part) => part !== nullSchema);
  const isNullable = rest.length < parts.length;
  const values = rest.flatMap((part) => (Array.isArray(part.enum) ? part.enum : []));
  if (values.length > 0 && rest.every((part) => "enum" in part))
    return { enum: isNullable ? [...values, null] : values };
  const [only] = rest;
  if (rest.length === 1 && isNullable && typeof only?.type === "string")
    return { ...only, type: [only.type, "null"] };
  return { anyOf: isNullable ? [...rest, nullSchema] : rest };
}

/** A type with what its alias' tags say of it. @throws Error for a tag that is not known */
export function scalar(
  base: Schema,
  tags: readonly { readonly name: string; readonly text?: string | undefined }[],
): Schema {
  let schema = base;
  for (const { name, text = "" } of tags) {
    if (name === "integer") schema = { ...schema, type: "integer" };
    else if (name === "minimum") schema = { ...schema, minimum: Number(text) };
    else if (name === "format" || name === "pattern") schema = { ...schema, [name]: text.trim() };
    else throw new Error(`Cannot make a schema of a type with the tag "@${name}"`);
  }
  return schema;
}
