// SPDX-License-Identifier: Apache-2.0
// Which versions of the CNI spec are served, in a call and so in a chain; and which one a runtime takes of several.

/** Versions of the configuration the agent speaks, oldest first. Source: containernetworking/cni pkg/version, All */
export const supportedCniVersions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;

/** What a configuration without one has. Source: containernetworking/cni pkg/version/plugin.go, ParseVersion */
export const defaultCniVersion = "0.1.0";

export function isSupportedVersion(version: string): boolean {
  return supportedCniVersions.some((supported) => supported === version);
}

/** Results up to 0.2.0 have one address of each family, `ip4` and `ip6`, and no lists. Source: CNI spec 0.2.0, "Result" */
export function hasListResult(version: string): boolean {
  return version !== "0.1.0" && version !== "0.2.0";
}

/** Newest version that runtimes of today speak. Source: containernetworking/cni pkg/version, Current */
const newest = "1.1.0";

/**
 * The version in which a runtime calls the plugins of a list: the highest of `cniVersion` and `cniVersions` that it speaks.
 * @returns "" where the list names none @throws Error with the reason why a runtime refuses the list
 * Source: containernetworking/cni libcni/conf.go, NetworkConfFromBytes
 */
export function chosenVersion(cniVersion: unknown, cniVersions: unknown): string {
  const one = cniVersion ?? "";
  if (typeof one !== "string") throw new Error('"cniVersion" is no string');
  if (cniVersions === undefined) return one;
  if (!Array.isArray(cniVersions)) throw new Error('"cniVersions" is no list');
  const named = (cniVersions as unknown[]).map((version) => {
    if (typeof version !== "string") throw new Error('"cniVersions" holds something other than strings');
    return version;
  });
  const spoken = [...named, ...(one === "" ? [] : [one])]
    .map((version) => ({ version, parts: versionParts(version) }))
    .filter(({ parts }) => compareParts(parts, versionParts(newest)) <= 0)
    .sort((a, b) => compareParts(a.parts, b.parts));
  return spoken.at(-1)?.version ?? one;
}

type Parts = readonly [number, number, number];

function versionParts(version: string): Parts {
  if (version === "") return [0, 1, 0];
  const parts = version.split(".");
  if (parts.length > 3 || parts.some((part) => !/^[+-]?\d+$/.test(part)))
    throw new Error(`"${version}" is no version`);
  const [major = 0, minor = 0, micro = 0] = parts.map(Number);
  return [major, minor, micro];
}

function compareParts(a: Parts, b: Parts): number {
  return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
}
