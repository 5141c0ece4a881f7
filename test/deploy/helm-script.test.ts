// SPDX-License-Identifier: Apache-2.0
// How scripts/helm.sh says what a machine lacks; that it builds is seen by chart.test.ts.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";

const script = join(import.meta.dirname, "../../scripts/helm.sh");

function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), "helm-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** A PATH with what the script needs, and nothing that could bring Go. */
function barePath(): string {
  const bin = scratch();
  for (const name of [
    "sh",
    "dirname",
    "cat",
    "cksum",
    "cut",
    "mkdir",
    "flock",
    "mktemp",
    "rm",
    "tail",
    "id",
  ]) {
    const { stdout } = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" });
    symlinkSync(stdout.trim(), join(bin, name));
  }
  return bin;
}

function runScript(env: Record<string, string>) {
  const { status, stdout, stderr } = spawnSync("sh", [script], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  return { status, stdout, said: stderr.trim().split("\n") };
}

test("without Go, and without means to bring it, there is no Helm, which is said in one sentence", () => {
  const env = { PATH: barePath(), GO_FOLDER: scratch(), HELM_DIR: scratch(), DEBIAN_ROOTS_DIR: scratch() };
  const why = "there is no Go 1.24 here, and debian-root: Cannot bring packages of Debian trixie: ";
  expect(runScript(env)).toEqual({
    status: 3,
    stdout: "",
    said: [expect.stringMatching(new RegExp(`^helm: Cannot build Helm for tests: ${why}`))],
  });
});

test("without its modules there is no Helm, and Go's own words say why; nothing half built is left", () => {
  const dir = scratch();
  // Go itself is brought by the script where this machine has none
  const env = { GOPROXY: "off", GOMODCACHE: scratch(), GOFLAGS: "-modcacherw", HELM_DIR: dir };
  const { status, said } = runScript(env);
  expect({ status, said }).toEqual({
    status: 3,
    said: [
      expect.stringMatching(/^helm: Cannot build Helm for tests: its modules cannot be had: .*GOPROXY=off/),
    ],
  });
  expect(readdirSync(dir)).toEqual(["lock"]);
});

test("a relative folder is refused", () => {
  expect(runScript({ HELM_DIR: "here" })).toMatchObject({
    status: 1,
    said: [expect.stringContaining('"here"')],
  });
});
