// SPDX-License-Identifier: Apache-2.0
// Builds everything twice, in two folders that have nothing in common but the sources, and fails where the results differ.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const root = join(import.meta.dirname, "..");

/** A build, by what must not show in its result. */
interface Surroundings {
  readonly folder: string;
  readonly umask: number;
  readonly env: Readonly<Record<string, string>>;
}

const artefacts = [
  "dist/ambient-cni.js",
  "dist/ambient.node",
  "dist/bundled-packages.json",
  "plugin/build/ambient-cni",
  "native/build/ambient.node",
  "image.tar",
];

/** Sources as they are here: what git knows, with changes that are not committed, and nothing that was built. */
function copySources(folder: string): void {
  const names = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  for (const name of names
    .split("\0")
    .filter((each) => each !== "" && statSync(join(root, each), { throwIfNoEntry: false }))) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    cpSync(join(root, name), join(folder, name));
  }
  // a copy, for a link would lead both builds to the same place
  execFileSync("cp", ["-al", join(root, "node_modules"), join(folder, "node_modules")]);
}

/** @returns digests by name */
function build({ folder, umask, env }: Surroundings): Map<string, string> {
  copySources(folder);
  const node = join(folder, "node_modules/.bin/node");
  const run = (file: string, ...args: string[]): string => {
    const command = `umask ${umask.toString(8)} && exec "$@"`;
    return execFileSync("/bin/sh", ["-c", command, "sh", file, ...args], {
      cwd: folder,
      encoding: "utf8",
      env: { PATH: `${join(folder, "node_modules/.bin")}:${process.env.PATH}`, ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
  };
  run("make", "-s", "-C", "plugin");
  run("make", "-s", "-C", "native");
  run(node, "scripts/bundle.ts");
  const facts = JSON.parse(
    run(node, "scripts/build-image.ts", "--json", "--output", join(folder, "image.tar")),
  );
  const digests = new Map<string, string>(artefacts.map((name) => [name, digestOf(join(folder, name))]));
  digests.set("image.tar.cdx.json", digestOf(join(folder, "image.tar.cdx.json")));
  digests.set("image manifest", facts.digest);
  for (const [index, digest] of (facts.layers as string[]).entries())
    digests.set(`image layer ${index}`, digest);
  return digests;
}

function digestOf(path: string): string {
  return `sha256:${createHash("sha256").update(readFileSync(path)).digest("hex")}`;
}

function main(): number {
  const base = mkdtempSync(join(tmpdir(), "reproduce-"));
  try {
    const short = join(base, "a");
    const long = join(base, "another folder".replace(" ", "-").repeat(6), "with/depth");
    mkdirSync(short);
    mkdirSync(long, { recursive: true });
    // the name that a build is started by may be a link's
    symlinkSync(long, join(base, "link"));
    const first = build({ folder: short, umask: 0o022, env: { HOME: base, LC_ALL: "C", TZ: "UTC" } });
    const second = build({
      folder: join(base, "link"),
      umask: 0o077,
      env: { HOME: "/nonexistent", LC_ALL: "C.UTF-8", TZ: "Asia/Kathmandu", USER: "somebody" },
    });
    let differing = 0;
    for (const [name, digest] of first) {
      const isSame = second.get(name) === digest;
      if (!isSame) differing++;
      process.stdout.write(`${isSame ? "same  " : "DIFFER"}  ${name.padEnd(26)}  ${digest}\n`);
      if (!isSame) process.stdout.write(`${" ".repeat(36)}${second.get(name)}\n`);
    }
    process.stdout.write(
      differing === 0 ? "two builds, one result\n" : `${differing} of ${first.size} results differ\n`,
    );
    return differing === 0 ? 0 : 1;
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
}

process.exitCode = main();
