// SPDX-License-Identifier: Apache-2.0
// Who owns a namespace, as the kernel says it: the user namespace in which it was made, and what is above that.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { NativeError, namespaceOwner } from "../../src/linux/native.ts";
import { userNamespacesOver } from "../../src/linux/user-namespaces.ts";

const isRoot = process.getuid?.() === 0;
const own = netnsKeyAt("/proc/self/ns/user") as string;

/** Runs with a descriptor of a namespace. */
function at<T>(path: string, visit: (fd: number) => T): T {
  const fd = openSync(path, "r");
  try {
    return visit(fd);
  } finally {
    closeSync(fd);
  }
}

function codeOf(call: () => number): string | undefined {
  try {
    closeSync(call());
    return undefined;
  } catch (error) {
    return error instanceof NativeError ? error.code : String(error);
  }
}

describe.skipIf(!isRoot)("a network namespace", () => {
  // two user namespaces, one in the other, each with a network
  const script = "unshare --user --map-root-user --net sh -c 'echo inner; exec cat'; true";
  const holder = spawn("unshare", ["--user", "--map-root-user", "--net", "sh", "-c", script], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const outer = `/proc/${holder.pid}/ns`;
  let inner = "";

  beforeAll(async () => {
    let text = "";
    while (!text.includes("inner")) text += String((await once(holder.stdout, "data"))[0]);
    const child = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, "utf8").trim();
    inner = `/proc/${child}/ns`;
  });
  afterAll(async () => {
    const exit = once(holder, "exit");
    holder.stdin.end();
    await exit;
  });

  test("of ours is owned by our user namespace, above which nothing is shown", () => {
    const keys = at("/proc/self/ns/net", userNamespacesOver);
    expect(keys.has(own)).toBe(true);
  });

  test("made in a user namespace of its own is ruled by that and by those above, not by one inside", () => {
    const [outerKey, innerKey] = [outer, inner].map((path) => netnsKeyAt(`${path}/user`) as string);
    const ofInner = at(`${inner}/net`, userNamespacesOver);
    expect([...ofInner].slice(0, 3)).toEqual([innerKey, outerKey, own]);
    expect(outerKey).not.toBe(innerKey);
  });

  test("has its owner told by a descriptor that no program inherits", () => {
    const fd = at(`${inner}/net`, namespaceOwner);
    const { ino } = fstatSync(fd, { bigint: true });
    const flags = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
    closeSync(fd);
    expect(netnsKeyAt(`${inner}/user`)).toMatch(new RegExp(`:${ino}$`));
    expect(Number.parseInt(/^flags:\s*(\d+)$/m.exec(flags)?.[1] ?? "", 8) & 0o2000000).toBe(0o2000000);
  });
});

test("what is no namespace has no owner", () => {
  expect(at("/dev/null", (fd) => codeOf(() => namespaceOwner(fd)))).toBe("ENOTTY");
  expect(codeOf(() => namespaceOwner(-1))).toBe("EBADF");
  expect(() => namespaceOwner("x" as unknown as number)).toThrow(TypeError);
});
