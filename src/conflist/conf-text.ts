// SPDX-License-Identifier: Apache-2.0
// What a runtime reads out of a CNI configuration file, and why it would refuse one.

/**
 * The bytes of a configuration file as text with one character per byte (latin1), so that writing it back gives
 * the same bytes whatever they are; JSON's own characters are ASCII.
 */
export type ConfText = string;

/** Bytes of a file as {@link ConfText}. */
export function confTextOf(bytes: Uint8Array): ConfText {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

/** The bytes a {@link ConfText} stands for. */
export function confBytes(text: ConfText): Buffer {
  return Buffer.from(text, "latin1");
}

/** JSON value of (a part of) a configuration file. @throws SyntaxError */
export function confValue(text: ConfText): unknown {
  return JSON.parse(confBytes(text).toString("utf8"));
}

/** A configuration that a runtime would load. */
export interface ParsedConf {
  /** `single`: one plugin, as `.conf` and `.json` hold it; `list`: a chain. */
  readonly kind: "single" | "list";
  /** Name of the network; empty where a single plugin has none. */
  readonly network: string;
  /** Types of the chain's plugins in their order. */
  readonly types: readonly string[];
}

type JsonObject = Readonly<Record<string, unknown>>;

/** Names of files that runtimes read. Source: containerd/go-cni opts.go, loadFromConfDir */
export function isConfName(fileName: string): boolean {
  return /\.(conf|conflist|json)$/.test(fileName);
}

/**
 * Checks a configuration file the way libcni does.
 * @throws Error with the reason why a runtime refuses it
 * Source: containernetworking/cni libcni/conf.go, NetworkConfFromBytes and NetworkPluginConfFromBytes
 */
export function parseConf(fileName: string, text: ConfText): ParsedConf {
  // Go's decoder takes no byte order mark, and refuses an empty file
  const value: unknown = JSON.parse(text);
  if (!isObject(value)) throw new Error("it holds no JSON object");
  if (fileName.endsWith(".conflist")) return parseList(value);
  const plugin = pluginFault(value);
  if (plugin !== undefined) throw new Error(plugin);
  return {
    kind: "single",
    network: typeof value.name === "string" ? value.name : "",
    types: [typeOf(value)],
  };
}

function parseList(list: JsonObject): ParsedConf {
  if (typeof list.name !== "string") throw new Error('it has no "name"');
  if ("cniVersion" in list && typeof list.cniVersion !== "string")
    throw new Error('"cniVersion" is no string');
  for (const key of ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"]) {
    const value = list[key];
    if (value === undefined || typeof value === "boolean") continue;
    if (typeof value !== "string" || !/^(true|false)$/i.test(value)) {
      throw new Error(`"${key}" is neither true nor false`);
    }
  }
  const plugins = list.plugins;
  if (!Array.isArray(plugins)) throw new Error('it has no list "plugins"');
  if (plugins.length === 0) throw new Error('"plugins" is empty');
  for (const [index, plugin] of plugins.entries()) {
    const fault = isObject(plugin) ? pluginFault(plugin) : "is no object";
    if (fault !== undefined) throw new Error(`plugin ${index + 1}: ${fault}`);
  }
  return { kind: "list", network: list.name, types: plugins.map((plugin) => typeOf(plugin)) };
}

function pluginFault(plugin: JsonObject): string | undefined {
  if (typeOf(plugin) === "") return 'it has no "type"';
  for (const key of ["cniVersion", "name"]) {
    const value = plugin[key] ?? "";
    if (typeof value !== "string") return `"${key}" is no string`;
  }
  const capabilities = plugin.capabilities ?? {};
  if (!isObject(capabilities) || Object.values(capabilities).some((wanted) => typeof wanted !== "boolean")) {
    return '"capabilities" holds something other than true and false';
  }
  return isObject(plugin.ipam ?? {}) ? undefined : '"ipam" is no object';
}

/** Type of a plugin, or "". Go's decoder takes keys in any case, the last one wins. */
function typeOf(plugin: JsonObject): string {
  let found = "";
  for (const [key, value] of Object.entries(plugin)) {
    if (key.toLowerCase() === "type" && typeof value === "string") found = value;
  }
  return found;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
