// SPDX-License-Identifier: Apache-2.0
// The launcher at a socket that istio-cni's agent has, and in an entry that istio-cni wrote.
// Source: istio/istio cni/pkg/nodeagent/cni-watcher.go, cni/pkg/plugin/plugin.go.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, type Run, runLauncher, scratchDir } from "./launcher.ts";
import { type RawRequest, type Reply, StandInAgent } from "./stand-in-agent.ts";

beforeAll(() => buildPlugin("all", "asan"));

const prevResult = {
  cniVersion: "1.0.0",
  ips: [{ address: "10.1.2.3/24", gateway: "10.1.2.1" }, { address: "fd00::3/64" }, { address: "odd" }],
};

/** What Go's server says. */
function http(status: string, body: string): string {
  return `HTTP/1.1 ${status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

/** istio-cni's agent: it knows one path, and what it says there. */
function istioAgent(answers: (request: RawRequest) => string): Reply {
  return (socket, request) =>
    void socket.write(
      request.head.startsWith("POST /cmdadd ")
        ? answers(request)
        : http("404 Not Found", "404 page not found\n"),
    );
}

const captured = () => http("200 OK", "");
const outside = (words: string) => () =>
  http("500 Internal Server Error", `pod shop/web-0 is unexpectedly not ${words}\n`);
const notKnown = () =>
  http("500 Internal Server Error", "failed to get pod shop/web-0: failed to find pod\n");

describe.each(builds)("launcher ($build) at the socket of istio-cni", ({ binary }) => {
  const call = (command: string, runDir: string, config: object = {}, env = {}): Promise<Run> =>
    runLauncher(binary, {
      env: cniEnv(command, env),
      input: JSON.stringify({
        cniVersion: "1.0.0",
        name: "net",
        type: "istio-cni",
        cni_agent_run_dir: runDir,
        agent_wait_seconds: 0.5,
        prevResult,
        ...config,
      }),
    });

  it("ADD of a pod that istio-cni captures passes the previous result on, after its word", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, istioAgent(captured));
    const run = await call("ADD", scratch.path);
    expect([run.code, run.stdout.toString(), run.stderr]).toEqual([0, JSON.stringify(prevResult), ""]);
    const event = agent.requests.at(-1);
    expect(agent.requests.map(({ head }) => head.split(" ")[1])).toEqual(["/cni", "/cmdadd"]);
    expect(JSON.parse(event?.body.toString() ?? "")).toEqual({
      Netns: "/var/run/netns/cni-f0b0665d-2606-20df-6fa1-14d497cd07ca",
      PodName: "web-0",
      PodNamespace: "shop",
      IPs: [{ Address: { IP: "10.1.2.3" } }, { Address: { IP: "fd00::3" } }],
    });
  });

  it.each(["eligible for ambient enrollment", "enrolled in ambient"])(
    "ADD of a pod that istio-cni calls not %s passes the previous result on",
    async (words) => {
      using scratch = scratchDir();
      await using _agent = await StandInAgent.listen(scratch.path, istioAgent(outside(words)));
      const run = await call("ADD", scratch.path);
      expect([run.code, run.stdout.toString()]).toEqual([0, JSON.stringify(prevResult)]);
    },
  );

  it("ADD waits for an istio-cni that does not know its pods yet, and for its plugin socket to come", async () => {
    using scratch = scratchDir();
    let asked = 0;
    const adding = call("ADD", scratch.path, { agent_wait_seconds: 10 });
    await new Promise((resolve) => setTimeout(resolve, 200));
    await using _agent = await StandInAgent.listen(
      scratch.path,
      istioAgent(() => (++asked < 4 ? notKnown() : captured())),
    );
    const run = await adding;
    expect([run.code, asked]).toEqual([0, 4]);
  });

  it("ADD of a pod that istio-cni refuses to the end fails as one to be tried again, with its words and what to do", async () => {
    using scratch = scratchDir();
    await using _agent = await StandInAgent.listen(scratch.path, istioAgent(notKnown));
    const error = errorOf(await call("ADD", scratch.path));
    expect(error.code).toBe(11);
    expect(error.msg).toMatch(
      /istio-cni's agent has the socket.*500, "failed to get pod shop\/web-0.*uninstall ambient-cni; else uninstall istio-cni/s,
    );
  });

  it("an exempt pod starts without a word to istio-cni", async () => {
    using scratch = scratchDir();
    await using agent = await StandInAgent.listen(scratch.path, istioAgent(notKnown));
    expect((await call("ADD", scratch.path, { exempt: ["shop"] })).code).toBe(0);
    expect(agent.requests).toHaveLength(1);
  });

  it("a namespace on the list that our agent left waits for istio-cni's word: it knows what came since", async () => {
    using scratch = scratchDir();
    writeFileSync(join(scratch.path, "ambient-cni.exempt-namespaces"), "start shop uid\n");
    await using agent = await StandInAgent.listen(scratch.path, istioAgent(notKnown));
    expect(errorOf(await call("ADD", scratch.path)).code).toBe(11);
    expect(agent.requests.map(({ head }) => head.split(" ")[1])).toContain("/cmdadd");
  });

  it.each(["DEL", "CHECK", "GC", "STATUS"])(
    "%s succeeds without a word, as istio-cni's does",
    async (verb) => {
      using scratch = scratchDir();
      await using agent = await StandInAgent.listen(scratch.path, istioAgent(notKnown));
      const run = await call(verb, scratch.path);
      expect([run.code, run.stdout.toString(), run.stderr]).toEqual([0, "", ""]);
      expect(agent.requests).toHaveLength(1);
    },
  );

  it("another program that knows neither path is told as such, at once", async () => {
    using scratch = scratchDir();
    await using _agent = await StandInAgent.listen(
      scratch.path,
      (socket) => void socket.write(http("404 Not Found", "")),
    );
    const run = await call("ADD", scratch.path, { agent_wait_seconds: 10 });
    expect(errorOf(run)).toMatchObject({ code: 5 });
    expect(errorOf(run).msg).toMatch(
      /HTTP status 404.*Another program or version may own the socket: end it, or take/s,
    );
    expect(run.ms).toBeLessThan(4_000);
  });

  describe("in an entry that istio-cni wrote, while no agent is there", () => {
    const theirs = {
      agent_wait_seconds: undefined,
      ambient_enabled: true,
      exclude_namespaces: ["kube-system"],
      pod_namespace: "istio-system",
    };
    const pod = (namespace: string, name: string) => ({
      CNI_ARGS: `K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name}`,
    });

    it.each([
      ["a pod of an excluded namespace", pod("kube-system", "dns")],
      ["the next agent's pod", pod("istio-system", "istio-cni-node-x7k2p")],
    ])("%s starts", async (_what, env) => {
      using scratch = scratchDir();
      const run = await call("ADD", scratch.path, theirs, env);
      expect([run.code, run.stdout.toString()]).toEqual([0, JSON.stringify(prevResult)]);
    });

    it.each([
      ["a pod of the same name elsewhere", pod("shop", "istio-cni-node-x7k2p"), {}],
      ["another pod beside the agent", pod("istio-system", "istiod-1"), {}],
      ["a pod whose entry has a list of ours besides", pod("kube-system", "dns"), { exempt: [] }],
      ["a pod of an entry with odd values", pod("shop", "web"), { exclude_namespaces: 7, pod_namespace: [] }],
    ])("%s is held", async (_what, env, more) => {
      using scratch = scratchDir();
      const run = await call("ADD", scratch.path, { ...theirs, agent_wait_seconds: 0, ...more }, env);
      expect(errorOf(run).code).toBe(11);
    });

    it("STATUS succeeds: the kubelet would start no agent on a node without a network", async () => {
      using scratch = scratchDir();
      expect((await call("STATUS", scratch.path, theirs)).code).toBe(0);
    });
  });
});
