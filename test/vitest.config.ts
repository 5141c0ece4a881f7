// SPDX-License-Identifier: Apache-2.0
// How `npm test` runs: everything that takes less than four minutes together; `npm run test:node` has the rest of what is found by
// `vitest run`.
import { configDefaults, defineConfig, mergeConfig } from "vitest/config";
import all from "../vitest.config.ts";
import { nodeTests } from "./kernel/vitest.config.ts";

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default mergeConfig(
  all,
  defineConfig({ test: { exclude: [...configDefaults.exclude, ...nodeTests] } }),
);
