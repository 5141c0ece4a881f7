// SPDX-License-Identifier: Apache-2.0
// Whether the launcher may go, from what the runtime keeps.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { findLeftovers } from "../../src/install/launcher-leftover.ts";
import { whyLauncherStays } from "../../src/install/launcher-stay.ts";

let hostRoot: string;

beforeEach(() => {
  hostRoot = mkdtempSync(join(tmpdir(), "ambient-stay-"));
});
afterEach(() => rmSync(hostRoot, { recursive: true }));

function put(path: string, text: string): void {
  mkdirSync(dirname(join(hostRoot, path)), { recursive: true });
  writeFileSync(join(hostRoot, path), text);
  const cgroup = join(hostRoot, dirname(path), "cgroup");
  if (path.endsWith("/comm")) writeFileSync(cgroup, "0::/system.slice/runtime.service\n", { flag: "a" });
}

/** As libcni writes it. Source: containernetworking/cni libcni/api.go, cacheAdd. */
function cached(...types: string[]): string {
  const config = JSON.stringify({ cniVersion: "1.0.0", name: "n", plugins: types.map((type) => ({ type })) });
  return JSON.stringify({
    kind: "cniCacheV1",
    containerId: "c",
    config: Buffer.from(config).toString("base64"),
    ifName: "eth0",
    networkName: "n",
    result: { cniVersion: "1.0.0" },
  });
}

test.each<[string, Record<string, string>, RegExp | undefined]>([
  ["there is no cache", { "var/lib/cni/x": "" }, undefined],
  [
    "containerd's pods were made with us",
    { "proc/7/comm": "containerd\n", "var/lib/cni/results/n-c-eth0": cached("bridge", "ambient-cni") },
    undefined,
  ],
  [
    "CRI-O's pods were made with us",
    { "proc/7/comm": "crio\n", "var/lib/cni/results/n-c-eth0": cached("bridge", "ambient-cni") },
    /^the runtime keeps the chain of 1 pods/,
  ],
  [
    "CRI-O and containerd are both there",
    {
      "proc/7/comm": "containerd\n",
      "proc/8/comm": "crio\n",
      "var/lib/cni/results/n-c-eth0": cached("ambient-cni"),
      "var/lib/cni/results/n-d-eth0": cached("ambient-cni"),
    },
    /keeps the chain of 2 pods/,
  ],
  [
    "nobody knows the runtime",
    { "proc/7/comm": "isulad\n", "var/lib/cni/results/n-c-eth0": cached("ambient-cni") },
    /^the runtime keeps/,
  ],
  [
    "CRI-O's pods were made without us",
    {
      "proc/7/comm": "crio\n",
      "var/lib/cni/results/n-c-eth0": cached("bridge", "ambient-cni-other"),
      "var/lib/cni/results/cut": cached("bridge").slice(0, 40),
      "var/lib/cni/results/empty": "",
    },
    undefined,
  ],
  [
    "Multus kept delegates with us, on containerd",
    {
      "proc/7/comm": "containerd\n",
      "var/lib/cni/multus/c": JSON.stringify([{ ConfList: { plugins: [{ type: "ambient-cni" }] } }]),
    },
    /^Multus keeps the chain of 1 pods/,
  ],
  [
    "Multus kept delegates as bytes",
    {
      "proc/7/comm": "containerd\n",
      "var/lib/cni/multus/c": JSON.stringify([
        { Bytes: Buffer.from('{"plugins":[{"type":"ambient-cni"}]}').toString("base64") },
      ]),
    },
    /^Multus keeps/,
  ],
  [
    "the cache is only to be seen behind the host's first process",
    { "proc/7/comm": "crio\n", "proc/1/root/var/lib/cni/results/n-c-eth0": cached("ambient-cni") },
    /^the runtime keeps/,
  ],
  [
    "a pod has a process called crio",
    {
      "proc/7/comm": "containerd\n",
      "proc/6/cgroup": "0::/kubepods/pod11111111-2222-3333-4444-555555555555/x\n",
      "proc/6/comm": "crio\n",
      "var/lib/cni/results/n-c-eth0": cached("bridge", "ambient-cni"),
    },
    undefined,
  ],
  ["the host's root has no cache", { "proc/1/root/etc/hosts": "" }, undefined],
  ["nothing can be seen", { "proc/7/comm": "containerd\n" }, /^whether the runtime keeps.*cannot be seen/],
])("the launcher's stay is decided when %s", async (_, files, expected) => {
  for (const [path, text] of Object.entries(files)) put(path, text);
  const why = await whyLauncherStays({ hostRoot });
  if (expected === undefined) expect(why).toBeUndefined();
  else expect(why).toMatch(expected);
});

test("istio-cni's binary is found, with why it has to stay where a runtime keeps it", async () => {
  const binDir = join(hostRoot, "bin");
  const options = { hostRoot, binDir };
  put("var/lib/cni/results/n-c-eth0", cached("bridge", "istio-cni"));
  put("proc/7/comm", "crio\n");
  const findIstioCni = async () => (await findLeftovers(options)).find(({ owner }) => owner === "istio-cni");
  expect(await findIstioCni()).toBeUndefined();
  put("bin/istio-cni", "binary");
  const path = join(binDir, "istio-cni");
  expect(await findIstioCni()).toMatchObject({ path, stays: expect.stringMatching(/keeps/) });
  rmSync(join(hostRoot, "var/lib/cni/results/n-c-eth0"));
  expect(await findIstioCni()).toMatchObject({ path, stays: undefined });
  // our launcher in its place is ours
  writeFileSync(path, readFileSync(join(import.meta.dirname, "../../plugin/build/ambient-cni")));
  expect(await findIstioCni()).toBeUndefined();
});
