// SPDX-License-Identifier: Apache-2.0
// The CNI folder of a host that is seen below another folder: links, files that cannot be read, folders of lists.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  applyActions,
  type FolderSnapshot,
  readFolder,
  removeTemporaries,
} from "../../src/install/conf-dir.ts";
import { hostPath } from "../../src/linux/host-path.ts";

const text = '{"name":"n","plugins":[{"type":"x"}]}';
const name = "10-n.conflist";
let dir: string;
/** What an agent's container has mounted, and what the host has. */
let hostRoot: string;
let host: string;
let netDir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "conf-file-"));
  hostRoot = join(dir, "host");
  host = join(dir, "node");
  netDir = join(hostRoot, "etc/cni/net.d");
  mkdirSync(netDir, { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function put(root: string, path: string, content = text): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}

/** The host's own root, through its first process; its CNI folder is the mounted one, or another. */
function showHost({ isSameNetDir = true } = {}): void {
  mkdirSync(join(hostRoot, "proc/1"), { recursive: true });
  mkdirSync(join(host, "etc/cni"), { recursive: true });
  symlinkSync(host, join(hostRoot, "proc/1/root"));
  if (isSameNetDir) symlinkSync(netDir, join(host, "etc/cni/net.d"));
  else mkdirSync(join(host, "etc/cni/net.d"));
}

const read = (): Promise<FolderSnapshot> => readFolder(netDir, { hostRoot });
const link = (target: string): void => symlinkSync(target, join(netDir, name));

describe("a link in the CNI folder", () => {
  it.each<[string, string, () => void]>([
    ["absolute, to what is mounted", "/opt/n.conflist", () => put(hostRoot, "opt/n.conflist")],
    [
      "absolute, seen through the host's first process",
      "/opt/n.conflist",
      () => {
        showHost();
        put(host, "opt/n.conflist");
      },
    ],
    ["beside it", "./real", () => put(netDir, "real")],
    [
      "over another absolute link on the host",
      "/a/n",
      () => {
        showHost({ isSameNetDir: false });
        put(host, "b/n");
        symlinkSync("/b", join(host, "a"));
      },
    ],
    ["above it", "../n", () => put(hostRoot, "etc/cni/n")],
  ])("%s is followed", async (_what, target, prepare) => {
    prepare();
    link(target);
    const { files, unread } = await read();
    expect([files.get(name), unread.size]).toEqual([text, 0]);
  });

  it.each<[string, string, () => void]>([
    ["absolute", "/opt/n.conflist", () => {}],
    [
      "above it, where the folder is another one on the host",
      "../n",
      () => showHost({ isSameNetDir: false }),
    ],
    ["beside it, to an absolute one", "real", () => symlinkSync("/opt/n.conflist", join(netDir, "real"))],
  ])("%s that leads where we do not see is out of sight, with its target", async (_what, target, prepare) => {
    prepare();
    link(target);
    const { files, unread } = await read();
    expect(files.has(name)).toBe(false);
    expect(unread.get(name)).toMatchObject({ isOutOfSight: true, why: expect.stringContaining(target) });
  });

  it.each<[string, string, () => void]>([
    ["absolute, on a host that is seen", "/opt/n.conflist", showHost],
    ["above it, on a host that is seen", "../n", showHost],
    ["beside it", "real", () => {}],
  ])("%s to nothing is absent for the runtime too", async (_what, target, prepare) => {
    prepare();
    link(target);
    const { unread } = await read();
    expect(unread.get(name)).toMatchObject({ isAbsent: true });
    expect(unread.get(name)?.isOutOfSight).toBeUndefined();
  });

  it("never leads to a file of this process's own container", async () => {
    link("/etc/hostname");
    expect((await read()).unread.get(name)?.isOutOfSight).toBe(true);
  });

  it("in a circle is named and hides nothing", async () => {
    link(name);
    put(netDir, "20-b.conflist");
    const { files, unread } = await read();
    expect([...files.keys()]).toEqual(["20-b.conflist"]);
    expect(unread.has(name)).toBe(true);
  });

  it("to a folder, of a list's name, is named; one of a network's name is that network's folder", async () => {
    mkdirSync(join(netDir, "real"));
    put(netDir, "real/a.conf", "{}");
    link("real");
    symlinkSync("real", join(netDir, "n"));
    const { files, unread } = await read();
    expect(unread.get(name)?.why).toContain("folder");
    expect([...files.keys()].sort()).toEqual(["n/a.conf", "real/a.conf"]);
  });
});

describe("a file that cannot be read", () => {
  it("has a reason, and hides no other", async () => {
    put(netDir, name);
    put(netDir, "05-big.conflist", "x".repeat(256 * 1024 + 1));
    symlinkSync("/dev/null", join(netDir, "06-device.conflist"));
    const { files, unread } = await readFolder(netDir);
    expect([...files.keys()]).toEqual([name]);
    expect([...unread].map(([key, { why }]) => `${key}: ${why}`).sort()).toEqual([
      "05-big.conflist: it is longer than 256 KiB",
      "06-device.conflist: it is no regular file",
    ]);
  });
});

describe("the folder of a list's plugins", () => {
  it("is read one level deep, made with its first file, and left without temporaries", async () => {
    put(netDir, "n/a.conf", "{}");
    put(netDir, "n/b.conflist", "{}");
    put(netDir, "n/deep/c.conf", "{}");
    put(netDir, "n/.x.conf.ambient-cni-tmp-0123456789ab", "{}");
    const snapshot = await read();
    expect([...snapshot.files.keys()]).toEqual(["n/a.conf"]);
    const write = { kind: "write", name: "new/z.conf", text } as const;
    await applyActions(netDir, [write], { snapshot, groupRead: false });
    await removeTemporaries(netDir);
    expect([...(await read()).files]).toEqual([
      ["n/a.conf", "{}"],
      ["new/z.conf", text],
    ]);
    expect((await readFolder(join(netDir, "n"), { all: true })).files.size).toBe(3);
  });
});

it("paths of the host are followed as far as a limit", async () => {
  symlinkSync("/b", join(hostRoot, "a"));
  symlinkSync("../../a", join(hostRoot, "b"));
  await expect(hostPath(hostRoot, "/a")).rejects.toThrow("too many links");
  chmodSync(hostRoot, 0o755);
  expect(await hostPath(hostRoot, "/etc/../etc/./cni")).toBe(join(hostRoot, "etc/cni"));
  expect(await hostPath("/", "/x/y")).toBe("/x/y");
});
