// SPDX-License-Identifier: Apache-2.0
// How `npm test` runs: real kernel state is shared, so heavy suites get their own namespaces and generous limits.
import { defineConfig } from "vitest/config";
import { patience } from "./test/support/node/patience.ts";
import { SkipReporter } from "./test/support/skips/skip-reporter.ts";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // against hanging only: what may take how long is claimed where it is measured
    testTimeout: 60_000 * patience(),
    hookTimeout: 60_000 * patience(),
    expect: { poll: { timeout: 10_000 * patience() } },
    pool: "forks",
    maxWorkers: 3,
    reporters: ["default", new SkipReporter()],
  },
});
