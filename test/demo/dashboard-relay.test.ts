// SPDX-License-Identifier: Apache-2.0
// The way of a browser on the machine into the node of a demo: only from the loopback address, and only while the node lives.
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listeningSockets } from "../support/node/kernel.ts";
import { NodeModule } from "../support/node/node-module.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { DashboardRelay } from "./dashboard-relay.ts";
import { dashboardSocket, findKeptDemo, pathInNode } from "./kept-demo.ts";

type Inside = typeof import("./dashboard-relay.inside.ts");
const entry = join(import.meta.dirname, "main.ts");

describe.skipIf(process.getuid?.() !== 0)("the dashboard of a node (needs root)", () => {
  let node: NodeModule<Inside>;
  let relay: DashboardRelay;

  beforeAll(async () => {
    node = await NodeModule.start<Inside>(join(import.meta.dirname, "dashboard-relay.inside.ts"));
    relay = await DashboardRelay.outside(0, async () => {
      const demo = await findKeptDemo(process.pid);
      return demo === undefined ? undefined : pathInNode(demo.pid, dashboardSocket);
    });
  });
  afterAll(async () => {
    await relay?.[Symbol.asyncDispose]();
    await node?.stop();
  });

  function ask(path: string): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      get({ host: "127.0.0.1", port: relay.port, path, agent: false }, resolve).once("error", reject);
    });
  }

  test("is not there before the node says that it stays up", async () => {
    expect(await findKeptDemo(process.pid)).toBeUndefined();
    await expect(ask("/")).rejects.toThrow(/hang up|ECONNRESET/);
    await node.call.open();
    expect(await findKeptDemo(process.pid)).toMatchObject({ env: { PATH: expect.any(String) } });
  });

  test("is reached on 127.0.0.1 and nowhere else, under the name that the browser used", async () => {
    const response = await ask("/");
    response.setEncoding("utf8");
    expect((await response.toArray()).join("")).toBe(`host 127.0.0.1:${relay.port}`);
    const sockets = await listeningSockets("/proc/self/ns/net");
    const own = sockets.filter(({ protocol, port }) => protocol === "tcp" && port === relay.port);
    expect(own.map(({ address }) => address)).toEqual(["127.0.0.1"]);
  });

  test("hears that a browser has gone", async () => {
    const response = await ask("/stream");
    expect(String((await once(response, "data"))[0])).toBe("first\n");
    expect(await node.call.openStreams()).toBe(1);
    response.destroy();
    await waitFor("the stream to end", async () => (await node.call.openStreams()) === 0);
  });

  test("is away when the node ends, and so is who listened", async () => {
    const response = await ask("/stream");
    const gone = new Promise((resolve) => response.once("close", resolve));
    response.on("error", () => {});
    response.resume();
    await node.stop();
    await gone;
    await expect(ask("/")).rejects.toThrow(/hang up|ECONNRESET/);
    expect(await findKeptDemo(process.pid)).toBeUndefined();
  });

  test("a port that is taken is said before anything else is done", async () => {
    const argv = [process.execPath, entry, "--keep", "--dashboard-port", String(relay.port)];
    const { code, stderr, stdout } = await run(argv, { mayFail: true });
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^demo: Cannot offer the dashboard: listen EADDRINUSE.*; take another port\n$/);
  });
});

test.each([
  ["a port without --keep", ["--dashboard-port", "1"], "without --keep"],
  ["a word for a port", ["--keep", "--dashboard-port", "x"], 'Cannot use "x"'],
  ["a port beyond all ports", ["--keep", "--dashboard-port", "65536"], 'Cannot use "65536"'],
  ["a flag that is none", ["--keeep"], "--keeep"],
])("the demo refuses %s and shows its usage", async (_, args, why) => {
  const { code, stdout, stderr } = await run([process.execPath, entry, ...args], { mayFail: true });
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toContain(why);
  expect(stderr).toContain("usage: npm run demo");
});
