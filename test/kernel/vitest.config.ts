// SPDX-License-Identifier: Apache-2.0
// How `npm run test:node` runs: rules and traffic in namespaces of the kernel, the agent on a node of its own, and the containerd suite
// without its long variants.
import { defineConfig, mergeConfig } from "vitest/config";
import all from "../../vitest.config.ts";

/** As globs from the root of the project. */
export const nodeTests: readonly string[] = ["test/cri/**/*.test.ts", "test/kernel/**/*.test.ts"];

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default mergeConfig(
  { ...all, test: { ...all.test, include: [] } },
  defineConfig({ test: { include: [...nodeTests] } }),
);
