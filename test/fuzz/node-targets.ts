// SPDX-License-Identifier: Apache-2.0
// What ztunnel says, what /proc passes on of processes, and files that the agent reads again.
import assert from "node:assert/strict";
import { fits } from "../../src/bounds/bounded.ts";
import { bounds } from "../../src/bounds/bounds.ts";
import { parseVerdicts, renderVerdicts } from "../../src/install/namespace-verdicts.ts";
import { cgroupOwner, nodeCgroup } from "../../src/linux/cgroup-path.ts";
import { parsePinned } from "../../src/linux/pinned-netns.ts";
import { parseCapabilities } from "../../src/linux/process-capabilities.ts";
import { decodeAnswer, decodeHello, encodeAdd } from "../../src/ztunnel/zds-codec.ts";
import { type FuzzTarget, parsed } from "./fuzz-target.ts";

const isRange = (error: unknown) => error instanceof RangeError;

function runZds(input: Uint8Array): void {
  const version = parsed(() => decodeHello(input), isRange);
  if (version !== undefined) assert(version >= 0 && version < 2 ** 70);
  const answer = parsed(() => decodeAnswer(input), isRange);
  if (answer === undefined || answer.ok) return;
  assert(answer.error !== "" && fits(answer.error, bounds.nack), "the text of a refusal has its bound");
}

function runCgroup(input: Uint8Array): void {
  const [text = "", own = "", init = ""] = Buffer.from(input).toString().split("\0");
  const { podUid = "0", containerId = "0".repeat(64) } = cgroupOwner(text, nodeCgroup({ own, init }));
  assert.match(podUid, /^[0-9a-z]*$/);
  assert.match(containerId, /^[0-9a-f]{64}$/);
}

function runProcFiles(input: Uint8Array): void {
  const text = Buffer.from(input).toString();
  for (const { path, key } of parsePinned(text, ["/run/netns", "/var/run/netns"])) {
    assert.match(path, /^(?:\/var)?\/run\/netns\//);
    assert.match(key, /:\d+$/);
  }
  const { effective, permitted, bounding } = parseCapabilities(text);
  for (const set of [effective, permitted, bounding]) assert(set >= 0n && set < 1n << 64n);
}

const uid = "11111111-2222-3333-4444-555555555555";
const id = "ab".repeat(32);

/** Parsers of what is near: ztunnel's packets, /proc, files of an earlier agent. */
export const nodeTargets: readonly FuzzTarget[] = [
  {
    name: "zds",
    whose: "ztunnel's packets",
    seeds: () => [
      Uint8Array.of(8, 1),
      Uint8Array.of(10, 0),
      Uint8Array.of(10, 3, 10, 1, 0x78),
      encodeAdd("u1", { name: "n", namespace: "d", serviceAccount: "s" }),
      Buffer.concat([Buffer.of(10, 0x83, 8, 10, 0x80, 8), Buffer.alloc(1024, "é")]),
    ],
    words: ["\x08\x01", "\x0a\x00", "\x80\x80", "\xff\xff\xff\xff\x0f", "\x0d", "\x09", "\xc3"],
    run: runZds,
  },
  {
    name: "cgroup",
    whose: "the name of a process' cgroup, which whoever is in a pod may choose in part",
    seeds: () => [
      `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid.replaceAll("-", "_")}.slice/cri-containerd-${id}.scope\0\x30::/kubepods/podx/${id}\0\x30::/init.scope`,
      `0::/../../kubepods/burstable/pod${uid}/${id}/x/pod${uid}`,
      `11:cpu:/system.slice/containerd.service/kubepods-pod${uid.replaceAll("-", "_")}.slice:cri-containerd:${id}`,
    ],
    words: [
      "/",
      "..",
      "\0",
      "0::/",
      ":",
      "kubepods",
      ".slice",
      "/pod",
      id,
      "kata_overhead",
      "user.slice",
      "\n",
    ],
    run: runCgroup,
  },
  {
    name: "proc-files",
    whose: "mount points and status of processes",
    seeds: () => [
      "36 35 0:4 net:[4026532008] /run/netns/cni-1 rw shared:1 - nsfs nsfs rw\n37 35 0:4 net:[1] /var/run/netns/a\\040b rw - nsfs nsfs rw\n",
      "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n",
    ],
    words: ["net:[", "]", "/run/netns/", "\\040", "\\777", "0:4", "CapEff:\t", "\n", " ", "NoNewPrivs:\t"],
    run: runProcFiles,
  },
  {
    name: "verdicts",
    whose: "the list of namespaces that an earlier agent left",
    seeds: () => [
      renderVerdicts({ selectors: "s", seen: new Map([["mesh", "u"]]) }, [
        { key: "k", name: "plain", uid: "v", labels: {}, resourceVersion: "1" },
      ]),
      "start a\nhold\n",
    ],
    words: ["start ", "hold ", "selectors ", "\n", " ", "\r"],
    run: (input) => {
      const { selectors, seen, starting } = parseVerdicts(Buffer.from(input).toString());
      assert.equal(typeof selectors, "string");
      assert(seen.size + starting.length <= input.length);
    },
  },
];
