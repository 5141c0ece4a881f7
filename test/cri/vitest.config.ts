// SPDX-License-Identifier: Apache-2.0
// How `npm run test:cri` runs: the whole suite with its long variants, one file after the other, so that times mean something.
import { defineConfig } from "vitest/config";
import { patience } from "../support/node/patience.ts";
import { SkipReporter } from "../support/skips/skip-reporter.ts";

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default defineConfig({
  test: {
    // npm test does not find the slow ones
    include: ["test/cri/**/*.test.ts", "test/cri/**/*.slow.ts"],
    testTimeout: 60_000 * patience(),
    hookTimeout: 60_000 * patience(),
    pool: "forks",
    fileParallelism: false,
    reporters: ["verbose", new SkipReporter()],
  },
});
