// SPDX-License-Identifier: Apache-2.0
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import type { Action } from "../../src/conflist/conf-folder.ts";
import { applyActions, FolderChangedError, readFolder } from "../../src/install/conf-dir.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "conf-dir-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it("reads what runtimes read, byte for byte, and passes over the rest", async () => {
  writeFileSync(join(dir, "a.conf"), Buffer.from([0xff, 0, 0x0d, 0x0a]));
  writeFileSync(join(dir, "a.conf.ambient-cni-saved"), "s");
  writeFileSync(join(dir, "b.txt"), "");
  writeFileSync(join(dir, "big.conf"), Buffer.alloc(2 * 1024 * 1024 + 1));
  mkdirSync(join(dir, "c.conf"));
  symlinkSync("nowhere", join(dir, "d.conf"));
  symlinkSync("a.conf", join(dir, "e.conflist"));
  const { files } = await readFolder(dir);
  expect(Object.fromEntries(files)).toEqual({
    "a.conf": "\xff\0\r\n",
    "a.conf.ambient-cni-saved": "s",
    "e.conflist": "\xff\0\r\n",
  });
  expect([...(await readFolder(dir, { all: true })).files.keys()]).toContain("b.txt");
});

it.each<[string, (path: string) => void, Action]>([
  ["writing", (path) => writeFileSync(path, "new"), { kind: "write", name: "a.conf", text: "ours" }],
  ["writing what was removed", (path) => rmSync(path), { kind: "write", name: "a.conf", text: "ours" }],
  ["renaming", (path) => writeFileSync(path, "new"), { kind: "rename", from: "a.conf", to: "b" }],
  ["removing", (path) => writeFileSync(path, "new"), { kind: "remove", name: "a.conf" }],
])("refuses %s when another program changed the file since it was read", async (_what, change, action) => {
  const path = join(dir, "a.conf");
  writeFileSync(path, "old");
  const snapshot = await readFolder(dir);
  change(path);
  const before = readdirSync(dir).map((name) => [name, readFileSync(join(dir, name), "utf8")]);
  await expect(applyActions(dir, [action], { snapshot, groupRead: false })).rejects.toThrow(
    FolderChangedError,
  );
  expect(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name), "utf8")])).toEqual(before);
});

it("refuses to write a new file when another program made one of that name", async () => {
  const snapshot = await readFolder(dir);
  writeFileSync(join(dir, "a.conf"), "theirs");
  const write: Action = { kind: "write", name: "a.conf", text: "ours" };
  await expect(applyActions(dir, [write], { snapshot, groupRead: false })).rejects.toThrow(
    FolderChangedError,
  );
  expect(readFileSync(join(dir, "a.conf"), "utf8")).toBe("theirs");
});
