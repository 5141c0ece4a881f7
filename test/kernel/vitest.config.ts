// SPDX-License-Identifier: Apache-2.0
// How `npm run test:node` runs: what has an agent on a node of its own, and the containerd suite without its long variants. A test of
// this folder is one of these where a file beside it says what happens inside the node.
import { globSync } from "node:fs";
import { defineConfig, mergeConfig } from "vitest/config";
import all from "../../vitest.config.ts";

/** Every test with a node of its own, as globs from the root of the project. */
export const nodeTests: readonly string[] = [
  "test/cri/**/*.test.ts",
  ...globSync("test/kernel/*.inside.ts").map((path) => path.replace(/\.inside\.ts$/, ".test.ts")),
];

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default mergeConfig(
  { ...all, test: { ...all.test, include: [] } },
  defineConfig({ test: { include: [...nodeTests] } }),
);
