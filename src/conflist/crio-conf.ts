// SPDX-License-Identifier: Apache-2.0
// The two settings of CRI-O that decide about the chain, out of the text of its configuration files. Pure.

/** What CRI-O's `[crio.network]` says; undefined: nothing. Source: cri-o docs/crio.conf.5.md */
export interface CrioSettings {
  /** `cni_default_network`; empty: the first network by file name. */
  readonly defaultNetwork?: string;
  /** `network_dir`, a folder on the host. */
  readonly networkDir?: string;
}

const names = new Map<string, keyof CrioSettings>([
  ["crio.network.cni_default_network", "defaultNetwork"],
  ["crio.network.network_dir", "networkDir"],
]);

/** Reads one file; what is not understood in it is passed over. Source: TOML 1.0, https://toml.io/en/v1.0.0 */
export function parseCrioConf(text: string): CrioSettings {
  const found: Partial<Record<keyof CrioSettings, string>> = {};
  let table = "";
  let ending: string | undefined;
  for (const line of text.split(/\r?\n/)) {
    if (ending !== undefined) {
      if (line.includes(ending)) ending = undefined;
      continue;
    }
    const header = /^\s*\[\s*([^[\]]+?)\s*\]\s*(?:#.*)?$/.exec(line)?.[1];
    if (header !== undefined) table = keyOf(header);
    else if (/^\s*\[\[/.test(line)) table = "";
    const [, key, value] = /^\s*([\w."'\s-]+?)\s*=\s*(.*)$/.exec(line) ?? [];
    if (key === undefined || value === undefined) continue;
    ending = openEnding(value);
    const name = names.get([table, keyOf(key)].filter((part) => part !== "").join("."));
    const string = name === undefined ? undefined : stringOf(value);
    if (name !== undefined && string !== undefined) found[name] = string;
  }
  return found;
}

function keyOf(text: string): string {
  return text
    .split(".")
    .map((part) => part.trim().replaceAll(/^["']|["']$/g, ""))
    .join(".");
}

/** The mark that ends a string of several lines which begins here. */
function openEnding(value: string): string | undefined {
  const mark = /^("""|''')/.exec(value)?.[1];
  return mark === undefined || value.slice(3).includes(mark) ? undefined : mark;
}

function stringOf(value: string): string | undefined {
  const [, basic, literal] = /^(?:("(?:[^"\\]|\\.)*")|'([^']*)')\s*(?:#.*)?$/.exec(value) ?? [];
  if (basic === undefined) return literal;
  try {
    return String(JSON.parse(basic));
  } catch {
    return undefined;
  }
}
