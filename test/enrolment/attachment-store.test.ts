// SPDX-License-Identifier: Apache-2.0
// The files behind the attachments: what an agent keeps, and what becomes of every other thing found in their place.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type AttachmentStoreOptions, openAttachments } from "../../src/enrolment/attachment-store.ts";
import type { Attachments, Place } from "../../src/enrolment/attachments.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { silentLogger } from "../../src/log/logger.ts";

let root: string;
let folder: string;
let lines: { level: string; fields: object }[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "attachment-store-"));
  folder = join(root, "run/sandboxes");
  lines = [];
  mkdirSync(join(root, "host/var/run/netns"), { recursive: true });
  writeFileSync(join(root, "boot_id"), "boot-1\n");
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** What an agent that starts now knows. */
function start(options: Partial<AttachmentStoreOptions> = {}): Attachments {
  const noted = (level: string) => (fields: object) => void lines.push({ level, fields });
  const log = { ...silentLogger, warn: noted("warn"), error: noted("error"), info: noted("info") };
  return openAttachments({
    runDir: join(root, "run"),
    hostRoot: join(root, "host"),
    bootIdPath: join(root, "boot_id"),
    log,
    ...options,
  });
}

/** A sandbox whose namespace is a file below the host's root. */
function place(containerId: string): Place {
  const netnsPath = `/var/run/netns/cni-${containerId.slice(0, 80)}`;
  const path = join(root, "host", netnsPath);
  if (!existsSync(path)) writeFileSync(path, "");
  const netnsKey = netnsKeyAt(path) ?? "";
  return { uid: "u1", namespace: "shop", name: "web-0", containerId, netnsPath, netnsKey, ips: ["10.0.0.1"] };
}

const eth0 = { network: "net", ifname: "eth0" };

test("a restarted agent knows what was told, with the rights of its owner alone", () => {
  const first = start();
  first.added(place("c1"), eth0);
  first.added({ ...place("c1"), ips: ["10.9.0.1"] }, { network: "nad", ifname: "net1" });
  first.added({ ...place("c2"), toldBy: "nri" }, { network: "", ifname: "" });
  first.added(place("c3"), eth0);
  first.removed({ ...eth0, containerId: "c3" });
  expect(readdirSync(folder).sort()).toEqual(["c1.json", "c2.json"]);
  expect([statSync(folder).mode & 0o777, statSync(join(folder, "c1.json")).mode & 0o777]).toEqual([
    0o700, 0o600,
  ]);
  const second = start();
  expect(second.places()).toEqual(first.places());
  expect(second.places().map(({ toldBy }) => toldBy)).toEqual([undefined, "nri"]);
  expect(second.attachmentsOf("c1")).toEqual(first.attachmentsOf("c1"));
  expect(second.placeOf("u1")?.containerId).toBe("c2");
  expect(lines).toEqual([]);
});

