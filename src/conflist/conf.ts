// SPDX-License-Identifier: Apache-2.0
// What a runtime takes out of a CNI configuration file, and why it would refuse one.
import { chosenVersion } from "./cni-versions.ts";
import { type ConfDocument, isObject, type JsonObject, parseDocument } from "./conf-document.ts";
import type { ConfText } from "./conf-text.ts";

/** A configuration that a runtime would load. */
export interface Conf extends ConfDocument {
  /** Name of the file. */
  readonly name: string;
  /** `single`: one plugin, as `.conf` and `.json` hold it; `list`: a chain. */
  readonly kind: "single" | "list";
  /** Name of the network; empty where a single plugin has none. */
  readonly network: string;
  /** Version in which its plugins are called; empty where it names none. */
  readonly cniVersion: string;
  /** Types of the chain's plugins in their order, those of its parts behind its own. */
  readonly types: readonly string[];
  /** Its plugins that lie in files of their own, in the folder of the network's name. */
  readonly parts: readonly ConfPart[];
}

/** A plugin of a chain in a file of its own. */
export interface ConfPart extends ConfDocument {
  /** `NETWORK/FILE.conf`. */
  readonly name: string;
  readonly type: string;
}

/** The files of a network's folder, in their order. @throws Error with the reason when one of them cannot be read */
export type PartFiles = (network: string) => readonly (readonly [name: string, text: ConfText])[];

const noParts: PartFiles = () => [];

/**
 * Checks a configuration file the way libcni does.
 * @throws Error with the reason why a runtime refuses it
 * Source: containernetworking/cni libcni/conf.go, NetworkConfFromFile and NetworkPluginConfFromBytes
 */
export function parseConf(name: string, text: ConfText, partFiles: PartFiles = noParts): Conf {
  const document = parseDocument(text);
  const { value } = document;
  if (name.endsWith(".conflist")) return { ...document, name, kind: "list", ...readList(value, partFiles) };
  const fault = pluginFault(value);
  if (fault !== undefined) throw new Error(fault);
  const { name: network, cniVersion } = value;
  return {
    ...document,
    name,
    kind: "single",
    network: typeof network === "string" ? network : "",
    cniVersion: typeof cniVersion === "string" ? cniVersion : "",
    types: [typeOf(value)],
    parts: [],
  };
}

/** Whether it is a list without plugins of its own: all of them are parts. */
export function isMadeOfParts({ kind, value }: Conf): boolean {
  return kind === "list" && !("plugins" in value);
}

type ReadList = Pick<Conf, "network" | "cniVersion" | "types" | "parts">;

function readList(list: JsonObject, partFiles: PartFiles): ReadList {
  if (typeof list.name !== "string") throw new Error('it has no "name"');
  if ("cniVersion" in list && typeof list.cniVersion !== "string")
    throw new Error('"cniVersion" is no string');
  const cniVersion = chosenVersion(list.cniVersion, list.cniVersions);
  readBoolean(list, "disableCheck");
  readBoolean(list, "disableGC");
  const onlyInline = readBoolean(list, "loadOnlyInlinedPlugins");
  if (onlyInline && !("plugins" in list))
    throw new Error('it has no list "plugins", and "loadOnlyInlinedPlugins" is true');
  const inline = "plugins" in list ? inlineTypes(list.plugins) : [];
  const parts = onlyInline ? [] : partFiles(list.name).map(([name, text]) => parsePart(name, text));
  const types = [...inline, ...parts.map(({ type }) => type)];
  if (types.length === 0)
    throw new Error(`it has no list "plugins", and no file lies in the folder "${list.name}" beside it`);
  return { network: list.name, cniVersion, types, parts };
}

function inlineTypes(plugins: unknown): string[] {
  if (!Array.isArray(plugins)) throw new Error('it has no list "plugins"');
  if (plugins.length === 0) throw new Error('"plugins" is empty');
  for (const [index, plugin] of (plugins as unknown[]).entries()) {
    const fault = isObject(plugin) ? pluginFault(plugin) : "is no object";
    if (fault !== undefined) throw new Error(`plugin ${index + 1}: ${fault}`);
  }
  return (plugins as JsonObject[]).map((plugin) => typeOf(plugin));
}

function parsePart(name: string, text: ConfText): ConfPart {
  try {
    const document = parseDocument(text);
    const fault = pluginFault(document.value);
    if (fault !== undefined) throw new Error(fault);
    return { ...document, name, type: typeOf(document.value) };
  } catch (error) {
    throw new Error(`its plugin "${name}" cannot be loaded: ${(error as Error).message}`, { cause: error });
  }
}

function readBoolean(list: JsonObject, key: string): boolean {
  const value = list[key];
  if (value === undefined || typeof value === "boolean") return value === true;
  if (typeof value !== "string" || !/^(true|false)$/i.test(value))
    throw new Error(`"${key}" is neither true nor false`);
  return /^true$/i.test(value);
}

type Check = (value: unknown) => boolean;

const isString: Check = (value) => typeof value === "string";
const isStrings: Check = (value) =>
  Array.isArray(value) && value.every((item) => item === null || isString(item));

/** What Go decodes of a plugin, by its key in small letters. Source: containernetworking/cni pkg/types, PluginConf */
const pluginKeys = new Map<string, readonly [Check, string]>(
  Object.entries({
    cniversion: [isString, "is no string"],
    name: [isString, "is no string"],
    type: [isString, "is no string"],
    capabilities: [
      (value) =>
        isObject(value) && Object.values(value).every((item) => item === null || typeof item === "boolean"),
      "holds something other than true and false",
    ],
    ipam: [(value) => isObject(value) && holds(value, { type: isString }), "is no object with a type"],
    dns: [
      (value) =>
        isObject(value) &&
        holds(value, { nameservers: isStrings, domain: isString, search: isStrings, options: isStrings }),
      "is no object of lists",
    ],
    prevresult: [isObject, "is no object"],
  }),
);

function pluginFault(plugin: JsonObject): string | undefined {
  if (typeOf(plugin) === "") return 'it has no "type"';
  for (const [key, value] of Object.entries(plugin)) {
    const [check, fault] = pluginKeys.get(key.toLowerCase()) ?? [];
    if (check !== undefined && value !== null && !check(value)) return `"${key}" ${fault}`;
  }
  return undefined;
}

/** Go's decoder takes keys in any case, and `null` for whatever is wanted. */
function holds(object: JsonObject, checks: Readonly<Record<string, Check>>): boolean {
  return Object.entries(object).every(
    ([key, value]) =>
      value === null ||
      !Object.hasOwn(checks, key.toLowerCase()) ||
      checks[key.toLowerCase()]?.(value) === true,
  );
}

/** Type of a plugin, or "". Go's decoder takes keys in any case, the last one wins. */
function typeOf(plugin: JsonObject): string {
  let found = "";
  for (const [key, value] of Object.entries(plugin)) {
    if (key.toLowerCase() === "type" && typeof value === "string") found = value;
  }
  return found;
}
