// SPDX-License-Identifier: Apache-2.0
// The launcher as a file (size, static, nothing left behind), under valgrind, and its fuzzer.
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { promisify } from "node:util";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, cniEnv, pluginDir, runLauncher, scratchDir } from "./launcher.ts";
import { answer, chunkedAnswer, StandInAgent, sends, sendsAndEnds } from "./stand-in-agent.ts";

const execute = promisify(execFile);
const binary = `${pluginDir}/build/ambient-cni`;

beforeAll(() => buildPlugin("all", "debug", "fuzz"), 120_000);

describe("the launcher's file", () => {
  it("an unchanged tree builds nothing and prints nothing", async () => {
    const before = statSync(binary).mtimeMs;
    expect(await buildPlugin()).toBe("");
    expect(await buildPlugin("all", "debug", "fuzz")).toBe("");
    expect(statSync(binary).mtimeMs).toBe(before);
  });

  it("it is static: no interpreter and no dynamic section", () => {
    const elf = readFileSync(binary);
    expect(elf.subarray(0, 5)).toEqual(Buffer.from("\x7fELF\x02", "latin1"));
    const offset = Number(elf.readBigUInt64LE(32));
    const types = Array.from({ length: elf.readUInt16LE(56) }, (_, index) =>
      elf.readUInt32LE(offset + index * elf.readUInt16LE(54)),
    );
    expect(types).toContain(1); // PT_LOAD: we read the right table
    expect(types).not.toContain(2); // PT_DYNAMIC
    expect(types).not.toContain(3); // PT_INTERP
  });

  it("it is under 100 KB when built with musl", ({ skip }) => {
    const musl = existsSync(`${pluginDir}/build/.built-with-musl-gcc`);
    if (!musl)
      console.warn("skipped: musl-gcc is not installed (package musl-tools), so glibc was linked in");
    skip(!musl, "no musl-gcc");
    expect(statSync(binary).size).toBeLessThan(100_000);
  });

  it("nothing is left in the run directory or the working directory", async () => {
    using scratch = scratchDir();
    const input = JSON.stringify({
      cni_agent_run_dir: scratch.path,
      agent_wait_seconds: 0,
      exempt: ["shop"],
    });
    for (const command of ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION", "X"]) {
      await runLauncher(`cd ${scratch.path} && exec ${binary}`, {
        wrapper: ["/bin/sh", "-c"],
        env: cniEnv(command),
        input,
      });
    }
    expect(readdirSync(scratch.path)).toEqual([]);
  });
});

describe("the launcher under valgrind", () => {
  const valgrind = existsSync("/usr/bin/valgrind");
  if (!valgrind) console.warn("skipped: the launcher under valgrind (package valgrind is not installed)");
  const body = Buffer.alloc(300_000, "x");

  it.skipIf(!valgrind).for([
    ["a plain answer", "ADD", sends(answer("{}")), "", 0],
    ["a failed call", "ADD", sends(answer("{}", 1)), "", 1],
    ["a large answer", "ADD", sends(answer(body)), "", 0],
    ["a chunked answer", "ADD", sends(chunkedAnswer(body, 70_000)), "", 0],
    ["garbage", "ADD", sendsAndEnds("garbage"), "", 1],
    ["CHECK with garbage", "CHECK", sendsAndEnds("garbage"), "", 0],
    ["an agent that dies", "ADD", sendsAndEnds("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"), "", 1],
    [
      "an agent that dies, exempt",
      "ADD",
      sendsAndEnds(""),
      ',"exempt":["x","shop/w"],"prevResult":{"a":"\\u00e4"}',
      0,
    ],
    ["a malformed configuration", "ADD", sends(""), ',"a":', 1],
    ["DEL with a malformed configuration", "DEL", sends(answer("")), ',"a":', 0],
    ["STATUS", "STATUS", sends(answer("")), "", 0],
    ["VERSION", "VERSION", sends(""), "", 0],
    ["an unknown command", "NOPE", sends(""), "", 1],
  ] as const)("%s: no wrong access and nothing lost", async ([, command, reply, more, code]) => {
    using scratch = scratchDir();
    await using _agent = await StandInAgent.listen(scratch.path, reply);
    const run = await runLauncher(`${pluginDir}/build/ambient-cni-debug`, {
      wrapper: ["/usr/bin/valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--track-fds=no"],
      env: cniEnv(command),
      input: `{"cniVersion":"1.0.0","agent_wait_seconds":0.1,"cni_agent_run_dir":"${scratch.path}"${more}}`,
    });
    expect([run.code, run.stderr.includes("==")]).toEqual([code, false]);
  });
});

describe("the fuzzer", () => {
  const fuzz = `${pluginDir}/build/fuzz`;
  const corpus = `${pluginDir}/fuzz/corpus`;

  it("three seconds over the corpus find nothing", async () => {
    using scratch = scratchDir();
    const { stdout } = await execute(fuzz, ["3", "1", corpus], { cwd: scratch.path });
    for (const target of ["config", "exempt", "answer", "request", "text"]) {
      const [, runs, edges] = new RegExp(`fuzz: ${target}: (\\d+) runs, (\\d+) edges`).exec(stdout)!;
      expect(Number(runs)).toBeGreaterThan(200);
      expect(Number(edges)).toBeGreaterThan(30);
    }
    expect(readdirSync(scratch.path)).toEqual([]);
  });

  it("every file of the corpus is fine when replayed", async () => {
    for (const target of readdirSync(corpus))
      for (const name of readdirSync(`${corpus}/${target}`))
        await execute(fuzz, ["replay", target, `${corpus}/${target}/${name}`]);
  });

  it("a corpus that is not there is an error", async () => {
    await expect(execute(fuzz, ["1", "1", "/nonexistent"])).rejects.toMatchObject({ code: 2 });
    await expect(execute(fuzz, ["1"])).rejects.toMatchObject({ code: 2 });
  });
});