describe("a file is removed", () => {
  const path = () => join(folder, "c1.json");
  const change = (from: string | RegExp, to: string) => () =>
    writeFileSync(path(), readFileSync(path(), "utf8").replace(from, to));
  const instead = (make: () => unknown) => () => {
    rmSync(path());
    make();
  };
  const faults: readonly [string, () => void][] = [
    ["cut off", () => writeFileSync(path(), readFileSync(path(), "utf8").slice(0, 60))],
    ["empty", () => writeFileSync(path(), "")],
    ["garbage", () => writeFileSync(path(), Buffer.from([0, 255, 1, 2]))],
    ["no object", () => writeFileSync(path(), "null")],
    ["too large", () => writeFileSync(path(), " ".repeat(70_000))],
    ["of another boot", change("boot-1", "boot-0")],
    ["of another format", change('"version":1', '"version":2')],
    ["of another container", change(/"containerId":"c1"/, '"containerId":"c2"')],
    ["without attachments", change(/"attachments":.*/, '"attachments":[]}')],
    ["with an attachment that is none", change(/"attachments":\[/, '"attachments":[7,')],
    ["without an order", change(/"order":1/, '"order":"first"')],
    ["with a key that is none", change(/"netnsKey":"[^"]*"/, '"netnsKey":7')],
    ["with an endless name", change("web-0", "w".repeat(300))],
    ["a link", instead(() => symlinkSync("/etc/passwd", path()))],
    ["a FIFO", instead(() => spawnSync("mkfifo", [path()]))],
    ["a folder", instead(() => mkdirSync(join(path(), "x"), { recursive: true }))],
    [
      "what an agent that died left half written",
      instead(() => writeFileSync(join(folder, ".c1.4711"), "{")),
    ],
    ["of no container's name", instead(() => writeFileSync(join(folder, "..c1.json"), "{}"))],
    ["of a namespace that is gone", () => rmSync(join(root, "host/var/run/netns/cni-c1"))],
    ["of a namespace that is another one now", change(/"netnsKey":"[^"]*"/, '"netnsKey":"4:1"')],
  ];
  test.each(faults)("when it is %s, and the others are taken over", (_name, damage) => {
    const first = start();
    first.added(place("c1"), eth0);
    first.added(place("c2"), eth0);
    damage();
    expect(
      start()
        .places()
        .map(({ containerId }) => containerId),
    ).toEqual(["c2"]);
    expect(readdirSync(folder)).toEqual(["c2.json"]);
    expect(lines.map(({ level }) => level)).toEqual(["warn"]);
  });

  test("with one line for however many there are", () => {
    const first = start();
    for (let index = 0; index < 20; index++) first.added(place(`c${index}`), eth0);
    for (let index = 0; index < 10; index++) writeFileSync(join(folder, `c${index}.json`), "{");
    rmSync(join(root, "host/var/run/netns/cni-c19"));
    expect(start().size).toBe(9);
    expect(lines).toMatchObject([{ level: "warn", fields: { damaged: 10, ended: 1, otherBoot: 0 } }]);
  });
});

test("a file of a sandbox whose folder is not mounted here is taken over: nothing is missing there", () => {
  start().added(place("c1"), eth0);
  expect(start({ hostRoot: join(root, "elsewhere") }).size).toBe(1);
  expect(lines).toEqual([]);
});

test("a link in the place of the folder is replaced by a folder", () => {
  mkdirSync(join(root, "run"));
  mkdirSync(join(root, "target"));
  symlinkSync(join(root, "target"), folder);
  start().added(place("c1"), eth0);
  expect(lstatSync(folder).isDirectory()).toBe(true);
  expect([readdirSync(folder), readdirSync(join(root, "target"))]).toEqual([["c1.json"], []]);
});

test("a link that takes the folder's place while the agent runs gets nothing", () => {
  const agent = start();
  agent.added(place("c1"), eth0);
  rmSync(folder, { recursive: true });
  mkdirSync(join(root, "target"));
  symlinkSync(join(root, "target"), folder);
  agent.added(place("c2"), eth0);
  expect(readdirSync(join(root, "target"))).toEqual([]);
  expect(readdirSync(folder)).toEqual(["c2.json"]);
  expect(lines).toEqual([]);
});

test("a full disk costs one line and the memory of a restart, not the ADD", () => {
  let isFull = true;
  const writeFile = (path: string, text: string): void => {
    writeFileSync(path, isFull ? text.slice(0, 20) : text);
    if (isFull) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
  };
  const first = start({ writeFile });
  for (const containerId of ["c1", "c2", "c3"]) expect(first.added(place(containerId), eth0)).toBe(true);
  expect(first.placeOf("u1")?.containerId).toBe("c3");
  expect(readdirSync(folder)).toEqual([]);
  expect(lines.map(({ level }) => level)).toEqual(["warn"]);
  isFull = false;
  first.added(place("c4"), eth0);
  expect(
    start()
      .places()
      .map(({ containerId }) => containerId),
  ).toEqual(["c4"]);
});

test.each(["../c1", "c/1", ".c1", "c 1", "ä", "c".repeat(129)])(
  "a container called %j is known, and becomes no file",
  (containerId) => {
    const first = start();
    expect(first.added({ ...place("c1"), containerId }, eth0)).toBe(true);
    expect(readdirSync(folder)).toEqual([]);
    expect(first.removed({ ...eth0, containerId })).toBe("last");
    expect(lines).toHaveLength(1);
  },
);

test("without the node's boot id nothing is kept, taken over or removed", () => {
  start().added(place("c1"), eth0);
  const second = start({ bootIdPath: join(root, "nothing") });
  second.added(place("c2"), eth0);
  expect([second.size, readdirSync(folder), lines.length]).toEqual([1, ["c1.json"], 1]);
});

test("a run directory that is none costs one line", () => {
  writeFileSync(join(root, "run"), "");
  const first = start();
  expect(first.added(place("c1"), eth0)).toBe(true);
  expect(lines.map(({ level }) => level)).toEqual(["warn"]);
});

test("keeping a sandbox costs an ADD less than half a millisecond in a run directory as nodes have it", () => {
  const runDir = mkdtempSync(existsSync("/dev/shm") ? "/dev/shm/attachment-store-" : join(root, "shm-"));
  try {
    const attachments = start({ runDir });
    const places = Array.from({ length: 200 }, (_, index) => place(`${index}`.padStart(64, "c")));
    const costs = places.map((each) => {
      const startedMs = performance.now();
      attachments.added(each, eth0);
      return performance.now() - startedMs;
    });
    expect(costs.sort((a, b) => a - b)[100]).toBeLessThan(0.5);
    expect(readdirSync(join(runDir, "sandboxes"))).toHaveLength(200);
  } finally {
    rmSync(runDir, { recursive: true });
  }
});
