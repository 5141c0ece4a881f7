// SPDX-License-Identifier: Apache-2.0
// What scripts/release.sh refuses to release, in a clone of this project; what it makes is made by scripts with tests of their own.
import { spawnSync } from "node:child_process";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const base = mkdtempSync(join(tmpdir(), "release-"));
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
const key = join(base, "key");
writeFileSync(key, "");
afterAll(() => rmSync(base, { recursive: true }));

let clone: string;
let count = 0;

function git(...args: readonly string[]): string {
  const identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"];
  const { status, stdout, stderr } = spawnSync("git", ["-C", clone, ...identity, ...args], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`git ${args.join(" ")}: ${stderr}`);
  return stdout;
}

function replace(path: string, from: string | RegExp, to: string): void {
  const text = readFileSync(join(clone, path), "utf8");
  expect(text).toMatch(from);
  writeFileSync(join(clone, path), text.replace(from, to));
}

/** The version of this project, ready to be released but for what a test takes away. */
beforeEach(() => {
  clone = join(base, `clone-${++count}`);
  // the scripts as they are in this folder, committed or not
  spawnSync("git", ["init", "-q", clone]);
  for (const path of ["package.json", "CHANGELOG.md", "deploy/chart/Chart.yaml", "scripts/release.sh"]) {
    spawnSync("install", ["-D", join(root, path), join(clone, path)]);
  }
  replace("CHANGELOG.md", new RegExp(`^## ${version}.*$`, "m"), `## ${version}, 2030-01-01`);
  git("add", "-A");
  git("commit", "-q", "-m", "release");
  git("tag", `v${version}`);
});

function release(...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync("sh", [join(clone, "scripts/release.sh"), ...args], {
    encoding: "utf8",
  });
  return { status, said: stderr.trim(), stdout };
}

test.each<[string, () => void, RegExp]>([
  [
    "what is not committed",
    () => appendFileSync(join(clone, "package.json"), "\n"),
    /changes that are not committed/,
  ],
  [
    "a file that nobody added",
    () => writeFileSync(join(clone, "scripts/new.sh"), ""),
    /changes that are not committed/,
  ],
  ["a commit without the version's tag", () => git("tag", "-d", `v${version}`), /not tagged v/],
  ["a commit after the tag", () => git("commit", "-q", "--allow-empty", "-m", "later"), /not tagged v/],
  [
    "a chart of another version",
    () => {
      replace("deploy/chart/Chart.yaml", /^appVersion: .*$/m, "appVersion: 9.9.9");
      git("commit", "-q", "-a", "-m", "chart");
      git("tag", "-f", `v${version}`);
    },
    /has appVersion 9\.9\.9, package\.json has/,
  ],
  [
    "what the changelog does not call released",
    () => {
      replace("CHANGELOG.md", ", 2030-01-01", ", not released yet");
      git("commit", "-q", "-a", "-m", "changelog");
      git("tag", "-f", `v${version}`);
    },
    /"\d.*not released yet": put the day/,
  ],
  [
    "what the changelog does not name",
    () => {
      replace("CHANGELOG.md", `## ${version}`, "## next");
      git("commit", "-q", "-a", "-m", "changelog");
      git("tag", "-f", `v${version}`);
    },
    /CHANGELOG\.md has no "## \d/,
  ],
])("refuses %s, in one sentence", (_, spoil, message) => {
  spoil();
  const { status, said, stdout } = release(key, join(base, "out"));
  expect([status, stdout]).toEqual([1, ""]);
  expect(said.split("\n")).toEqual([expect.stringMatching(/^release: /)]);
  expect(said).toMatch(message);
});

test("takes a version that is ready, and ends where it cannot be built", () => {
  // the clone has no sources: all that stands before the builds has been passed
  expect(release(key, join(base, "out"))).toMatchObject({
    status: 1,
    said: expect.stringMatching(/two builds differ/),
  });
});

test("refuses a key that is not there, and says how it is called", () => {
  expect(release(join(base, "none"), base)).toMatchObject({
    status: 1,
    said: expect.stringContaining("there is no key"),
  });
  expect(release()).toMatchObject({
    status: 2,
    said: "usage: release.sh KEY FOLDER     KEY: as for sign-image.sh",
  });
});
