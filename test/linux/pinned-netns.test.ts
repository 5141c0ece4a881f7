// SPDX-License-Identifier: Apache-2.0
import { statSync } from "node:fs";
import { expect, test } from "vitest";
import { parsePinned } from "../../src/linux/pinned-netns.ts";

const folders = ["/host/run/netns", "/host/var/run/netns"];

/** A line of mountinfo. Source: proc_pid_mountinfo(5). */
function mount(mountPoint: string, root: string, { device = "0:4", type = "nsfs" } = {}): string {
  return `512 25 ${device} ${root} ${mountPoint} rw shared:200 master:3 - ${type} ${type} rw`;
}

const cases: readonly [string, readonly string[], readonly (readonly [string, string])[]][] = [
  [
    "a namespace",
    [mount("/host/run/netns/cni-1", "net:[4026532281]")],
    [["/host/run/netns/cni-1", "4:4026532281"]],
  ],
  [
    "one in either folder",
    [mount("/host/var/run/netns/b", "net:[2]"), mount("/host/run/netns/a", "net:[1]")],
    [
      ["/host/var/run/netns/b", "4:2"],
      ["/host/run/netns/a", "4:1"],
    ],
  ],
  [
    "one that is mounted several times, once",
    [
      mount("/host/run/netns/a", "net:[1]"),
      mount("/host/run/netns/a", "net:[1]"),
      mount("/host/var/run/netns/a", "net:[1]"),
    ],
    [["/host/run/netns/a", "4:1"]],
  ],
  [
    "another device's, by its number",
    [mount("/host/run/netns/a", "net:[1]", { device: "7:300" })],
    [["/host/run/netns/a", `${(300 % 256) + 7 * 256 + 2 ** 20}:1`]],
  ],
  [
    "a name with a blank and a backslash",
    [mount("/host/run/netns/a\\040b\\134", "net:[1]")],
    [["/host/run/netns/a b\\", "4:1"]],
  ],
  [
    "no namespace of another kind",
    [mount("/host/run/netns/a", "uts:[1]"), mount("/host/run/netns/b", "mnt:[2]")],
    [],
  ],
  [
    "no other file system",
    [mount("/host/run/netns/a", "/", { type: "tmpfs" }), mount("/host/run/netns", "/netns")],
    [],
  ],
  [
    "nothing elsewhere",
    [
      mount("/run/netns/a", "net:[1]"),
      mount("/host/run/netns/x/a", "net:[2]"),
      mount("/host/run/netnsa", "net:[3]"),
    ],
    [],
  ],
  ["nothing whose file was removed", [mount("/host/run/netns/a//deleted", "net:[1]")], []],
  ["nothing in text that is no mountinfo", ["", "a b", "1 2 3 net:[1]", "x ".repeat(3), "\0"], []],
];
test.each(cases)("parsePinned finds %s", (_name, lines, found) => {
  expect(parsePinned(lines.join("\n"), folders).map(({ path, key }) => [path, key])).toEqual(found);
});

test("parsePinned reads no more than 4,096 of them", () => {
  const lines = Array.from({ length: 5000 }, (_, index) =>
    mount(`/host/run/netns/n${index}`, `net:[${index + 1}]`),
  );
  expect(parsePinned(lines.join("\n"), folders)).toHaveLength(4096);
});

test("a device's number is that of stat(2)", () => {
  const { dev, ino } = statSync("/proc/self/ns/net");
  const [found] = parsePinned(mount("/host/run/netns/a", `net:[${ino}]`, { device: `0:${dev}` }), folders);
  expect(found?.key).toBe(`${dev}:${ino}`);
});
