// SPDX-License-Identifier: Apache-2.0
// Which files of the run directory are ours to take away.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { cleanFiles, lookAtFiles } from "../../src/uninstall/node-cleanup-files.ts";

let runDir: string;

beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), "node-cleanup-"));
});
afterEach(() => rmSync(runDir, { recursive: true, force: true }));

test("cleanFiles takes away what the agent keeps, sandboxes with all their files, and nothing of others", async () => {
  mkdirSync(join(runDir, "sandboxes"));
  for (const name of [
    "sandboxes/c1.json",
    "sandboxes/.c1.7",
    "exempt-namespaces",
    "iptables-backend.json",
    "sandboxes.old",
  ])
    writeFileSync(join(runDir, name), "");
  const options = { runDir, ztunnelSocketPath: join(runDir, "ztunnel.sock") };
  expect((await lookAtFiles(options)).map((path) => path.slice(runDir.length + 1)).sort()).toEqual([
    "exempt-namespaces",
    "iptables-backend.json",
    "sandboxes",
  ]);
  const { removed, failed } = await cleanFiles(options);
  expect([removed.length, failed]).toEqual([3, []]);
  expect(readdirSync(runDir)).toEqual(["sandboxes.old"]);
  expect(await cleanFiles(options)).toEqual({ removed: [], failed: [] });
});
