// SPDX-License-Identifier: Apache-2.0
import { type ClientRequest, type IncomingMessage, request, type ServerResponse } from "node:http";
import { Writable } from "node:stream";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { LiveFeed } from "../../src/dashboard/live-feed.ts";
import { refusalOf } from "../../src/dashboard/loopback-guard.ts";
import { PageKey } from "../../src/dashboard/page-key.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { FakeNode } from "./fake-node.ts";

let node: FakeNode;
const open: ClientRequest[] = [];

beforeEach(async () => {
  node = await FakeNode.start();
});
afterEach(async () => {
  for (const each of open.splice(0)) each.destroy();
  await node.close();
});

interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

function send(path: string, { method = "GET", headers = {} }: Asked = {}): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const [cookie = ""] = node.key.cookie.split(";", 1);
  const all = { cookie, ...headers };
  const asked = request(
    { host: "127.0.0.1", port: node.port, path, method, headers: all, agent: false },
    resolve,
  );
  open.push(asked.on("error", reject));
  asked.end();
  return promise;
}

async function ask(
  path: string,
  asked: Asked = {},
): Promise<{ status: number; text: string; headers: IncomingMessage["headers"] }> {
  const response = await send(path, asked);
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += chunk;
  return { status: response.statusCode ?? 0, text, headers: response.headers };
}

/** The events of a stream that have come so far. */
async function listen(): Promise<{
  response: IncomingMessage;
  events: () => { name: string; data: Record<string, unknown[]> }[];
}> {
  const response = await send("/events");
  let text = "";
  response.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  response.on("error", () => {});
  const events = () =>
    [...text.matchAll(/^event: (\w+)\ndata: (.*)\n\n/gm)].map(([, name = "", data = "{}"]) => ({
      name,
      data: JSON.parse(data),
    }));
  return { response, events };
}

