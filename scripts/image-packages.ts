// SPDX-License-Identifier: Apache-2.0
// Takes programs out of this machine's Debian packages, with the libraries they need and the papers they came with.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { TarEntry } from "./image-tar.ts";

/** A file of this machine as an entry of the image, under the same path below /usr. */
export function machineFile(path: string, { mode }: { mode?: number } = {}): TarEntry {
  const place = join(realpathSync(dirname(path)), basename(path));
  const isExecutable = (statSync(path).mode & 0o111) !== 0;
  return {
    path: place.slice(1),
    kind: "file",
    data: readFileSync(path),
    mode: mode ?? (isExecutable ? 0o755 : 0o644),
  };
}

/**
 * Paths of the shared libraries that programs and modules need, the loader included; sorted.
 * @throws Error when one of them is not on this machine
 * Source: ldd(1)
 */
export function neededLibraries(paths: readonly string[]): string[] {
  const found = new Set<string>();
  for (const line of execFileSync("ldd", paths, { encoding: "utf8" }).split("\n")) {
    if (line.includes("not found")) throw new Error(`Cannot take "${paths.join(" ")}": ${line.trim()}`);
    const library = /(?:=> |^\s+)(\/\S+) \(0x/.exec(line)?.[1];
    if (library !== undefined) found.add(library);
  }
  return [...found].sort();
}

/** Names of the packages that own files of this machine; files of nobody are left out. Source: dpkg-query(1), -S */
export function owningPackages(paths: readonly string[]): string[] {
  // dpkg knows a library by the path it had before /lib became a link
  const names = paths.flatMap((path) => [path, path.replace(/^\/usr\//, "/"), `/usr${path}`]);
  const { stdout, error } = spawnSync("dpkg-query", ["-S", ...names], {
    encoding: "utf8",
    maxBuffer: 1 << 24,
  });
  if (error !== undefined) throw new Error(`Cannot ask dpkg who owns the image's files: ${error.message}`);
  const owners = new Set<string>();
  for (const line of stdout.split("\n")) {
    const owner = /^([a-z0-9.+-]+)(?::[a-z0-9]+)?: \//.exec(line)?.[1];
    if (owner !== undefined) owners.add(owner);
  }
  return [...owners].sort();
}

/**
 * Licence and description of packages: the first is owed to their authors, the second tells scanners what is inside.
 * Without a dpkg database of its own, an image describes each package in a file below status.d.
 */
export function packagePapers(packages: readonly string[]): TarEntry[] {
  return packages.flatMap((name) => {
    const entries: TarEntry[] = [];
    const copyright = `/usr/share/doc/${name}/copyright`;
    if (existsSync(copyright)) {
      const data = readFileSync(copyright);
      entries.push({ path: copyright.slice(1), kind: "file", data, mode: 0o644 });
    }
    const status = execFileSync("dpkg-query", ["-s", name], { encoding: "utf8" });
    entries.push({
      path: `var/lib/dpkg/status.d/${name}`,
      kind: "file",
      data: Buffer.from(status.trimEnd().concat("\n")),
      mode: 0o644,
    });
    return entries;
  });
}
