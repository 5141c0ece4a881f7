// SPDX-License-Identifier: Apache-2.0
// How the environment and stdin reach the agent.
import { randomBytes } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, runLauncher, scratchDir } from "./launcher.ts";
import { answer, StandInAgent, sends } from "./stand-in-agent.ts";

beforeAll(() => buildPlugin("all", "asan"));

describe.each(builds)("launcher ($build)", ({ binary }) => {
  it("the request is POST /cni with each CNI_ variable as a header and stdin as the body", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer("{}")));
    const input = `{"cniVersion":"1.0.0", "cni_agent_run_dir":"${scratch.path}"}\n`;
    const env = {
      ...cniEnv("ADD"),
      CNI_X: "",
      CNI_lower_Case: "a",
      HOME: "/root",
      AWS_SECRET: "s",
      XCNI_A: "no",
    };
    expect((await runLauncher(binary, { env, input })).code).toBe(0);
    const lines = agent.requests[0]!.head.split("\r\n");
    expect(lines.slice(0, 5)).toEqual([
      "POST /cni HTTP/1.1",
      "Host: localhost",
      "Connection: close",
      "Content-Type: application/json",
      `Content-Length: ${Buffer.byteLength(input)}`,
    ]);
    expect(lines.slice(5).sort()).toEqual([
      "",
      "",
      "CNI-ARGS: K8S_POD_UID=1-2;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
      "CNI-COMMAND: ADD",
      "CNI-CONTAINERID: cbe7e986cbe7e986",
      "CNI-IFNAME: eth0",
      "CNI-NETNS: /var/run/netns/cni-f0b0665d-2606-20df-6fa1-14d497cd07ca",
      "CNI-PATH: /opt/cni/bin",
      "CNI-X: ",
      "CNI-lower-Case: a",
    ]);
    expect(agent.requests[0]!.body.toString()).toBe(input);
  });

  it.each(["ADD", "CHECK", "STATUS", "DEL", "GC"])(
    "%s tells the agent its verb and passes the body on",
    async (command) => {
      using scratch = scratchDir();
      await using agent = await StandInAgent.listen(scratch.path, sends(answer('{"a":1}')));
      const input = JSON.stringify({ cni_agent_run_dir: scratch.path });
      const run = await runLauncher(binary, { env: cniEnv(command, { CNI_NETNS: "" }), input });
      const forgives = command === "DEL" || command === "GC";
      expect([run.code, run.stdout.toString(), run.stderr]).toEqual([0, forgives ? "" : '{"a":1}', ""]);
      expect(agent.requests).toHaveLength(1);
      expect(agent.requests[0]!.headers.get("CNI-COMMAND")).toBe(command);
      expect(agent.requests[0]!.headers.get("CNI-NETNS")).toBe("");
    },
  );

  it.each([
    ["tab", "a\tb"],
    ["UTF-8", "grüße 😀"],
    ["colons and equals signs", "a: b=c;d: e"],
    ["60 000 bytes", "x".repeat(60_000)],
  ])("a value with %s arrives as it is", async (_what, value) => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer("")));
    const input = JSON.stringify({ cni_agent_run_dir: scratch.path });
    const run = await runLauncher(binary, { env: { CNI_COMMAND: "ADD", CNI_ARGS: value }, input });
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
    expect(Buffer.from(agent.requests[0]!.headers.get("CNI-ARGS")!, "latin1").toString()).toBe(value);
  });

  it.each([
    ["CR LF", "CNI_ARGS", "a\r\nCNI-NETNS: /evil", "control character"],
    ["LF", "CNI_ARGS", "a\nb", "control character"],
    ["CR", "CNI_ARGS", "\r", "control character"],
    ["a control byte", "CNI_IFNAME", "eth\u0001", "control character"],
    ["DEL", "CNI_IFNAME", "eth\u007f", "control character"],
    ["an escape", "CNI_IFNAME", "\u001b[31m", "control character"],
    ["a name that is no header name", "CNI_A B", "x", "cannot be passed on"],
    ["a colon in the name", "CNI_A:B", "x", "cannot be passed on"],
    ["a name beyond ASCII", "CNI_Ä", "x", "cannot be passed on"],
    ["a name like another one", "CNI_CONTAINER-ID", "x", "differs only in spelling"],
    ["too much", "CNI_ARGS", "x".repeat(66_000), "64 KiB"],
  ])("%s in the environment is refused by ADD and left out by DEL", async (_what, name, value, why) => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer("{}")));
    const input = JSON.stringify({ cniVersion: "0.3.1", cni_agent_run_dir: scratch.path });
    const env = (command: string) => ({ CNI_COMMAND: command, CNI_CONTAINER_ID: "first", [name]: value });

    const error = errorOf(await runLauncher(binary, { env: env("ADD"), input }));
    expect(error).toMatchObject({ cniVersion: "0.3.1", code: 4 });
    expect(error.msg).toContain(name);
    expect(error.msg).toContain(why);
    expect(agent.connections).toBe(0);

    const run = await runLauncher(binary, { env: env("DEL"), input });
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
    expect(run.stderr).toContain(why);
    expect([...agent.requests[0]!.headers.keys()].filter((key) => key.startsWith("CNI-")).sort()).toEqual([
      "CNI-COMMAND",
      "CNI-CONTAINER-ID",
    ]);
    expect(agent.requests[0]!.headers.get("CNI-CONTAINER-ID")).toBe("first");
  });

  it("stdin of exactly 1 MiB is passed on byte for byte, one byte more is refused", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer("ok")));
    const start = `{"cni_agent_run_dir":"${scratch.path}","cniVersion":"1.0.0","x":"`;
    const filler = randomBytes(600_000).toString("hex");
    const input = `${start}${filler.slice(0, (1 << 20) - start.length - 2)}"}`;
    const run = await runLauncher(binary, { env: cniEnv("ADD"), input });
    expect([run.code, run.stdout.toString()]).toEqual([0, "ok"]);
    expect(agent.requests[0]!.body.equals(Buffer.from(input))).toBe(true);

    const error = errorOf(await runLauncher(binary, { env: cniEnv("ADD"), input: `${input} ` }));
    expect(error.code).toBe(6);
    expect(error.msg).toContain("larger than 1 MiB");
    const del = await runLauncher(binary, { env: cniEnv("DEL"), input: `${input} ` });
    expect([del.code, del.stdout.toString()]).toEqual([0, ""]);
    expect(agent.requests).toHaveLength(1);
  });

  it("stdin that comes byte by byte is read to its end", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer("ok")));
    const input = JSON.stringify({ cni_agent_run_dir: scratch.path });
    const run = await runLauncher(binary, {
      env: cniEnv("ADD"),
      feed: async (stdin) => {
        for (const byte of Buffer.from(input))
          await new Promise((resolve) => stdin.write(Buffer.of(byte), () => setImmediate(resolve)));
        stdin.end();
      },
    });
    expect(run.code).toBe(0);
    expect(agent.requests[0]!.body.toString()).toBe(input);
  });

  it("DEL succeeds within its 2 s when stdin never ends", async () => {
    const run = await runLauncher(binary, { env: cniEnv("DEL"), feed: (stdin) => void stdin.write("{") });
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
    expect(run.stderr).toContain("stdin");
    expect(run.ms).toBeGreaterThan(1900);
    expect(run.ms).toBeLessThan(4500);
  });

  it.each([
    ["stdin", "<&-", "ADD", 1],
    ["stdin", "<&-", "DEL", 0],
    ["stdin", "<&-", "VERSION", 0],
    ["stdout", ">&-", "ADD", 1],
    ["stderr", "2>&-", "ADD", 0],
    ["stdout and stderr", ">&- 2>&-", "DEL", 0],
  ])(
    "a closed %s (%s) makes %s end with %i and nothing astray",
    async (_which, redirection, command, code) => {
      using scratch = scratchDir();
      await using agent = await StandInAgent.listen(scratch.path, sends(answer("from the agent")));
      const run = await runLauncher(`exec ${binary} ${redirection}`, {
        wrapper: ["/bin/sh", "-c"],
        env: cniEnv(command),
        input: JSON.stringify({ cni_agent_run_dir: scratch.path }),
      });
      expect(run.code).toBe(code);
      // What is meant for stdout never goes to the agent's socket.
      for (const request of agent.requests) expect(request.body.toString()).not.toContain("from the agent");
    },
  );
});
