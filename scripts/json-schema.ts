// SPDX-License-Identifier: Apache-2.0
// JSON Schema of a file's interfaces, as the compiler reads them: types are written once, and the schema follows.
import { SyntaxKind, type TypeNode, type TypeReferenceNode } from "typescript/unstable/ast";
import {
  isArrayTypeNode,
  isInterfaceDeclaration,
  isLiteralTypeNode,
  isNumericLiteral,
  isPropertySignatureDeclaration,
  isStringLiteral,
  isTypeAliasDeclaration,
  isTypeOperatorNode,
  isTypeReferenceNode,
  isUnionTypeNode,
} from "typescript/unstable/ast/is";
import { API, type Checker, type Project, type Symbol as TypeSymbol } from "typescript/unstable/sync";
import { nullSchema, type Schema, scalar, union } from "./schema-parts.ts";

/** What to make a schema of. */
export interface SchemaSource {
  /** Path of the tsconfig.json that the file belongs to. */
  readonly configPath: string;
  /** Files with the interfaces; those of others that they name are taken in. */
  readonly paths: readonly string[];
  /** Interfaces to begin with. */
  readonly roots: readonly string[];
  /** What an interface is called in the schema. */
  readonly nameOf: (interfaceName: string) => string;
}

/**
 * The `$defs` of a schema. An interface is a closed object, docstrings are descriptions, and an optional property may be absent.
 * A type alias with tags (`@integer`; `@minimum`, `@format` or `@pattern` with a value) is what they say of its type.
 * Source: JSON Schema 2020-12, Validation.
 * @throws Error for a type that has no schema here, naming where it stands
 */
export function schemaDefinitions({
  configPath,
  paths,
  roots,
  nameOf,
}: SchemaSource): Record<string, Schema> {
  const api = new API();
  try {
    const project = api.updateSnapshot({ openProjects: [configPath] }).getProject(configPath);
    const declared = paths.flatMap((path) => {
      const file = project?.program.getSourceFile(path);
      if (file === undefined)
        throw new Error(`Cannot make a schema of "${path}": "${configPath}" does not have it`);
      return file.statements.filter(isInterfaceDeclaration);
    });
    if (project === undefined) throw new Error(`Cannot read "${configPath}"`);
    const definitions = new Definitions(project, nameOf);
    for (const root of roots) {
      const name = declared.find((each) => each.name.text === root)?.name;
      const symbol = name && project.checker.getSymbolAtLocation(name);
      if (symbol === undefined)
        throw new Error(`Cannot make a schema of "${paths.join('", "')}": there is no interface "${root}"`);
      definitions.of(symbol);
    }
    return definitions.all;
  } finally {
    api.close();
  }
}

const keywords: ReadonlyMap<SyntaxKind, Schema> = new Map([
  [SyntaxKind.StringKeyword, { type: "string" }],
  [SyntaxKind.NumberKeyword, { type: "number" }],
  [SyntaxKind.BooleanKeyword, { type: "boolean" }],
]);

/** Definitions so far, each made when it is first named. */
class Definitions {
  readonly all: Record<string, Schema> = {};
  readonly #project: Project;
  readonly #checker: Checker;
  readonly #nameOf: (interfaceName: string) => string;

  constructor(project: Project, nameOf: (interfaceName: string) => string) {
    this.#project = project;
    this.#checker = project.checker;
    this.#nameOf = nameOf;
  }

  /** A reference to an interface, or what an alias stands for. */
  of(symbol: TypeSymbol): Schema {
    const declaration = symbol.declarations[0]?.resolve(this.#project);
    if (declaration !== undefined && isTypeAliasDeclaration(declaration))
      return this.#alias(symbol, declaration.type);
    if (declaration === undefined || !isInterfaceDeclaration(declaration))
      throw new Error(`Cannot make a schema of "${symbol.name}": it is no interface and no alias`);
    const name = this.#nameOf(symbol.name);
    if (!(name in this.all)) {
      // interfaces may name each other
      this.all[name] = {};
      this.all[name] = this.#object(symbol);
    }
    return { $ref: `#/$defs/${name}` };
  }

  #alias(symbol: TypeSymbol, node: TypeNode): Schema {
    const tags = symbol.getJsDocTags(this.#checker);
    if (tags.length > 0) return scalar(this.#node(node, symbol.name), tags);
    // the members of a constant, `(typeof words)[number]`, stand in no node
    const type = this.#checker.getDeclaredTypeOfSymbol(symbol);
    const members = type.isUnionType() ? type.getTypes() : [];
    const words = members.flatMap((each) => (each.isStringLiteralType() ? [each.value] : []));
    const isWords = words.length > 0 && words.length === members.length;
    return isWords ? { enum: words } : this.#node(node, symbol.name);
  }

  #object(symbol: TypeSymbol): Schema {
    const properties: Record<string, Schema> = {};
    const required: string[] = [];
    for (const property of this.#checker.getPropertiesOfType(this.#checker.getDeclaredTypeOfSymbol(symbol))) {
      const where = `${symbol.name}.${property.name}`;
      const declaration = property.valueDeclaration?.resolve(this.#project);
      if (declaration === undefined || !isPropertySignatureDeclaration(declaration) || !declaration.type)
        throw new Error(`Cannot make a schema of "${where}": it is no property with a type`);
      if (declaration.postfixToken === undefined) required.push(property.name);
      properties[property.name] = { ...this.#description(property), ...this.#node(declaration.type, where) };
    }
    return {
      ...this.#description(symbol),
      type: "object",
      additionalProperties: false,
      required,
      properties,
    };
  }

  #description(symbol: TypeSymbol): Schema {
    const description = symbol.getDocumentationComment(this.#checker).replaceAll("\n", " ");
    return description === "" ? {} : { description };
  }

  #node(node: TypeNode, where: string): Schema {
    const keyword = keywords.get(node.kind);
    if (keyword !== undefined) return keyword;
    // readonly
    if (isTypeOperatorNode(node)) return this.#node(node.type, where);
    if (isArrayTypeNode(node)) return { type: "array", items: this.#node(node.elementType, where) };
    if (isUnionTypeNode(node)) return union(node.types.map((each) => this.#node(each, where)));
    if (isTypeReferenceNode(node)) return this.#reference(node, where);
    if (isLiteralTypeNode(node)) {
      const { literal } = node;
      if (literal.kind === SyntaxKind.NullKeyword) return nullSchema;
      if (isStringLiteral(literal)) return { enum: [literal.text] };
      if (isNumericLiteral(literal)) return { enum: [Number(literal.text)] };
    }
    throw new Error(`Cannot make a schema of "${where}": ${SyntaxKind[node.kind]} has none here`);
  }

  #reference({ typeName, typeArguments }: TypeReferenceNode, where: string): Schema {
    const symbol = this.#checker.getSymbolAtLocation(typeName);
    const [first, second] = typeArguments ?? [];
    if (symbol?.name === "Readonly" && first !== undefined) return this.#node(first, where);
    if (symbol?.name === "Record" && second !== undefined)
      return { type: "object", additionalProperties: this.#node(second, where) };
    if (symbol === undefined) throw new Error(`Cannot make a schema of "${where}": its type is not known`);
    const isImported = symbol.declarations[0]?.kind === SyntaxKind.ImportSpecifier;
    return this.of(isImported ? this.#checker.getAliasedSymbol(symbol) : symbol);
  }
}
