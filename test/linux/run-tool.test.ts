// SPDX-License-Identifier: Apache-2.0
// Running tools: environment, input, output, failure, time and number.

import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { NOBODYS_LOCK } from "../../src/linux/lock-files.ts";
import { ToolError, ToolRunner } from "../../src/linux/run-tool.ts";

const runner = new ToolRunner();
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-tool-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function childCount(): number {
  return readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ").filter(Boolean)
    .length;
}

function pipeCount(): number {
  return readdirSync("/proc/self/fd").length;
}

describe("a tool", () => {
  test("gets its input and gives its output", async () => {
    expect(await runner.run({ argv: ["cat"], stdin: "one\ntwo\n" })).toEqual({
      stdout: "one\ntwo\n",
      stderr: "",
    });
    expect(await runner.run({ argv: ["sh", "-c", "echo out; echo err >&2"] })).toEqual({
      stdout: "out\n",
      stderr: "err\n",
    });
  });

  test("sees PATH and nothing else of the agent's environment", async () => {
    process.env.SECRET_OF_TEST = "x";
    const { stdout } = await runner.run({ argv: ["env"] });
    expect(stdout).toBe(`PATH=${runner.path}\n`);
    const told = await runner.run({ argv: ["env"], env: { CNI_COMMAND: "VERSION", PATH: "/nowhere" } });
    expect(told.stdout.split("\n").sort()).toEqual(["", "CNI_COMMAND=VERSION", `PATH=${runner.path}`]);
    const locked = await runner.run({ argv: ["env"], lockFile: "/run/of-ours" });
    expect(locked.stdout.split("\n").sort()).toContain("XTABLES_LOCKFILE=/run/of-ours");
    const alone = await runner.run({ argv: ["env"], lockFile: NOBODYS_LOCK });
    expect(alone.stdout.split("\n").sort()).toContain("XTABLES_LOCKFILE=/proc/self/environ");
  });

  test("inherits no descriptor of the agent's", async () => {
    const path = join(folder, "secret");
    const secretFd = openSync(path, "w");
    try {
      const { stdout } = await runner.run({ argv: ["ls", "-l", "/proc/self/fd"] });
      expect(stdout).toMatch(/ 1 -> /);
      expect(stdout).not.toContain(path);
    } finally {
      closeSync(secretFd);
    }
  });

  test("that does not read its input is judged by its exit status", async () => {
    const stdin = "x".repeat(1 << 20);
    await expect(runner.run({ argv: ["true"], stdin })).resolves.toEqual({ stdout: "", stderr: "" });
    await expect(runner.run({ argv: ["false"], stdin })).rejects.toMatchObject({
      code: "TOOL_FAILED",
      exitCode: 1,
    });
  });

  test("may print a lot, but not without end", async () => {
    const { stdout } = await runner.run({ argv: ["head", "-c", "3000000", "/dev/zero"] });
    expect(stdout.length).toBe(3_000_000);
    await expect(runner.run({ argv: ["cat", "/dev/zero"] })).rejects.toMatchObject({
      code: "TOOL_OUTPUT_TOO_LONG",
    });
    await expect(runner.run({ argv: ["sh", "-c", "cat /dev/zero >&2"] })).rejects.toMatchObject({
      code: "TOOL_OUTPUT_TOO_LONG",
    });
  });

  test.each([
    ["exit 7", { code: "TOOL_FAILED", exitCode: 7 }, "exit status 7"],
    ["kill -TERM $$", { code: "TOOL_FAILED", exitCode: undefined }, "ended by SIGTERM"],
    ["echo some reason >&2; exit 2", { code: "TOOL_FAILED", stderr: "some reason\n" }, "some reason"],
    ["echo 'line 2 failed' >&2; exit 1", { inputLine: "two" }, 'at "two"'],
    ["echo 'Error occurred at line: 3' >&2; exit 1", { inputLine: "three" }, 'at "three"'],
    ["echo 'line 9 failed' >&2; exit 1", { inputLine: undefined }, "line 9 failed"],
  ])("that ends with %s is an error that says so", async (script, fields, message) => {
    const error = await runner
      .run({ argv: ["sh", "-c", script], stdin: "one\ntwo\nthree\n" })
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ToolError);
    expect(error).toMatchObject(fields);
    expect((error as ToolError).message).toContain(message);
  });

  test("that is missing or not executable is named", async () => {
    await expect(runner.run({ argv: ["no-such-tool"] })).rejects.toMatchObject({
      code: "TOOL_MISSING",
      message: expect.stringContaining('Cannot run "no-such-tool": ENOENT'),
    });
    const path = join(folder, "plain-file");
    writeFileSync(path, "text");
    await expect(runner.run({ argv: [path] })).rejects.toMatchObject({ code: "TOOL_MISSING" });
    const empty = new ToolRunner({ path: folder });
    await expect(empty.run({ argv: ["true"], netnsFd: 0 })).rejects.toMatchObject({
      message: expect.stringContaining('Cannot run "nsenter"'),
    });
  });

  test("with a descriptor that is not open is not started", async () => {
    await expect(runner.run({ argv: ["true"], netnsFd: 987 })).rejects.toBeInstanceOf(ToolError);
  });
});

