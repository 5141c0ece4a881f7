// SPDX-License-Identifier: Apache-2.0
// What the launcher reads out of the network configuration, seen from outside: a pod of the exempt namespace "shop" shows what was found.
import { mkdirSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, type Run, runLauncher, scratchDir } from "./launcher.ts";
import { randomObject, randomString, randomValue, seededRandom } from "./random-json.ts";
import { answer, StandInAgent, sends } from "./stand-in-agent.ts";

beforeAll(() => buildPlugin("all", "asan"));

const away = '"cni_agent_run_dir":"/nonexistent","agent_wait_seconds":0';
const exempt = `${away},"exempt":["shop"]`;

describe.each(builds)("launcher ($build)", ({ binary }) => {
  const add = (input: string | Uint8Array): Promise<Run> =>
    runLauncher(binary, { env: cniEnv("ADD"), input });

  it.each([
    ["nothing", "", "empty"],
    ["only space", " \n", "no JSON object"],
    ["an array", "[]", "no JSON object"],
    ["a string", '"a"', "no JSON object"],
    ["a byte order mark", "\ufeff{}", "no JSON object"],
    ["an unfinished object", "{", "ends too early"],
    ["an unfinished name", '{"a', "ends too early"],
    ["an unfinished escape", '{"a\\', "ends too early"],
    ["an unfinished value", '{"a":tru', "ends too early"],
    ["an unfinished array", '{"a":[1,', "ends too early"],
    ["a missing colon", '{"a" 1}', "at byte 5 a colon"],
    ["a missing comma", '{"a":1 "b":2}', "a comma or }"],
    ["a missing comma in an array", '{"a":[1 2]}', "a comma or ]"],
    ["a comma too many", '{"a":1,}', "a name in quotes"],
    ["a comma too many in an array", '{"a":[1,]}', "a value is due"],
    ["a comma at first", "{,}", "a name in quotes"],
    ["a bare name", "{a:1}", "a name in quotes"],
    ["the wrong bracket", '{"a":[1}}', "a comma or ]"],
    ["something behind it", "{} {}", "something follows"],
    ["a zero byte behind it", "{}\0", "something follows"],
    ["a zero byte inside", '{"a":\0}', "a value is due"],
    ["a control character in a string", '{"a":"\n"}', "a control character"],
    ["an unknown escape", '{"a":"\\x"}', "no escape"],
    ["a short \\u", '{"a":"\\u12g4"}', "four hex digits"],
    ["a leading zero", '{"a":01}', "a comma or }"],
    ["a bare minus", '{"a":-}', "lacks a digit"],
    ["a bare point", '{"a":1.}', "lacks a digit"],
    ["a bare exponent", '{"a":1e}', "lacks a digit"],
    ["NaN", '{"a":NaN}', "a value is due"],
    ["a comment", '{/* */"a":1}', "a name in quotes"],
    ["single quotes", "{'a':1}", "a name in quotes"],
    ["10 001 levels", `{"a":${"[".repeat(10_001)}`, "nested too deeply"],
  ])(
    "%s on stdin fails ADD, CHECK and STATUS with code 6, and neither DEL nor GC",
    async (_what, input, why) => {
      for (const command of ["ADD", "CHECK", "STATUS"]) {
        const error = errorOf(await runLauncher(binary, { env: cniEnv(command), input }));
        expect(error).toMatchObject({ cniVersion: "1.1.0", code: 6 });
        expect(error.msg).toContain(why);
      }
      for (const command of ["DEL", "GC"]) {
        const run = await runLauncher(binary, { env: cniEnv(command), input });
        expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
        expect(run.stderr).toContain("succeeds all the same");
      }
    },
  );

  it.each([
    ['{"cniVersion":1}', '"cniVersion"'],
    ['{"cni_agent_run_dir":["/run"]}', '"cni_agent_run_dir"'],
    ['{"cni_agent_run_dir":"run/x"}', "absolute path"],
    ['{"cni_agent_run_dir":"/run\\u0000/x"}', "zero byte"],
    [`{"cni_agent_run_dir":"/${"x".repeat(5000)}"}`, "too long"],
    [`{"cni_agent_run_dir":"/${"x".repeat(90)}"}`, "at most 107 bytes"],
    ['{"agent_wait_seconds":"10"}', '"agent_wait_seconds"'],
    ['{"agent_answer_seconds":true}', '"agent_answer_seconds"'],
    ['{"exempt":"shop"}', "array of strings"],
    ['{"exempt":{"shop":1}}', "array of strings"],
    ['{"exempt":["shop",["x"]]}', "nothing but strings"],
    [`{${exempt},"prevResult":[]}`, "must be an object"],
    [`{${exempt},"prevResult":"{}"}`, "must be an object"],
  ])("%s is an invalid configuration, code 7, and no matter to DEL", async (input, why) => {
    const error = errorOf(await add(input));
    expect(error.code).toBe(7);
    expect(error.msg).toContain(why);
    const run = await runLauncher(binary, { env: cniEnv("DEL"), input });
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
  });

  it.each([
    ["plain", `{"prevResult":{"a":1},${exempt}}`, '{"a":1}'],
    [
      "with space around and inside",
      `{ "prevResult" : \n\t{ "a" : [ 1 , 2 ] } \r\n ,${exempt}}`,
      '{ "a" : [ 1 , 2 ] }',
    ],
    ["last of two", `{"prevResult":{"a":1},"prevResult":{"b":2},${exempt}}`, '{"b":2}'],
    ["with its name escaped", `{"prev\\u0052esult":{"a":1},${exempt}}`, '{"a":1}'],
    [
      "not one inside another key",
      `{"runtimeConfig":{"prevResult":{"x":1}},"prevResult":{"a":1},${exempt}}`,
      '{"a":1}',
    ],
    ["not one inside itself", `{"prevResult":{"prevResult":{"x":1}},${exempt}}`, '{"prevResult":{"x":1}}'],
    ["with brackets in strings", `{"prevResult":{"a":"}]\\"{"},${exempt}}`, '{"a":"}]\\"{"}'],
    ["empty", `{"prevResult":{},${exempt}}`, "{}"],
    ["with odd numbers", `{"prevResult":{"a":1.10e+2,"b":-0},${exempt}}`, '{"a":1.10e+2,"b":-0}'],
    [
      "10 000 levels deep",
      `{"prevResult":{"a":${"[".repeat(9999)}${"]".repeat(9999)}},${exempt}}`,
      `{"a":${"[".repeat(9999)}${"]".repeat(9999)}}`,
    ],
  ])("prevResult %s is passed on byte for byte", async (_what, input, expected) => {
    const run = await add(input);
    expect([run.code, run.stdout.toString()]).toEqual([0, expected]);
  });

  it("prevResult with bytes that are no UTF-8 is passed on byte for byte", async () => {
    const prevResult = Buffer.from('{"a":"\xff\xc3\xed\xa0\x80"}', "latin1");
    const run = await add(
      Buffer.concat([Buffer.from(`{${exempt},"prevResult":`), prevResult, Buffer.from("}")]),
    );
    expect(run.code).toBe(0);
    expect(run.stdout.equals(prevResult)).toBe(true);
  });

  it.each(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])(
    "without prevResult the result is a minimal one of version %s",
    async (version) => {
      for (const prev of ["", ',"prevResult":null']) {
        const run = await add(`{"cniVersion":"${version}",${exempt}${prev}}`);
        expect([run.code, run.stdout.toString()]).toEqual([
          0,
          `{"cniVersion":"${version}","interfaces":[],"ips":[],"routes":[],"dns":{}}`,
        ]);
      }
    },
  );

  it.each([
    ["0.1.0", "0.1.0"],
    ["0.2.0", "0.2.0"],
    ["", "0.1.0"],
  ])("without prevResult version %j has results without lists, of version %s", async (version, answered) => {
    const run = await add(`{"cniVersion":${JSON.stringify(version)},${exempt}}`);
    expect([run.code, run.stdout.toString()]).toEqual([0, `{"cniVersion":"${answered}","dns":{}}`]);
  });

  it.each(["0.5.0", "2.0.0", '1.0.0","x":"'])(
    "without prevResult version %j is incompatible, code 1",
    async (version) => {
      const error = errorOf(await add(`{"cniVersion":${JSON.stringify(version)},${exempt}}`));
      expect(error.code).toBe(1);
      expect(error.msg).toContain("1.1.0");
    },
  );

  it.each([
    ["an absent key", "{}", "/var/run/istio-cni/pluginevent.sock"],
    ["null", '{"cni_agent_run_dir":null}', "/var/run/istio-cni/pluginevent.sock"],
    ["an empty string", '{"cni_agent_run_dir":""}', "/var/run/istio-cni/pluginevent.sock"],
    ["a path", '{"cni_agent_run_dir":"/no/where"}', "/no/where/pluginevent.sock"],
    ["escapes", '{"cni_agent_run_dir":"\\/n\\u006f\\/\\u00e4\\ud83d\\ude00"}', "/no/ä😀/pluginevent.sock"],
    ["a lone surrogate", '{"cni_agent_run_dir":"/no/\\ud800x"}', "/no/\ufffdx/pluginevent.sock"],
    ["the last of two", '{"cni_agent_run_dir":"/a","cni_agent_run_dir":"/no"}', "/no/pluginevent.sock"],
    [
      "one that is nested",
      '{"runtimeConfig":{"cni_agent_run_dir":"/a"},"cni_agent_run_dir":"/no"}',
      "/no/pluginevent.sock",
    ],
    [
      "the longest there can be",
      `{"cni_agent_run_dir":"/${"x".repeat(89)}"}`,
      `/${"x".repeat(89)}/pluginevent.sock`,
    ],
  ])("the run directory of %s is where the socket is looked for", async (_what, config, path) => {
    // STATUS asks once.
    const error = errorOf(await runLauncher(binary, { env: cniEnv("STATUS"), input: config }));
    expect(error.code).toBe(50);
    expect(error.msg).toContain(`"${path}"`);
  });

  it.each([
    ["0", 0],
    ["-5", 0],
    ["0.25", 250],
    ["25e-2", 250],
    ["0.0025E2", 250],
    ["2.5E-1", 250],
    ["0.2500000000000000000000000001", 250],
    ["1e-400", 0],
    ["0e999999999999999999999", 0],
  ])("agent_wait_seconds %s waits %i ms", async (seconds, ms) => {
    const run = await add(`{"cni_agent_run_dir":"/nonexistent","agent_wait_seconds":${seconds}}`);
    expect(errorOf(run).code).toBe(11);
    expect(run.ms).toBeGreaterThanOrEqual(ms);
    expect(run.ms).toBeLessThan(ms + 2500);
    const waitedMs = 1000 * Number(/waited ([\d.]+) s/.exec(errorOf(run).msg)?.[1] ?? 0);
    expect(waitedMs).toBeGreaterThanOrEqual(ms);
    expect(waitedMs).toBeLessThan(ms + 2500);
  });

  it("random configurations are understood as JSON.parse understands them", async () => {
    const random = seededRandom(11);
    for (let round = 0; round < 120; round++) {
      const noise = (): string => `"${["x", "y", "exempt2"][random(3)]}":${randomValue(random, 4)}`;
      const prevResult = randomObject(random, 4, 1 + random(4));
      const members = [
        noise(),
        `"cni_agent_run_dir":${randomString(random, "/nonexistent")}`,
        `"agent_wait_seconds":0`,
        noise(),
        `${randomString(random, "exempt")}: [${randomString(random, "kube-system")},${randomString(random, "shop")}]`,
        `"runtimeConfig":${randomObject(random, 3, 3)}`,
        `${randomString(random, "prevResult")} :${prevResult}`,
        noise(),
      ];
      const input = `{${members.join(",")}}`;
      const run = await add(input);
      expect([input, run.code, run.stdout.toString()]).toEqual([input, 0, prevResult]);
      expect(JSON.stringify(JSON.parse(run.stdout.toString()))).toBe(
        JSON.stringify(JSON.parse(input).prevResult),
      );
    }
  });

  it("damaged configurations are refused exactly when JSON.parse refuses them", async () => {
    const random = seededRandom(12);
    const damage = ['"', "\\", "{", "}", "[", "]", ",", ":", "0", "e", "-", " ", "\n", "\u0001", "u", "t"];
    let refused = 0;
    for (let round = 0; round < 200; round++) {
      const whole = `{${exempt},"a":${randomValue(random, 4)},"prevResult":${randomObject(random, 3, 3)}}`;
      const at = random(whole.length);
      const input = whole.slice(0, at) + damage[random(damage.length)] + whole.slice(at + random(2));
      let valid = true;
      try {
        valid = typeof JSON.parse(input) === "object";
      } catch {
        valid = false;
      }
      const run = await add(input);
      const saidMalformed = run.code === 1 && errorOf(run).code === 6;
      expect([input, saidMalformed]).toEqual([input, !valid]);
      refused += Number(!valid);
    }
    expect(refused).toBeGreaterThan(50);
    expect(refused).toBeLessThan(200);
  });

  it("errors carry the version of the configuration, even a damaged one's", async () => {
    for (const [version, shown] of [
      ["0.4.0", "0.4.0"],
      ["9.9.9", "9.9.9"],
      ["", "1.1.0"],
      ["x".repeat(50), "1.1.0"],
      ['"\\', '"\\'],
    ] as const) {
      const error = errorOf(await add(`{"cniVersion":${JSON.stringify(version)},"a":}`));
      expect(error).toMatchObject({ cniVersion: shown, code: 6 });
    }
  });

  it("a long socket path that just fits is connected to", async () => {
    using scratch = scratchDir();
    const runDir = `${scratch.path}/${"d".repeat(90 - scratch.path.length - 1)}`;
    mkdirSync(runDir);
    await using agent = await StandInAgent.listen(runDir, sends(answer("fits")));
    const run = await add(JSON.stringify({ cni_agent_run_dir: runDir }));
    expect([run.code, run.stdout.toString(), agent.connections]).toEqual([0, "fits", 1]);
  });
});
