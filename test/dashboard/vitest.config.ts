// SPDX-License-Identifier: Apache-2.0
// How `npm run test:page` runs: the whole dashboard, with what needs a browser; npm test finds only what does not.
import { defineConfig } from "vitest/config";
import { SkipReporter } from "../support/skips/skip-reporter.ts";

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default defineConfig({
  test: {
    include: ["test/dashboard/**/*.test.ts", "test/dashboard/**/*.browser.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    pool: "forks",
    fileParallelism: false,
    reporters: ["verbose", new SkipReporter()],
  },
});
