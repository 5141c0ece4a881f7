// SPDX-License-Identifier: Apache-2.0
// The commands' own work: tables, colours, completion, usage errors, an agent that is away or strange.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { commandNames, commands, findCommand, listCommands } from "../../src/cli/commands.ts";
import { untilIdle } from "../../src/cli/dashboard-command.ts";
import { renderFindings } from "../../src/cli/doctor-command.ts";
import { renderPodDetail } from "../../src/cli/pod-detail.ts";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { Progress } from "../../src/cli/progress.ts";
import { AgentAwayError, stateClient } from "../../src/cli/state-client.ts";
import { renderNode, renderPods } from "../../src/cli/status-command.ts";
import { printable, renderAge, renderTable } from "../../src/cli/table.ts";
import { UsageError } from "../../src/cli/usage-error.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import { FakeAgent } from "../status/fake-agent.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { capturedIo } from "./captured-io.ts";
import { RecordedAgent } from "./recorded-agent.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cli-"));
});
afterEach(() => rmSync(folder, { recursive: true }));
const env = () => ({ HOST_ROOT: "/", CNI_AGENT_RUN_DIR: folder });

describe("text", () => {
  test("columns line up, and only the last is cut to the terminal", () => {
    const rows = [
      ["NAME", "WHY"],
      ["a-long-name", "a reason that is too long"],
    ];
    expect(renderTable(rows, { colours: false })).toBe(
      "NAME         WHY\na-long-name  a reason that is too long\n",
    );
    expect(renderTable(rows, { colours: false, columns: 25 })).toBe(
      "NAME         WHY\na-long-name  a reason th…\n",
    );
  });
  test("colours only where they are wanted, and without a shift of columns", () => {
    const row = [[{ text: "ok", style: "good" as const }, "x"]];
    expect(renderTable(row, { colours: false })).toBe("ok  x\n");
    expect(renderTable(row, { colours: true })).toBe("\u001b[32mok\u001b[39m  x\n");
  });
  test("control characters of others do not reach the terminal", () => {
    expect(printable("a\u001b[2Jb\r\nc\u009bd")).toBe("a [2Jb c d");
  });
  test.each([
    [0, "0s"],
    [119_000, "119s"],
    [120_000, "2m"],
    [3 * 3600_000, "3h"],
    [72 * 3600_000, "3d"],
    [-5, "0s"],
  ])("%i ms are %s", (ms, text) => expect(renderAge(ms)).toBe(text));
  test("findings end with the worst", () => {
    const text = renderFindings(
      [
        { id: "b", level: "fail", what: "bad", fix: "mend" },
        { id: "a", level: "ok", what: "good", fix: null },
      ],
      false,
    );
    expect(text).toBe("ok    a  good\nfail  b  bad\n         fix: mend\n1 to mend, 0 to know, 1 right\n");
  });
  test("progress says nothing on what is no terminal, nor in the first second", () => {
    for (const showsProgress of [false, true]) {
      const io = capturedIo(env(), { showsProgress });
      using progress = new Progress(io);
      progress.say("working");
      expect(io.err()).toBe("");
    }
  });
});

describe("status", () => {
  const agent = new FakeAgent();
  agent.add("web-0", { earlierConnections: 3 });
  agent.add("web-1", { earlierConnections: 0 });
  agent.add("web-2");
  const state = new AgentState(agent.facts());

  test("names below the table what pods have open from before their capture, and nothing else", () => {
    const text = renderPods(state.pods(), { colours: false });
    const [table, below] = text.split("\n\n");
    expect(table?.split("\n")).toHaveLength(4);
    expect(below).toBe(
      "  shop/web-0: connections 3 from before the capture, outside the mesh until they end\n",
    );
  });

  test("says once how many pods have IPv6 addresses that AMBIENT_IPV6=false leaves outside", async () => {
    const lines = async (ipv6: boolean) => {
      const dual = new FakeAgent();
      dual.ipv6 = ipv6;
      dual.add("web-0", { ips: ["10.1.0.9", "fd00::9"] });
      dual.add("web-1", { ips: ["fd00::a"] });
      dual.add("web-2");
      dual.add("web-3", { ips: ["fd00::b"], state: "outside" });
      const source = new AgentState(dual.facts());
      return renderNode(await source.node(), false, { list: source.pods().pods })
        .split("\n")
        .slice(1);
    };
    const before = await lines(true);
    const now = await lines(false);
    expect(now.filter((line) => !before.includes(line))).toEqual([
      "  ! AMBIENT_IPV6=false: IPv6 traffic of 2 captured pods passes ztunnel by",
    ]);
  });

  test("of one pod says what became of them, also when an older agent does not tell", async () => {
    const pod = await state.pod("shop", "web-0");
    if (pod === undefined) throw new Error("the pod is not known");
    const { redirect } = pod.desired;
    const resetting = redirect && { ...redirect, establishedConnections: "reset" as const };
    const { earlierConnections: _, ...older } = pod;
    const line = (report: typeof pod) => /connections: +(.*)/.exec(renderPodDetail(report, false))?.[1];
    expect(line(pod)).toBe("3 from before the capture, outside the mesh until they end");
    expect(line({ ...pod, desired: { ...pod.desired, redirect: resetting } })).toBe(
      "3 from before the capture, reset",
    );
    expect(line(older)).toBeUndefined();
  });
});

