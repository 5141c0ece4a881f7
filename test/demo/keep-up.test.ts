// SPDX-License-Identifier: Apache-2.0
// The newcomer's path: `npm run demo -- --keep`, and then each line that it prints, word by word.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { firstEvent } from "../dashboard/first-event.ts";
import { leftovers, type NodeTraces, tracesOf } from "../support/node/leftovers.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { cleanEnv, type RunResult, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const entry = join(import.meta.dirname, "main.ts");

describe.skipIf(process.getuid?.() !== 0)("a demo that stays up (needs root)", () => {
  let demo: ManagedProcess;
  let traces: NodeTraces;

  beforeAll(async () => {
    demo = new ManagedProcess([process.execPath, entry, "--keep", "--dashboard-port", "0"], {
      name: "demo",
      env: cleanEnv(),
    });
    await demo.untilLine("how to look", ({ text }) => text.includes("nsenter"), { timeoutMs: 55_000 });
    const [, cgroupFolder = ""] = /head -n 1 (\S+)\/node\/cgroup\.procs/.exec(demo.text) ?? [];
    traces = await tracesOf({ cgroupFolder });
  });
  afterAll(async () => {
    if (demo?.running) await demo.kill();
  });

  /** The lines below a heading, as printed. */
  function advised(heading: string): string[] {
    const { lines } = demo;
    const start = lines.findIndex(({ text }) => text.startsWith(heading));
    const after = lines.slice(start + 1).map(({ text }) => text);
    const end = after.findIndex((text) => !text.startsWith("  "));
    return (end < 0 ? after : after.slice(0, end)).map((text) => text.trim());
  }

  /** What npm does with such a line, without its preparation. */
  async function npmRun(line: string): Promise<RunResult> {
    const [, args = ""] = /^npm run -s demo -- (.*)$/.exec(line) ?? [];
    return await run([process.execPath, entry, ...args.split(" ")], { mayFail: true });
  }

  test("shows its pods to a browser on the machine", async () => {
    const [url = ""] = advised("In a browser");
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/\?key=[\w-]{32}$/);
    const page = await fetch(url);
    expect(await page.text()).toContain("<title>ambient-cni</title>");
    const { pods } = await firstEvent(url);
    const states = Object.fromEntries(pods.map(({ ns, name, state }) => [`${ns}/${name}`, state]));
    expect(states).toEqual({ "shop/client": "enrolled", "shop/server": "enrolled", "shop/loner": "outside" });
    const stranger = await fetch(url, { headers: { Origin: "http://example.org" } });
    expect(stranger.status).toBe(403);
    expect((await fetch(new URL("/", url))).status).toBe(401);
  });

  test("answers the commands that it names", async () => {
    const [status = "", debug = "", ...more] = advised("In a second terminal");
    expect(more).toEqual([]);
    const { code, stdout } = await npmRun(status);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^shop +client +yes +enrolled /m);
    const debugged = await npmRun(debug);
    expect(debugged.code).toBe(0);
    expect(debugged.stdout.match(/^ {5}ok: /gm)).toHaveLength(3);
    // exit codes and the commands' own words come through
    expect(await npmRun("npm run -s demo -- --exec verify")).toMatchObject({ code: 0, stderr: "" });
    expect(await npmRun("npm run -s demo -- --exec frob")).toMatchObject({ code: 2 });
  });

  test("lets a shell in", async () => {
    const [line = ""] = advised("A shell in the node");
    const { stdout } = await run(["bash", "-c", `${line} ip -o link show cni0`]);
    expect(stdout).toContain("cni0");
  });

  test("is gone after Ctrl-C, with all that was printed", async () => {
    expect(await leftovers(traces)).not.toEqual([]);
    const [url = ""] = advised("In a browser");
    process.kill(demo.pid, "SIGINT");
    expect(await demo.exited).toBe(0);
    // once gone is gone: a moment later a namespace of a test beside this one may have the same number
    const left = await waitFor(
      "everything to be gone",
      async () => (await leftovers(traces)).length === 0,
    ).then(
      () => [],
      () => leftovers(traces),
    );
    expect(left).toEqual([]);
    await expect(fetch(url)).rejects.toThrow();
    expect(demo.text).toMatch(/^ok +deleting all pods leaves nothing in the node/m);
  });
});
