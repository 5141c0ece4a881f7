// SPDX-License-Identifier: Apache-2.0
// Where native.ts finds the addon, and what it says where there is none.
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const ADDON = join(ROOT, "native/build/ambient.node");

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-loading-"));
  mkdirSync(join(folder, "src/linux"), { recursive: true });
  mkdirSync(join(folder, "native/build"), { recursive: true });
  copyFileSync(join(ROOT, "src/linux/native.ts"), join(folder, "src/linux/native.ts"));
});

afterEach(() => rmSync(folder, { recursive: true }));

/** What a copy of native.ts in the folder does when the addon is first needed. */
async function use(): Promise<string> {
  const { socketInNetns } = await import(join(folder, "src/linux/native.ts"));
  try {
    socketInNetns(-1, { family: 4, type: "stream" });
  } catch (error) {
    return (error as Error).message;
  }
  return "opened";
}

test.each([
  { what: "beside the module, as in dist/", to: "src/linux/ambient.node" },
  { what: "in native/build, as in a checkout", to: "native/build/ambient.node" },
])("the addon is found $what", async ({ to }) => {
  copyFileSync(ADDON, join(folder, to));
  expect(await use()).toContain("setns: EBADF");
});

test("the one beside the module is taken when there are both", async () => {
  writeFileSync(join(folder, "native/build/ambient.node"), "broken");
  copyFileSync(ADDON, join(folder, "src/linux/ambient.node"));
  expect(await use()).toContain("setns: EBADF");
});

test("the remedy is named when there is none", async () => {
  expect(await use()).toBe(
    `Cannot load the native addon: none at "${folder}/src/linux/ambient.node" or "${folder}/native/build/ambient.node"; build it with: npm run setup`,
  );
});

test("the file and the remedy are named when it cannot be loaded", async () => {
  writeFileSync(join(folder, "native/build/ambient.node"), "broken");
  expect(await use()).toBe(
    `Cannot load the native addon "${folder}/native/build/ambient.node": build it again with: npm run setup`,
  );
});