describe("settings", () => {
  test("need no NODE_NAME, and take / on a node", () => {
    expect(loadCliConfig({}, () => false).hostRoot).toBe("/");
    expect(loadCliConfig({}, () => true).hostRoot).toBe("/host");
    expect(loadCliConfig({ HOST_ROOT: "/mnt" }, () => false).hostRoot).toBe("/mnt");
  });
});

describe("commands", () => {
  test("each has help with usage and an example, and is listed", () => {
    for (const { name, help, summary } of commands) {
      expect(help).toContain(`usage: ambient-cni ${name}`);
      expect(help).toMatch(/examples?:/);
      expect(listCommands()).toContain(summary);
      expect(commandNames().split(", ")).toContain(name);
      expect(findCommand(name)?.name).toBe(name);
    }
    expect(findCommand("frob")).toBeUndefined();
  });
  test.each([
    ["status", ["--frob"]],
    ["status", ["nonamespace"]],
    ["status", ["a/b", "c/d"]],
    ["verify", ["a/b/c"]],
    ["verify", ["a/b", "c"]],
    ["verify", ["--family", "4"]],
    ["doctor", ["x"]],
    ["debug", ["only-one"]],
    ["completion", ["powershell"]],
    ["rules", ["--family", "5"]],
    ["uninstall", ["--frob"]],
  ])("%s %j is a usage error that names the help", async (name, args) => {
    const failure = await findCommand(name)
      ?.run(args, capturedIo(env()))
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(UsageError);
    if (name !== "rules") expect((failure as Error).message).toContain(`ambient-cni ${name} --help`);
  });
  test.each(["bash", "zsh", "fish"] as const)("completion for %s knows every command", async (shell) => {
    const io = capturedIo(env());
    expect(await findCommand("completion")?.run([shell], io)).toBe(0);
    for (const name of commandNames().split(", ")) expect(io.out()).toContain(name);
    expect(io.out()).toContain("json");
  });
  test("bash takes the completion", async () => {
    const io = capturedIo(env());
    await findCommand("completion")?.run(["bash"], io);
    const script = `${io.out()}\nCOMP_WORDS=(ambient-cni verify --j); COMP_CWORD=2; _ambient_cni; echo "\${COMPREPLY[@]}"`;
    expect(execFileSync("bash", ["-c", script], { encoding: "utf8" })).toBe("--json\n");
  });
});

describe("dashboard", () => {
  const run = (...args: string[]) => findCommand("dashboard")?.run(args, capturedIo(env()));

  test.each([
    [["--port", "65536"], "65536"],
    [["--port", "x"], '"x"'],
    [["--port", "-1"], "port"],
    [["--idle-minutes", "0.5"], '"0.5"'],
    [["shop/web"], "no arguments"],
    [["--host", "0.0.0.0"], "--host"],
  ])("with %j is wrong usage", async (args, why) => {
    const error: unknown = await run(...args)?.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toContain(why);
  });

  test("without an agent says why before it serves anything", async () => {
    await expect(run("--port", "0")).rejects.toThrow(/no agent runs with this run dir/);
  });

  test("ends when no page was open for so long, and not before", async () => {
    const clock = new FakeClock();
    const pass = async (seconds: number): Promise<void> => {
      for (let second = 0; second < seconds; second++) {
        clock.advance(1_000);
        await nextTurn();
      }
    };
    const pages = { pageCount: 1 };
    let isOver = false;
    const idle = untilIdle(pages, { idleMs: 60_000, signal: new AbortController().signal, clock }).then(
      () => {
        isOver = true;
      },
    );
    await pass(200);
    expect(isOver).toBe(false);
    pages.pageCount = 0;
    await pass(58);
    expect(isOver).toBe(false);
    await pass(3);
    expect(isOver).toBe(true);
    await idle;
  });

  test("ends when nobody reads what it prints, also where it would never be idle", async () => {
    const reader = new AbortController();
    const idle = untilIdle({ pageCount: 0 }, { idleMs: 0, signal: reader.signal, clock: new FakeClock() });
    reader.abort();
    await idle;
  });
});

describe("an agent", () => {
  test("that is not there is said with the remedy, exit code 1, JSON too", async () => {
    const io = capturedIo(env());
    expect(await findCommand("status")?.run(["--json"], io)).toBe(1);
    expect(JSON.parse(io.out())).toEqual({ error: expect.stringContaining("state.sock") });
    expect(io.err()).toMatch(/no agent runs with this run dir.*CNI_AGENT_RUN_DIR/);
  });
  test("that hangs is said within the deadline", async () => {
    const server = createServer(() => {});
    await new Promise<void>((resolve) => server.listen(join(folder, "state.sock"), resolve));
    const failure = await stateClient(folder, { timeoutMs: 50 })
      .node()
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(AgentAwayError);
    expect((failure as Error).message).toContain("no answer within 50 ms");
    server.closeAllConnections();
    server.close();
  });
  test("that talks nonsense is said", async () => {
    const server = createServer((_request, response) => response.end("<html>"));
    await new Promise<void>((resolve) => server.listen(join(folder, "state.sock"), resolve));
    await expect(stateClient(folder).pods()).rejects.toThrow(/not JSON/);
    server.close();
  });
  test("that does not know a pod is asked without an error", async () => {
    const agent = await RecordedAgent.start(join(folder, "state.sock"), new Map());
    expect(await stateClient(folder).pod("a", "b")).toBeUndefined();
    await agent.stop();
  });
});
