// SPDX-License-Identifier: Apache-2.0
// How the matrix runs what is of its own: tests of programs that only some of its roots have.
import { defineConfig } from "vitest/config";

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from there.
export default defineConfig({
  test: {
    // not *.test.ts: `npm test` must not find these
    include: ["test/runtimes/**/*.runtime.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    fileParallelism: false,
  },
});
