// SPDX-License-Identifier: Apache-2.0
// Verbs of the launcher that need no agent, and what it makes of unknown ones.
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, runLauncher, scratchDir } from "./launcher.ts";

beforeAll(() => buildPlugin("all", "asan"));

const supported = '"supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]';

describe.each(builds)("launcher ($build)", ({ binary }) => {
  it.each([
    ['{"cniVersion":"0.3.0"}', "0.3.0"],
    ['{"cniVersion":"0.3.1"}', "0.3.1"],
    ['{"cniVersion":"0.4.0","name":"x"}', "0.4.0"],
    ['{"cniVersion":"1.0.0"}\n', "1.0.0"],
    ['{"cniVersion":"1.1.0"}', "1.1.0"],
    ['{"cniVersion":"\\u0031.0.0"}', "1.0.0"],
    ['{"cniVersion":"0.1.0"}', "0.1.0"],
    ['{"cniVersion":"0.2.0"}', "0.2.0"],
    ['{"cniVersion":"0.5.0"}', "1.1.0"],
    ['{"cniVersion":"2.0.0"}', "1.1.0"],
    ['{"cniVersion":7}', "1.1.0"],
    ["{}", "1.1.0"],
    ["", "1.1.0"],
    ["no json", "1.1.0"],
  ])("VERSION of %j answers in version %s without an agent", async (input, version) => {
    const run = await runLauncher(binary, { env: { CNI_COMMAND: "VERSION" }, input });
    expect(run.stdout.toString()).toBe(`{"cniVersion":"${version}",${supported}}\n`);
    expect([run.code, run.stderr]).toEqual([0, ""]);
  });

  it.each([
    ["add", 'CNI_COMMAND is "add"'],
    ["UPDATE", 'CNI_COMMAND is "UPDATE"'],
    ["ADD ", 'CNI_COMMAND is "ADD "'],
    ['A"\\\n\u0001ä😀', 'CNI_COMMAND is "A"\\\n\u0001ä😀"'],
    ["X".repeat(5000), `CNI_COMMAND is "${"X".repeat(64)}"...`],
    ["", "CNI_COMMAND is missing"],
    [undefined, "CNI_COMMAND is missing"],
  ])("CNI_COMMAND %j fails with code 4 and is named", async (command, named) => {
    const env = command === undefined ? {} : { CNI_COMMAND: command };
    for (const [input, version] of [
      ['{"cniVersion":"0.4.0"}', "0.4.0"],
      ["{", "1.1.0"],
    ] as const) {
      const error = errorOf(await runLauncher(binary, { env, input }));
      expect(error).toMatchObject({ cniVersion: version, code: 4 });
      expect(error.msg).toContain(named);
      expect(error.msg).toContain("ADD, DEL, CHECK, GC, STATUS and VERSION");
    }
  });

  it("error objects are valid UTF-8 when a variable is not", async () => {
    using scratch = scratchDir();
    const words = Buffer.from(`CNI_COMMAND=a\xff\xc3(\xed\xa0\x80\0${binary}\0`, "latin1");
    writeFileSync(`${scratch.path}/words`, words);
    const wrapper = ["/usr/bin/xargs", "-0", "-a", `${scratch.path}/words`, "/usr/bin/env"];
    const run = await runLauncher("-i", { wrapper, input: "{}" });
    expect(JSON.parse(run.stdout.toString()).msg).toContain(
      'CNI_COMMAND is "a\ufffd\ufffd(\ufffd\ufffd\ufffd"',
    );
    expect(Buffer.from(run.stdout.toString(), "utf8").equals(run.stdout)).toBe(true);
    expect(run.stdout.toString()).toContain("\\ufffd");
  });

  it("a person at a terminal gets a usage text on stderr and no error", async () => {
    const run = await runLauncher(`CNI_COMMAND= ${binary} 2>&1 >/dev/null`, {
      wrapper: ["/usr/bin/script", "-qe", "/dev/null", "-c"],
      env: { PATH: "/usr/bin:/bin" },
    });
    expect(run.stdout.toString()).toContain("CNI plugin of Istio's ambient mesh");
    expect(run.stdout.toString()).toContain("0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    expect(run.code).toBe(0);
  });

  it("an unknown command is not passed to the agent", async () => {
    const run = await runLauncher(binary, { env: cniEnv("NOPE"), input: "{}" });
    expect(errorOf(run).code).toBe(4);
  });
});
