// SPDX-License-Identifier: Apache-2.0
// Which pods the launcher lets start without an answer of the agent: by the chain's entry, and by the agent's list of namespaces.
import { once } from "node:events";
import { copyFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, type Run, runLauncher, scratchDir } from "./launcher.ts";
import { answer, StandInAgent, sends } from "./stand-in-agent.ts";

beforeAll(() => buildPlugin("all", "asan"));

describe.each(builds)("exempt pods ($build)", ({ binary }) => {
  const prevResult = '{ "cniVersion":"1.0.0",  "ips":[] }';
  const args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0";

  interface AddOptions {
    readonly launcher?: string;
    /** While the launcher runs and has not read its configuration. */
    readonly meanwhile?: () => void;
  }

  async function add(
    runDir: string,
    more: string,
    cniArgs: string,
    { launcher = binary, meanwhile }: AddOptions = {},
  ): Promise<Run> {
    const input = `{"cniVersion":"1.0.0","cni_agent_run_dir":"${runDir}","prevResult":${prevResult}${more}}`;
    const feed = (stdin: NodeJS.WritableStream): void => {
      setTimeout(() => {
        meanwhile?.();
        stdin.end(input);
      }, 300);
    };
    const env = cniEnv("ADD", { CNI_ARGS: cniArgs });
    return await runLauncher(launcher, { env, ...(meanwhile === undefined ? { input } : { feed }) });
  }

  it.each([
    ["namespace", ["shop"], args, true],
    ["namespace with a slash", ["shop/"], args, true],
    ["prefix", ["shop/web-"], args, true],
    ["whole name", ["shop/web-0"], args, true],
    ["one of several", ["a", "b/c", "shop/w"], args, true],
    ["escaped", ["sh\\u006fp\\/web"], args, true],
    [
      "arguments in another order",
      ["shop/web-"],
      "IgnoreUnknown=1;K8S_POD_NAME=web-0;X=y;K8S_POD_NAMESPACE=shop;",
      true,
    ],
    ["arguments with empty pairs", ["shop"], ";;=;K8S_POD_NAMESPACE=shop;;K8S_POD_NAME=;", true],
    ["last of two arguments", ["shop"], "K8S_POD_NAMESPACE=other;K8S_POD_NAMESPACE=shop", true],
    ["first of two arguments", ["other"], "K8S_POD_NAMESPACE=other;K8S_POD_NAMESPACE=shop", false],
    ["nothing", [], args, false],
    ["a namespace that begins like it", ["sho"], args, false],
    ["a namespace that it begins", ["shopping"], args, false],
    ["another prefix", ["shop/db-"], args, false],
    ["a prefix longer than the name", ["shop/web-0-1"], args, false],
    ["a prefix of another namespace", ["other/web-"], args, false],
    ["a prefix with a slash", ["shop/web-0/"], args, false],
    ["an empty entry", [""], args, false],
    ["an entry without a namespace", ["/web-"], args, false],
    ["a pattern of all", ["*"], args, true],
    ["a pattern", ["sh*"], args, true],
    ["a pattern that matches nothing more", ["shop*"], args, true],
    ["a pattern in the middle", ["s*p"], args, true],
    ["a pattern that has to look twice", ["*o*p"], args, true],
    ["a pattern with a prefix", ["sh*/web-"], args, true],
    ["a pattern of others", ["openshift-*"], args, false],
    ["a pattern that ends too early", ["sh*o"], args, false],
    ["a pattern with another prefix", ["sh*/db-"], args, false],
    ["a pattern for the pod's name", ["shop/*"], args, false],
    ["capital letters", ["Shop"], args, false],
    ["no arguments", ["shop", ""], "", false],
    ["an empty namespace", ["", "/"], "K8S_POD_NAMESPACE=;K8S_POD_NAME=web-0", false],
    ["an argument that ends like it", ["shop"], "XK8S_POD_NAMESPACE=shop", false],
    ["an argument without a value", ["shop"], "K8S_POD_NAMESPACE;shop", false],
    ["an entry of 600 bytes", [`shop/${"w".repeat(600)}`], args, false],
  ])("%s: entries %j, arguments %j", async (_what, entries, cniArgs, passes) => {
    using scratch = scratchDir();
    const list = `[${entries.map((entry) => `"${entry}"`).join(",")}]`;
    const run = await add(scratch.path, `,"exempt":${list},"agent_wait_seconds":${passes ? 30 : 0}`, cniArgs);
    if (!passes) return void expect(errorOf(run).code).toBe(11);
    expect([run.code, run.stdout.toString()]).toEqual([0, prevResult]);
    expect(run.stderr).toContain("exempt");
    expect(run.ms).toBeLessThan(10_000); // at once, without the wait
  });

  const lists: readonly [string, string, boolean][] = [
    ["a line", "start kube-system\nstart shop\n", true],
    ["the last line without an end", "start kube-system\nstart shop", true],
    ["a UID", "start shop 8c71-22\n", true],
    ["more space than is needed", " start  shop  8c71\n", true],
    ["much before it", `${"start some-other-namespace 8c71-22\n".repeat(10_000)}start shop\n`, true],
    ["the contrary", "hold shop 8c71\n", false],
    ["comments", "# start shop\n#start shop\n", false],
    ["an empty file", "", false],
    ["empty lines", "\n\n \n", false],
    ["names that begin like it", "start shopping\nstart sho\n", false],
    ["its name as another's UID", "start kube-system shop\n", false],
    ["a name alone", "shop\n", false],
    ["a pattern", "start *\nstart sh*\n", false],
    ["a prefix", "start shop/web-\n", false],
    ["a line of 600 bytes", `start shop ${"w".repeat(600)}\n`, false],
    ["zero bytes", "\0start shop\n", false],
  ];
  it.each(lists)("the list beside the launcher has %s", async (_what, text, starts) => {
    using scratch = scratchDir();
    using bin = scratchDir();
    copyFileSync(binary, `${bin.path}/ambient-cni`);
    writeFileSync(`${bin.path}/ambient-cni.exempt-namespaces`, text);
    const run = await add(scratch.path, `,"agent_wait_seconds":${starts ? 30 : 0}`, args, {
      launcher: `${bin.path}/ambient-cni`,
    });
    if (starts) expect([run.code, run.stdout.toString()]).toEqual([0, prevResult]);
    else
      expect(errorOf(run)).toMatchObject({
        code: 11,
        msg: expect.stringContaining("may belong to the mesh"),
      });
  });

  it("the list beside the launcher is found from a link to it, under another name, and after a newer one took its place", async () => {
    using scratch = scratchDir();
    using bin = scratchDir();
    using elsewhere = scratchDir();
    const launcher = `${bin.path}/istio-cni`;
    copyFileSync(binary, launcher);
    writeFileSync(`${bin.path}/ambient-cni.exempt-namespaces`, "start shop\n");
    symlinkSync(launcher, `${elsewhere.path}/plugin`);
    const linked = await add(scratch.path, "", args, { launcher: `${elsewhere.path}/plugin` });
    expect([linked.code, linked.stdout.toString()]).toEqual([0, prevResult]);
    const running = await add(scratch.path, "", args, { launcher, meanwhile: () => rmSync(launcher) });
    expect([running.code, running.stdout.toString()]).toEqual([0, prevResult]);
  });

  it("the list in the run directory counts as well", async () => {
    using scratch = scratchDir();
    writeFileSync(`${scratch.path}/ambient-cni.exempt-namespaces`, "start shop 8c71\n");
    const run = await add(scratch.path, ',"agent_wait_seconds":30', args);
    expect([run.code, run.stdout.toString()]).toEqual([0, prevResult]);
  });

  it("a running agent decides about exempt pods too", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, sends(answer('{"code":7,"msg":"no"}', 1)));
    const run = await add(scratch.path, ',"exempt":["shop"]', args);
    expect([run.code, run.stdout.toString(), agent.requests.length]).toEqual([1, '{"code":7,"msg":"no"}', 1]);
  });

  it("an agent that hangs, dies or talks nonsense holds no exempt pod", async () => {
    for (const reply of [
      () => undefined,
      (socket: Socket) => socket.destroy(),
      sends("garbage"),
      sends("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    ]) {
      using scratch = scratchDir();
      await using _agent = await StandInAgent.listen(scratch.path, reply);
      const run = await add(scratch.path, ',"exempt":["shop"],"agent_answer_seconds":0.3', args);
      expect([run.code, run.stdout.toString()]).toEqual([0, prevResult]);
      expect(run.ms).toBeLessThan(4000);
    }
  });

  it("an agent that hangs holds an exempt pod for no more than 2 s", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, () => undefined);
    const run = await add(scratch.path, ',"exempt":["sh*"],"agent_answer_seconds":60', args);
    expect([run.code, run.stdout.toString(), agent.connections]).toEqual([0, prevResult, 1]);
    expect(run.ms).toBeGreaterThanOrEqual(1990);
    expect(run.ms).toBeLessThan(4000);
  });

  it("an agent that works on a pod, and took its namespace off the list, is waited for", async () => {
    using scratch = scratchDir();
    const list = `${scratch.path}/ambient-cni.exempt-namespaces`;
    writeFileSync(list, "start shop\n");
    await using agent = await StandInAgent.listen(scratch.path, (socket) => {
      writeFileSync(list, "hold shop 8c71\n");
      setTimeout(() => socket.end(answer("captured")), 2500);
    });
    const run = await add(scratch.path, "", args);
    expect([run.code, run.stdout.toString(), agent.connections]).toEqual([0, "captured", 1]);
  });

  const status = (runDir: string, config: object): Promise<Run> =>
    runLauncher(binary, {
      env: cniEnv("STATUS"),
      input: JSON.stringify({ cniVersion: "1.0.0", cni_agent_run_dir: runDir, ...config }),
    });

  it("STATUS fails whatever namespace is exempt", async () => {
    using scratch = scratchDir();
    const run = await status(scratch.path, { exempt: ["shop"], prevResult: {} });
    expect(errorOf(run).code).toBe(50);
  });

  it("STATUS succeeds where the agent's own pods are exempt: the kubelet would not start them on a node without a network", async () => {
    using scratch = scratchDir();
    const own = ["kube-system", "istio-system/ambient-cni-node-"];
    const run = await status(scratch.path, { exempt: own });
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
    await using _agent = await StandInAgent.listen(scratch.path, sends(answer('{"code":50,"msg":"no"}', 1)));
    expect(errorOf(await status(scratch.path, { exempt: own })).code).toBe(50);
  });

  it("a list that is no file is no list", async () => {
    using scratch = scratchDir();
    const server = createServer().listen(`${scratch.path}/ambient-cni.exempt-namespaces`);
    await once(server, "listening");
    const run = await add(scratch.path, ',"agent_wait_seconds":0', args);
    expect(errorOf(run).code).toBe(11);
    await new Promise((resolve) => server.close(resolve));
  });
});
