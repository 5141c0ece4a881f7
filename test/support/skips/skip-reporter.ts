// SPDX-License-Identifier: Apache-2.0
// Says at the end of a run which tests were skipped for what, and fails it where that is not accepted.
import { relative } from "node:path";
import type { Reporter, TestModule, Vitest } from "vitest/node";
import { judgeSkips, readDemand, type Skip } from "./means.ts";

/** For the configuration of each suite. */
export class SkipReporter implements Reporter {
  #vitest: Vitest | undefined;

  onInit(vitest: Vitest): void {
    this.#vitest = vitest;
  }

  onTestRunEnd(modules: readonly TestModule[]): void {
    const vitest = this.#vitest;
    // whoever asks for tests by their name leaves out the others
    if (vitest === undefined || vitest.config.testNamePattern !== undefined) return;
    const skips = modules.flatMap((module): Skip[] =>
      [...module.children.allTests("skipped")].map((test) => {
        const result = test.result();
        return {
          file: relative(vitest.config.root, module.moduleId),
          name: test.fullName,
          note: result.state === "skipped" ? result.note : undefined,
        };
      }),
    );
    const { lines, failed } = judgeSkips(skips, readDemand(process.env));
    for (const line of lines) process.stderr.write(`${line}\n`);
    if (failed) process.exitCode = 1;
  }
}
