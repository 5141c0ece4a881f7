// SPDX-License-Identifier: Apache-2.0
// What vitest's JSON report, or the demo, says of a run. Pure.

interface Assertion {
  readonly status: string;
  readonly title: string;
}

interface VitestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly Assertion[];
  }[];
}

/** What came of the tests that were asked for. */
export interface SuiteResult {
  readonly passed: number;
  /** One line for each test that failed or was skipped, and for each file that could not be run. */
  readonly failures: readonly string[];
}

/**
 * Reads the report. A skipped test counts as failed: a root has all means that the suite looks for. One that was not asked for does not.
 *
 * @param asked names of the files; one that the report does not know has not run
 * @param without how the names of those tests begin that were not asked for
 */
export function readSuiteReport(
  json: string,
  asked: readonly string[],
  without: readonly string[] = [],
): SuiteResult {
  const { testResults: files } = JSON.parse(json) as VitestReport;
  const nameOf = (path: string): string => path.replace(/^.*\//, "").replace(/\.(test|runtime)\.ts$/, "");
  const isLeftOut = ({ status, title }: Assertion): boolean =>
    status === "skipped" && without.some((name) => title.startsWith(name));
  const failures = files.flatMap(({ name, status, message = "", assertionResults: tests }) => {
    const lines = tests
      .filter((test) => test.status !== "passed" && !isLeftOut(test))
      .map((test) => `${nameOf(name)}: ${test.status}: ${test.title}`);
    // a file whose hooks failed has tests that are not called failed
    return status === "passed" || lines.some((line) => line.includes(": failed: "))
      ? lines
      : [`${nameOf(name)}: ${firstLine(message)}`, ...lines];
  });
  const known = new Set(files.map(({ name }) => nameOf(name)));
  const unknown = asked.filter((name) => !known.has(name)).map((name) => `${name}: did not run`);
  const passed = files
    .flatMap(({ assertionResults }) => assertionResults)
    .filter(({ status }) => status === "passed");
  return { passed: passed.length, failures: [...failures, ...unknown] };
}

function firstLine(text: string): string {
  return text.split("\n").find(Boolean) ?? "could not be run";
}

/** Reads what `npm run demo -- --json` printed: its last line is an object with all steps. */
export function readDemo(text: string): SuiteResult {
  const last = text.trimEnd().split("\n").at(-1) ?? "";
  if (!last.startsWith("{")) return { passed: 0, failures: ["the demo ended without a report"] };
  const { steps } = JSON.parse(last) as { steps: readonly { name: string; ok: boolean }[] };
  return {
    passed: steps.filter(({ ok }) => ok).length,
    failures: steps.filter(({ ok }) => !ok).map(({ name }) => name),
  };
}
