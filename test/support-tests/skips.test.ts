// SPDX-License-Identifier: Apache-2.0
// A skip is said, with what it lacks, and fails a run that requires all: seen in a real run of a planted test.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { judgeSkips, lackedBy, meansOf, readDemand } from "../support/skips/means.ts";

const root = join(import.meta.dirname, "../..");

/** Runs a planted test in the place of one that may be skipped, with the reporter of all suites. */
function runPlanted(text: string, env: Record<string, string>, args: readonly string[] = []) {
  const build = join(root, "build");
  mkdirSync(build, { recursive: true });
  const dir = mkdtempSync(join(build, "skips-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "test/kube"), { recursive: true });
  writeFileSync(join(dir, "test/kube/in-cluster.test.ts"), `import { test } from "vitest";\n${text}\n`);
  const reporter = join(root, "test/support/skips/skip-reporter.ts");
  writeFileSync(
    join(dir, "vitest.config.ts"),
    `import { SkipReporter } from ${JSON.stringify(reporter)};
     export default { test: { include: ["test/**/*.test.ts"], reporters: [new SkipReporter()] } };`,
  );
  const { status, stderr } = spawnSync("vitest", ["run", "--root", dir, ...args], {
    cwd: dir,
    encoding: "utf8",
    env: {
      ...process.env,
      PATH: `${join(root, "node_modules/.bin")}:${process.env.PATH}`,
      REQUIRE_ALL: "",
      ...env,
    },
  });
  return { status, said: stderr.split("\n").filter((line) => /skipped |NOT RUN/.test(line)) };
}

const skipped = 'test("sound", () => {}); test("planted", ({ skip }) => skip("no openssl here"));';

test("a skip is said with what it lacks, and fails nothing where nobody requires all", () => {
  expect(runPlanted(skipped, {})).toEqual({
    status: 0,
    said: [
      expect.stringMatching(
        /^skipped test\/kube\/in-cluster.test.ts > planted: lacks openssl .*: no openssl here$/,
      ),
    ],
  });
});

test("a skip fails a run that requires all", () => {
  const { status, said } = runPlanted(skipped, { REQUIRE_ALL: "1" });
  expect({ status, said }).toEqual({
    status: 1,
    said: [expect.stringMatching(/^NOT RUN .* > planted: lacks openssl/)],
  });
});

test("a run without skips passes, all required", () => {
  expect(runPlanted('test("sound", () => {});', { REQUIRE_ALL: "1" })).toEqual({ status: 0, said: [] });
});

test("tests left out by name are no skips", () => {
  expect(runPlanted(skipped, { REQUIRE_ALL: "1" }, ["-t", "sound"])).toEqual({ status: 0, said: [] });
});

test("a means that may lack fails nothing, others still do", () => {
  const skip = { file: "test/kube/in-cluster.test.ts", name: "x" };
  const browser = { file: "test/dashboard/page.browser.ts", name: "y" };
  const demand = readDemand({ REQUIRE_ALL: "1", ALLOW_LACKING: "chromium" });
  expect(judgeSkips([browser], demand)).toMatchObject({
    failed: false,
    lines: [expect.stringMatching(/^skipped /)],
  });
  expect(judgeSkips([browser, skip], demand).failed).toBe(true);
  expect(() => readDemand({ ALLOW_LACKING: "browser" })).toThrow('lacking "browser": known are root, ');
});

test("a skip that is in no row is named, and fails where all is required, whatever may lack", () => {
  const skip = { file: "test/new.test.ts", name: "x" };
  expect(lackedBy(skip)).toBeUndefined();
  const lines = [expect.stringMatching(/^NOT RUN test\/new.test.ts > x: nobody says what it lacks/)];
  expect(judgeSkips([skip], readDemand({}))).toEqual({ failed: false, lines });
  const demand = readDemand({ REQUIRE_ALL: "1", ALLOW_LACKING: Object.keys(meansOf).join(",") });
  expect(judgeSkips([skip], demand)).toEqual({ failed: true, lines });
});

test("what a machine lacks is named, and nothing that is there", () => {
  const script = join(import.meta.dirname, "../support/skips/lacking.ts");
  const ask = (path: string) =>
    spawnSync(process.execPath, [script, "openssl", "musl-gcc"], {
      encoding: "utf8",
      env: { PATH: path },
    });
  expect(ask("/usr/sbin:/usr/bin:/sbin:/bin")).toMatchObject({ status: 0, stdout: "\n", stderr: "" });
  const empty = mkdtempSync(join(root, "build", "path-"));
  onTestFinished(() => rmSync(empty, { recursive: true }));
  symlinkSync("/bin/sh", join(empty, "sh"));
  const lacking = ask(empty);
  expect(lacking).toMatchObject({ status: 0, stdout: "musl-gcc,openssl\n" });
  expect(lacking.stderr).toContain("this machine lacks openssl: no openssl");
});
