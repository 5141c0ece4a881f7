// SPDX-License-Identifier: Apache-2.0
// How `npm run test:cluster` runs: one file after the other, for each has a Kubernetes of its own on the same cores.
import { defineConfig } from "vitest/config";
import { SkipReporter } from "../support/skips/skip-reporter.ts";

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default defineConfig({
  test: {
    // not *.test.ts: `npm test` must not find these
    include: ["test/cluster/**/*.cluster.ts"],
    testTimeout: 60_000,
    hookTimeout: 180_000,
    pool: "forks",
    fileParallelism: false,
    reporters: ["verbose", new SkipReporter()],
  },
});
