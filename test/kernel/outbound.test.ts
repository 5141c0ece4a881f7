// SPDX-License-Identifier: Apache-2.0
// Pods of the mesh that can send past ztunnel: the doctor's word against what the kernel lets their processes do, and what
// SECURITY.md says of the ways.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./outbound.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "outbound.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const none = "no process of 1 pods of the mesh has NET_ADMIN or NET_RAW";
const named = (how: string) =>
  `1 of 1 pods of the mesh can send past ztunnel, by mark 0x539 or a packet socket: mesh/web (${how})`;
const setpriv = (...args: string[]) => ["setpriv", ...args];
const without = setpriv("--bounding-set=-all");
const nobody = ["--reuid=65534", "--clear-groups"];
const may = "mark=ok packet=ok";
const mayNot = "mark=EPERM packet=EPERM";

describe("doctor and kernel agree on a pod whose process", () => {
  test.each([
    ["has no capability", without, {}, mayNot, none],
    ["has all but the two", setpriv("--bounding-set=-net_raw,-net_admin"), {}, mayNot, none],
    ["has NET_RAW alone", setpriv("--bounding-set=-all,+net_raw"), {}, may, named("NET_RAW")],
    [
      "has NET_ADMIN alone",
      setpriv("--bounding-set=-all,+net_admin"),
      {},
      "mark=ok packet=EPERM",
      named("NET_ADMIN"),
    ],
    ["has every capability", [], {}, may, named("privileged")],
    [
      "has NET_RAW permitted, not effective",
      setpriv("--bounding-set=-all,+net_raw"),
      { lowered: true },
      may,
      named("NET_RAW"),
    ],
    [
      "has all in a user namespace of its own making",
      setpriv(...nobody, "--bounding-set=-all", "unshare", "--user", "--map-root-user"),
      {},
      mayNot,
      none,
    ],
  ] as const)("%s", async (_name, prefix, options, kernel, what) => {
    const judged = await node.call.judge(prefix, options);
    expect([judged.kernel, judged.what]).toEqual([kernel, what]);
    expect(judged.level).toBe(what === none ? "ok" : "warn");
  });

  test("can start a program that has NET_RAW", async () => {
    const judged = await node.call.judge(setpriv(...nobody, "--bounding-set=-all,+net_raw"));
    expect(judged).toMatchObject({ kernel: mayNot, byProgram: may, level: "warn" });
    expect(judged.what).toBe(named("NET_RAW through a program that has it"));
  });

  test("can start such a program, which gives it nothing", async () => {
    const judged = await node.call.judge(
      setpriv(...nobody, "--bounding-set=-all,+net_raw", "--no-new-privs"),
    );
    expect(judged).toMatchObject({ kernel: mayNot, byProgram: mayNot, level: "ok", what: none });
  });

  test.each([
    ["has NET_RAW in the user namespace that owns the pod's network", [], may, /own-users \(privileged\)/],
    [
      "has none there",
      setpriv("--bounding-set=-net_raw,-net_admin", "--inh-caps=-all"),
      mayNot,
      /^no process of 1 pods/,
    ],
  ] as const)("%s", async (_name, prefix, kernel, what) => {
    const judged = await node.call.judgeOwnUsers(prefix);
    expect(judged.kernel).toBe(kernel);
    expect(judged.what).toMatch(what);
  });
});

describe("a capability is not held against the pod", () => {
  test("that its sandbox has, in which no code of a tenant runs", async () => {
    expect(await node.call.judge([], { isSandbox: true })).toMatchObject({ kernel: may, what: none });
  });
  test("and is, where nothing else runs, for then it may be the pod's own", async () => {
    const judged = await node.call.judge([], { isSandbox: true, isAlone: true });
    expect(judged).toMatchObject({ kernel: may, what: named("privileged") });
  });
  test("that a program of the node has that entered its network", async () => {
    expect(await node.call.judge([], { isNodes: true })).toMatchObject({ kernel: may, what: none });
  });
});

test("doctor prints one line, three names and a count", async () => {
  const found = await node.call.doctorOf(5);
  const list = "mesh/full-0 (privileged), mesh/full-1 (privileged), mesh/full-2 (privileged), and 2 more";
  expect(found).toEqual([
    {
      id: "outbound-bypass",
      level: "warn",
      what: `5 of 6 pods of the mesh can send past ztunnel, by mark 0x539 or a packet socket: ${list}`,
      fix: expect.stringContaining("capabilities.drop: [ALL]"),
    },
  ]);
});

describe("what a process of a captured pod sends", () => {
  test("goes to ztunnel when it has neither capability", async () => {
    const ways = ["udp", "udp-mark", "packet", "tcp-mark"];
    const { answers, arrived } = await node.call.arrivals(ways, without);
    expect(answers).toEqual({ udp: "ok", "udp-mark": "EPERM", packet: "EPERM", "tcp-mark": "EPERM" });
    expect(arrived).toEqual([]);
  });

  test("passes ztunnel by with NET_RAW, by either mark and by a frame that no rule sees", async () => {
    const ways = ["udp", "udp-mark", "packet", "tcp-mark", "tcp-reply"];
    const { arrived } = await node.call.arrivals(ways, setpriv("--bounding-set=-all,+net_raw"));
    expect(arrived).toEqual(["udp udp-mark", "udp packet", "tcp", "tcp"]);
  });
});
