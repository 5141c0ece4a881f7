// SPDX-License-Identifier: Apache-2.0
// What may run on the machine of whoever builds this: nothing of a package at its installation, and each package is the one that
// the lock file names.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const read = (path: string) => readFileSync(join(root, path), "utf8");

interface Locked {
  readonly version?: string;
  readonly integrity?: string;
  readonly hasInstallScript?: boolean;
  readonly link?: boolean;
}

const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, Locked> };
const locked = Object.entries(lock.packages).filter(([path]) => path !== "");

/** Packages with a script that npm would run at their installation; setup runs none of them. */
const listed: Readonly<Record<string, string>> = {
  "node_modules/esbuild": "puts its program in the place of a script that starts it: saves time only",
  "node_modules/protobufjs": "prints a warning about version numbers",
};

/** What npm runs. Source: npm docs, "Life Cycle Operation Order" of npm ci; a binding.gyp alone has npm call node-gyp. */
function installScriptsOf(path: string): string[] {
  const { scripts = {} } = JSON.parse(read(join(path, "package.json"))) as {
    scripts?: Record<string, string>;
  };
  const named = ["preinstall", "install", "postinstall", "prepare"].filter(
    // a package that came from a registry is not prepared
    (name) => name !== "prepare" && name in scripts,
  );
  return existsSync(join(root, path, "binding.gyp")) && !("install" in scripts)
    ? [...named, "binding.gyp"]
    : named;
}

test("the packages that the lock file knows to have install scripts are those that are listed", () => {
  const found = locked.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path);
  expect(found).toEqual(Object.keys(listed));
});

test("and so are those that are here, whatever the lock file says", () => {
  const installed = locked.filter(([path]) => existsSync(join(root, path, "package.json")));
  expect(installed.length).toBeGreaterThan(100);
  const found = installed.filter(([path]) => installScriptsOf(path).length > 0).map(([path]) => path);
  expect(found).toEqual(Object.keys(listed));
});

test("every package has a version and a digest in the lock file, and is no link", () => {
  const without = locked.filter(
    ([, { version, integrity, link }]) =>
      link === true || version === undefined || !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity ?? ""),
  );
  expect(without).toEqual([]);
});

test("every dependency is named by one version", () => {
  const manifest = JSON.parse(read("package.json"));
  for (const group of ["dependencies", "devDependencies", "optionalDependencies"])
    for (const [name, version] of Object.entries(manifest[group] as Record<string, string>))
      expect([name, version]).toEqual([name, expect.stringMatching(/^\d+\.\d+\.\d+$/)]);
});

describe("no script of a package is run", () => {
  test.each(["scripts/setup.sh", "deploy/Dockerfile"])("by %s", (path) => {
    const installs = read(path).match(/npm (?:ci|install) (?:--\S+|"\$tool")[^\n]*/g) ?? [];
    expect(installs.length).toBeGreaterThan(0);
    for (const line of installs) expect(line).toContain("--ignore-scripts");
  });
});

test("the image is built from images that are named by digest", () => {
  const dockerfile = read("deploy/Dockerfile");
  const args = new Map(
    Array.from(dockerfile.matchAll(/^ARG (\w+)=(\S+)$/gm), ([, name, value]) => [name, value]),
  );
  const bases = Array.from(dockerfile.matchAll(/^FROM (\S+)/gm), ([, base = ""]) =>
    base.replace(/^\$\{(\w+)\}$/, (_, name) => args.get(name) ?? ""),
  );
  expect(bases).toHaveLength(2);
  for (const base of bases) expect(base).toMatch(/^scratch$|^\S+:\S+@sha256:[0-9a-f]{64}$/);
});