describe("guard", () => {
  const page = { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" };
  test.each<[string, Asked & { url?: string }, number | undefined]>([
    ["127.0.0.1 with the port", { headers: { host: "127.0.0.1:15015" } }, undefined],
    ["localhost behind a forwarded port", { headers: { host: "localhost:8080" } }, undefined],
    ["LOCALHOST", { headers: { host: "LOCALHOST" } }, undefined],
    ["the IPv6 loopback", { headers: { host: "[::1]:15015" } }, undefined],
    ["a name that was rebound to us", { headers: { host: "rebound.example:15015" } }, 403],
    ["a name that begins like ours", { headers: { host: "127.0.0.1.example" } }, 403],
    ["a name that hides ours in front", { headers: { host: "localhost:1@evil.example" } }, 403],
    ["no host", {}, 403],
    ["our own script", { headers: { host: "localhost", "sec-fetch-site": "same-origin" } }, undefined],
    [
      "another site's script",
      { headers: { host: "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" } },
      403,
    ],
    ["another port's script", { headers: { host: "localhost", "sec-fetch-site": "same-site" } }, 403],
    ["another site's link to the page", { url: "/", headers: { host: "localhost", ...page } }, undefined],
    [
      "another site's link to the data",
      { url: "/api/v1/node", headers: { host: "localhost", ...page } },
      403,
    ],
    [
      "another site's frame",
      { url: "/", headers: { host: "localhost", ...page, "sec-fetch-dest": "iframe" } },
      403,
    ],
    ["another origin", { headers: { host: "localhost:15015", origin: "http://evil.example" } }, 403],
    ["our own origin", { headers: { host: "localhost:15015", origin: "http://localhost:15015" } }, undefined],
    ["a sandboxed frame's origin", { headers: { host: "localhost:15015", origin: "null" } }, 403],
    ["POST", { method: "POST", headers: { host: "localhost" } }, 405],
    [
      "OPTIONS, as before a request of another origin",
      { method: "OPTIONS", headers: { host: "localhost" } },
      405,
    ],
  ])("%s", (_, { method = "GET", headers = {}, url = "/events" }, status) => {
    expect(refusalOf({ method, headers, url })?.status).toBe(status);
  });

  test.each(["/", "/events", "/dashboard.js", "/api/v1/node", "/api/v1/pods", "/api/v1/pods/shop/x/rules"])(
    "stands before %s",
    async (path) => {
      expect((await ask(path, { headers: { host: "rebound.example" } })).status).toBe(403);
      expect((await ask(path, { method: "PUT" })).status).toBe(405);
    },
  );
});

describe("key", () => {
  const paths = [
    "/",
    "/events",
    "/dashboard.js",
    "/api/v1/pods/shop/x",
    "/api/v1/pods/shop/x/rules",
    "/nothing",
  ];

  test.each([
    ["without it", "", ""],
    ["with another", "", "?key=secret-of-a-tesT"],
    ["with an empty one", "", "?key="],
    ["with a part of it", "", "?key=secret"],
    ["with another page's cookie", "ambient-cni-00000000=secret-of-a-test", ""],
    ["with a wrong cookie", "ambient-cni-6b2c=; key=secret-of-a-test", ""],
  ])("%s nothing is answered", async (_, cookie, query) => {
    for (const path of paths) {
      const { status, text, headers } = await ask(`${path}${query}`, { headers: { cookie } });
      expect([path, status, headers["set-cookie"]]).toEqual([path, 401, undefined]);
      expect(text).toBe("open the address that ambient-cni dashboard printed, with its key\n");
    }
  });

  test("in the address opens the page, which gets it as a cookie that no script and no other site can use", async () => {
    const { status, headers } = await ask(`/${node.key.query}`, { headers: { cookie: "" } });
    expect(status).toBe(200);
    expect(headers["set-cookie"]).toEqual([
      expect.stringMatching(/^ambient-cni-[0-9a-f]{8}=secret-of-a-test; HttpOnly; SameSite=Strict; Path=\/$/),
    ]);
    const [cookie = ""] = headers["set-cookie"]?.[0]?.split(";", 1) ?? [];
    const among = `other=1; ${cookie}; ambient-cni-00000000=x`;
    expect((await ask("/dashboard.js", { headers: { cookie: among } })).status).toBe(200);
  });

  test("is another for each command, and long", () => {
    const [one, other] = [new PageKey().query, new PageKey().query];
    expect(one).toMatch(/^\?key=[\w-]{32}$/);
    expect(one).not.toBe(other);
  });
});

describe("server", () => {
  test("the page is served under a policy that lets it reach nothing else", async () => {
    const { status, text, headers } = await ask("/");
    expect(status).toBe(200);
    expect(text).toContain("<title>ambient-cni");
    expect(text).not.toMatch(/<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?:\/\/(?!www\.w3\.org)/);
    expect(headers["content-security-policy"]).toMatch(/default-src 'none'.*frame-ancestors 'none'/);
    expect(headers["content-security-policy"]).not.toContain("unsafe");
    expect(headers["x-content-type-options"]).toBe("nosniff");
    for (const path of ["/dashboard.css", "/dashboard.js"]) {
      const file = await ask(path);
      expect(file.status).toBe(200);
      expect(file.text).not.toMatch(/https?:\/\/|@import|url\(/);
    }
  });

  test("of the state API only single pods are there, and nothing can be changed", async () => {
    expect((await ask("/api/v1/log-levels", { method: "PUT" })).status).toBe(405);
    for (const path of ["/api/v1/log-levels", "/api/v1/pods", "/api/v1/node"])
      expect((await ask(path)).status).toBe(404);
  });

  test("an agent that does not answer is told of, and the page is there all the same", async () => {
    const [name = ""] = node.addPods(1);
    node.away = new Error("nobody listens on the socket");
    for (const path of [`/api/v1/pods/shop/${name}`, `/api/v1/pods/shop/${name}/rules`]) {
      const { status, text } = await ask(path);
      expect([status, JSON.parse(text)]).toEqual([503, { error: "nobody listens on the socket" }]);
    }
    expect((await ask("/")).status).toBe(200);
  });

  test.each([
    ["/nothing", 404],
    ["/api/v1/nothing", 404],
    ["/api/v1/pods/shop/nobody", 404],
    ["/api/v1/pods/shop/nobody/rules", 404],
    ["/api/v1/pods/shop/..%2f..%2fetc/rules", 404],
    ["/api/v1/pods/shop/UPPER/rules", 404],
  ])("%s is answered with %i", async (path, status) => {
    expect((await ask(path)).status).toBe(status);
  });

  test("what is known of a pod, and its rules, are there to read", async () => {
    const [name = ""] = node.addPods(1);
    expect(JSON.parse((await ask(`/api/v1/pods/shop/${name}`)).text)).toMatchObject({ ns: "shop", name });
    const rules = JSON.parse((await ask(`/api/v1/pods/shop/${name}/rules`)).text);
    expect(rules).toMatchObject({ name, families: [{ family: 4 }, { family: 6 }] });
  });
});

describe("live feed", () => {
  test("begins with everything, then tells only what changes", async () => {
    const names = node.addPods(40);
    const { events } = await listen();
    await waitFor("the whole", () => events().length > 0);
    expect(events()[0]).toMatchObject({ name: "whole", data: { pods: { length: 40 } } });
    const changed = names[7] ?? "";
    node.setState(changed, "failed");
    const startMs = performance.now();
    const changes = () =>
      events().filter(({ name, data }) => name === "change" && (data.pods?.length ?? 0) > 0);
    await waitFor("the change", () => changes().length > 0);
    expect(performance.now() - startMs).toBeLessThan(1000);
    expect(changes()[0]?.data.pods).toMatchObject([{ name: changed, state: "failed" }]);
    node.agent.pods.delete(`uid-${changed}`);
    node.agent.records.delete(`uid-${changed}`);
    await waitFor("the end", () => events().some(({ data }) => data.gone?.[0] === `uid-${changed}`));
  });

  test("says nothing of pods while nothing happens, and still lives", async () => {
    node.addPods(10);
    const { events } = await listen();
    await waitFor("two signs of life", () => events().length >= 3, { timeoutMs: 8000 });
    expect(
      events()
        .slice(1)
        .flatMap(({ data }) => [...(data.pods ?? []), ...(data.gone ?? [])]),
    ).toEqual([]);
  });

  test("asks the agent nothing while nobody listens", async () => {
    const { response } = await listen();
    const { rejects } = { rejects: vi.spyOn(node.agent.readiness, "reason", "get") };
    await waitFor("the feed to run", () => rejects.mock.calls.length > 0);
    response.destroy();
    // the last look may be under way
    await waitFor("the feed to stop", async () => {
      const before = rejects.mock.calls.length;
      const endMs = performance.now() + 700;
      await waitFor("two intervals", () => performance.now() > endMs, { intervalMs: 50 });
      return rejects.mock.calls.length === before;
    });
  });

  test("ends when the agent is away, which is told once, and begins again when it is back", async () => {
    const { response, events } = await listen();
    await waitFor("the whole", () => events().length > 0);
    const ended = new Promise((resolve) => response.once("end", resolve));
    node.away = new Error("the agent has ended");
    await ended;
    for (let tries = 0; tries < 2; tries++) {
      const again = await listen();
      await new Promise((resolve) => again.response.once("end", resolve));
      expect(again.events()).toEqual([]);
    }
    expect(node.faults).toEqual(["the agent has ended"]);
    node.away = undefined;
    const back = await listen();
    await waitFor("the whole again", () => back.events()[0]?.name === "whole");
    expect(node.faults).toEqual(["the agent has ended", undefined]);
  });

  test("one page more than allowed is refused, and let in when another leaves", async () => {
    const listeners = await Promise.all(Array.from({ length: 8 }, listen));
    const refused = await ask("/events");
    expect(refused.status).toBe(503);
    expect(refused.headers["retry-after"]).toBe("5");
    listeners[0]?.response.destroy();
    await waitFor("room", async () => {
      const response = await send("/events");
      response.on("error", () => {});
      return response.statusCode === 200;
    });
  });

  test("a page that does not read is sent nothing more, and then the whole", async () => {
    const names = node.addPods(3);
    const feed = new LiveFeed({ agent: node.reader, onfault: () => {} });
    const slow = new SlowReader();
    const quick = new SlowReader();
    for (const reader of [slow, quick]) feed.add(reader as unknown as ServerResponse);
    await waitFor("both wholes", () => slow.written.length === 1 && quick.written.length === 1);
    for (let round = 0; round < 5; round++) {
      quick.takeAll();
      node.setState(names[0] ?? "", round % 2 === 0 ? "pending" : "enrolled");
      await waitFor("the change", () => quick.written.length === round + 2);
    }
    expect(slow.written).toHaveLength(1);
    slow.takeAll();
    await waitFor("the whole again", () => slow.written.length === 2);
    expect(slow.written.map((text) => /^event: (\w+)/.exec(text)?.[1])).toEqual(["whole", "whole"]);
    expect(quick.written.slice(1).every((text) => text.startsWith("event: change"))).toBe(true);
    feed.close();
    await waitFor("the end", () => feed.size === 0);
  });
});

/** A stream that is full after each write until it is taken. */
class SlowReader extends Writable {
  readonly written: string[] = [];
  #done: (() => void) | undefined;

  constructor() {
    super({ highWaterMark: 1, decodeStrings: false });
  }

  override _write(text: string, _encoding: string, done: () => void): void {
    this.written.push(text);
    this.#done = done;
  }

  takeAll(): void {
    this.#done?.();
    this.#done = undefined;
  }
}