describe("an end before the end", () => {
  test("comes at the deadline, and the process is gone by then", async () => {
    await expect(runner.run({ argv: ["sleep", "1000"], timeoutMs: 50 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
      message: 'Cannot finish "sleep 1000": no end after 50 ms',
    });
    expect(childCount()).toBe(0);
  });

  test("does not wait for heirs of the tool's streams", async () => {
    const script = "sleep 5 & echo started; exit 0";
    const start = performance.now();
    await expect(runner.run({ argv: ["sh", "-c", script], timeoutMs: 200 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
    });
    expect(performance.now() - start).toBeLessThan(2000);
  });

  test("comes when the caller aborts, before or during the run", async () => {
    const started = runner.startedCount;
    await expect(runner.run({ argv: ["true"], signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "TOOL_ABORTED",
    });
    expect(runner.startedCount).toBe(started);
    const signal = AbortSignal.timeout(50);
    await expect(runner.run({ argv: ["sleep", "1000"], signal })).rejects.toMatchObject({
      code: "TOOL_ABORTED",
    });
    expect(childCount()).toBe(0);
  });

  test("comes to a tool that ignores requests to end", async () => {
    const script = "trap '' TERM INT HUP; while :; do sleep 0.05; done";
    await expect(runner.run({ argv: ["sh", "-c", script], timeoutMs: 200 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
    });
    await vi.waitFor(() => expect(childCount()).toBe(0));
  });
});

describe("the number of processes", () => {
  test("is bounded, and waiters are served in order", async () => {
    const two = new ToolRunner({ maxParallel: 2 });
    let highest = 0;
    const order: number[] = [];
    const runs = Array.from({ length: 8 }, (_, index) =>
      two.run({
        argv: ["sleep", "0.03"],
        beforeStart: () => {
          highest = Math.max(highest, childCount() + 1);
          order.push(index);
        },
      }),
    );
    await Promise.all(runs);
    expect(highest).toBe(2);
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test("is not used up by calls that failed, were refused or gave up waiting", async () => {
    const one = new ToolRunner({ maxParallel: 1 });
    await one.run({ argv: ["no-such-tool"] }).catch(() => {});
    const refuse = () => {
      throw new Error("refused");
    };
    await expect(one.run({ argv: ["true"], beforeStart: refuse })).rejects.toThrow("refused");
    const busy = one.run({ argv: ["sleep", "0.2"] });
    await expect(one.run({ argv: ["true"], timeoutMs: 50 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
    });
    await busy;
    await expect(one.run({ argv: ["true"] })).resolves.toBeDefined();
    expect(one.startedCount).toBe(3);
  });

  test("is another one for those that somebody waits for: background work does not keep them waiting", async () => {
    const one = new ToolRunner({ maxParallel: 1 });
    const stop = new AbortController();
    const background = [1, 2].map(() => one.run({ argv: ["sleep", "1000"], signal: stop.signal }));
    const stopped = Promise.allSettled(background);
    await vi.waitFor(() => expect(childCount()).toBe(1));
    await expect(one.run({ argv: ["echo", "now"], isUrgent: true })).resolves.toMatchObject({
      stdout: "now\n",
    });
    await expect(one.run({ argv: ["echo", "later"], timeoutMs: 50 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
    });
    // theirs are bounded, too
    const urgent = one.run({ argv: ["sleep", "0.2"], isUrgent: true });
    await expect(one.run({ argv: ["true"], isUrgent: true, timeoutMs: 50 })).rejects.toMatchObject({
      code: "TOOL_TIMED_OUT",
    });
    await urgent;
    stop.abort();
    expect((await stopped).every(({ status }) => status === "rejected")).toBe(true);
  });

  test("leaves no descriptor behind", async () => {
    await runner.run({ argv: ["true"] });
    const before = pipeCount();
    for (let round = 0; round < 20; round++) {
      await Promise.allSettled([
        runner.run({ argv: ["cat"], stdin: "x" }),
        runner.run({ argv: ["no-such-tool"] }),
        runner.run({ argv: ["sleep", "9"], timeoutMs: 5 }),
      ]);
    }
    await vi.waitFor(() => expect(pipeCount()).toBeLessThanOrEqual(before));
  });
});
