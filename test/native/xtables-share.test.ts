// SPDX-License-Identifier: Apache-2.0
// The share that chains have of a table: bounded whatever the table holds, and no byte of a broken one is read past its end.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { existingXtablesInNetns, xtablesInNetns } from "../../src/linux/xtables-netns.ts";
import type { Family } from "../../src/netfilter/family.ts";
import { TestNetns } from "../redirection/test-netns.ts";

const NATIVE = join(import.meta.dirname, "../../native");
const INFO_BYTES = 84;
const PLACE_BYTES = 8;
const MOST = 10_001;
const NEXT_OFFSET: Readonly<Record<Family, number>> = { 4: 90, 6: 142 };

let folder: string;
let program: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-share-"));
  program = join(folder, "share");
  const sources = [join(import.meta.dirname, "share.c"), join(NATIVE, "xtables_share.c")];
  const flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Werror"];
  const checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
  const headers = [
    "-isystem",
    execFileSync("sh", ["-c", "ls -d ../node_modules/node-linux-*/include/node"], {
      cwd: NATIVE,
      encoding: "utf8",
    }).trim(),
  ];
  execFileSync("gcc", [...flags, ...checks, ...headers, "-o", program, ...sources], { cwd: NATIVE });
});
afterAll(() => rmSync(folder, { recursive: true }));

const TOOLS: Readonly<Record<Family, string>> = {
  4: "iptables-legacy-restore",
  6: "ip6tables-legacy-restore",
};

/** Offsets and positions. */
function places(share: Uint8Array, family: Family): { offset: number; position: number }[] {
  const view = new DataView(share.buffer, share.byteOffset, share.length);
  const found: { offset: number; position: number }[] = [];
  for (let at = INFO_BYTES; at < share.length; ) {
    found.push({ offset: view.getUint32(at, true), position: view.getUint32(at + 4, true) });
    at += PLACE_BYTES + view.getUint16(at + PLACE_BYTES + NEXT_OFFSET[family], true);
  }
  return found;
}

test.each([4, 6] as const)("IPv%s: no broken table makes it read where it must not", async (family) => {
  using pod = await TestNetns.make();
  const lines = [
    "*filter",
    ":A -",
    ":OTHER -",
    ":B -",
    "-A OUTPUT -j A",
    "-A OTHER -g B",
    "-A A -p tcp -j B",
    "-A B -m comment --comment b",
    "COMMIT",
    "",
  ];
  await pod.run(TOOLS[family], lines.join("\n"));
  const table = await xtablesInNetns(pod.netns.fd, family, "filter");
  const chains = [{ chain: "A" }, { chain: "B" }];
  const [share] = await existingXtablesInNetns(pod.netns.fd, [{ family, table: "filter", chains }]);
  const { status, stdout, stderr } = spawnSync(program, [String(family), "A\tB", "20000"], { input: table });
  expect({ status, stderr: stderr.toString() }).toMatchObject({
    status: 0,
    stderr: expect.stringMatching(/^[1-9]\d{3,} of 20000 refused\n$/),
  });
  expect(new Uint8Array(stdout)).toEqual(share);
});

test("of others' rules only those come that lead into the chains, with what is before their chain", async () => {
  using pod = await TestNetns.make();
  const many = "-A OTHER -j ACCEPT\n".repeat(30_000);
  await pod.run(
    TOOLS[4],
    `*filter\n:A -\n:OTHER -\n:THIRD -\n${many}-A OTHER -j A\n-A OUTPUT -j THIRD\n-A OUTPUT -j A\n-A A -j THIRD\nCOMMIT\n`,
  );
  const [share] = await existingXtablesInNetns(pod.netns.fd, [
    { family: 4, table: "filter", chains: [{ chain: "A" }, { chain: "NONE" }] },
  ]);
  // from OUTPUT; the chain with its rule and its end; OTHER and its last rule
  expect(places(share as Uint8Array, 4).map(({ position }) => position)).toEqual([2, 0, 1, 2, 0, 30_001]);
  expect(share?.length).toBeLessThan(2_000);
});

test.each([
  ["a chain", "-A A -j ACCEPT", [...Array.from({ length: MOST + 1 }, (_, i) => i), 12_001]],
  ["what leads there", "-A INPUT -j A", [...Array.from({ length: MOST }, (_, i) => i + 1), 0, 1]],
] as const)("of %s without end so much comes, and no more", async (_, rule, expected) => {
  using pod = await TestNetns.make();
  await pod.run(TOOLS[4], `*filter\n:A -\n${`${rule}\n`.repeat(12_000)}COMMIT\n`);
  const [share] = await existingXtablesInNetns(pod.netns.fd, [
    { family: 4, table: "filter", chains: [{ chain: "A" }] },
  ]);
  expect(places(share as Uint8Array, 4).map(({ position }) => position)).toEqual(expected);
});

test("more chains than it takes are refused", async () => {
  using pod = await TestNetns.make();
  await pod.run(TOOLS[4], "*filter\n:A -\nCOMMIT\n");
  const chains = Array.from({ length: 17 }, (_, index) => ({ chain: `C${index}` }));
  await expect(
    existingXtablesInNetns(pod.netns.fd, [{ family: 4, table: "filter", chains }]),
  ).rejects.toMatchObject({ code: "E2BIG" });
});
