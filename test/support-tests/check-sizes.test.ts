// SPDX-License-Identifier: Apache-2.0
// The check of files' lengths: that the sources pass, and that a planted file would not.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { findSizeFaults, maxLines, readSizes } from "../../scripts/check-sizes.ts";

test("no source has more lines than a file may have, and no exception is left over", () => {
  const sources = readSizes(join(import.meta.dirname, "../.."));
  expect(sources.map(({ path }) => path)).toEqual(expect.arrayContaining(["src/main.ts", "plugin/agent.c"]));
  expect(findSizeFaults(sources)).toEqual([]);
});

test("a planted file is found in each of the folders, and none that is built", () => {
  const folder = mkdtempSync(join(tmpdir(), "sizes-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  for (const path of [
    "src/a/b.ts",
    "native/c.c",
    "plugin/d.h",
    "src/dashboard/page/e.css",
    "native/build/f.c",
    "src/g.ts",
  ]) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(join(folder, path), "line\n".repeat(path === "src/g.ts" ? maxLines : maxLines + 1));
  }
  const found = findSizeFaults(readSizes(folder), {}).map((fault) => fault.split(" has ")[0]);
  expect(found.toSorted()).toEqual(["native/c.c", "plugin/d.h", "src/a/b.ts", "src/dashboard/page/e.css"]);
});

test("a file that is excepted may not grow, and is excepted no longer once it is split", () => {
  const allowed = { "src/x.ts": 310 };
  const faultsOf = (lines: number) => findSizeFaults([{ path: "src/x.ts", lines }], allowed);
  expect(faultsOf(310)).toEqual([]);
  expect(faultsOf(311)).toEqual(["src/x.ts has 311 lines, of 310: give one of its subjects a file"]);
  expect(faultsOf(300)).toEqual([expect.stringContaining("excepts src/x.ts, which has no more than 300")]);
  expect(findSizeFaults([], allowed)).toHaveLength(1);
});
