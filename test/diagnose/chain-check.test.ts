// SPDX-License-Identifier: Apache-2.0
// doctor on nodes whose runtime does not just take the first file: Multus with and without an auxiliary chain, CRI-O's network.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { checkChain } from "../../src/diagnose/chain-check.ts";
import type { Finding } from "../../src/diagnose/finding.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "chain-check-"));
  for (const name of ["etc/cni/net.d", "opt/cni/bin"]) mkdirSync(join(root, name), { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

async function check(env: Record<string, string> = {}): Promise<Map<string, Finding>> {
  const { install, hostRoot, hostRunDir } = loadCliConfig({ HOST_ROOT: root, ...env });
  const found = await checkChain({ install, hostRoot, hostRunDir, told: undefined, pods: undefined });
  return new Map(found.map((each) => [each.id, each]));
}

function put(path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

const launcher = (): void => {
  put("opt/cni/bin/ambient-cni", "");
  chmodSync(join(root, "opt/cni/bin/ambient-cni"), 0o755);
};
const bad = (found: Map<string, Finding>): Finding[] =>
  [...found.values()].filter(({ level }) => level !== "ok");

describe("with a file of our own for Multus", () => {
  const env = { CHAINED_CNI_PLUGIN: "false", CNI_CONF_NAME: "istio-cni.conf" };
  const folder = "run/multus/cni/net.d/vendor-cni-chain";
  const ours = JSON.stringify({
    cniVersion: "0.3.1",
    name: "istio-cni",
    type: "ambient-cni",
    cni_agent_run_dir: "/var/run/istio-cni",
    agent_wait_seconds: 10,
    exempt: [],
  });
  const multus = (more: object = { auxiliaryCNIChainName: "vendor-cni-chain" }): void =>
    put(
      "etc/kubernetes/cni/net.d/00-multus.conf",
      JSON.stringify({
        name: "multus-cni-network",
        type: "multus-shim",
        clusterNetwork: "/host/run/multus/cni/net.d/10-ovn-kubernetes.conf",
        ...more,
      }),
    );
  const own = (): void => put("etc/cni/net.d/istio-cni.conf", ours);

  test("that Multus calls for every pod all is right", async () => {
    multus();
    own();
    put(`${folder}/istio-cni.conf`, ours);
    launcher();
    const found = await check(env);
    expect(bad(found)).toEqual([]);
    expect(found.get("cni-chain")?.what).toContain(
      `for every pod before it starts: "/${folder}/istio-cni.conf"`,
    );
  });

  test("that lies in that folder itself (cniConfDir) all is right", async () => {
    multus();
    put(`${folder}/istio-cni.conf`, ours);
    launcher();
    rmSync(join(root, "etc/cni/net.d"), { recursive: true });
    symlinkSync(join(root, folder), join(root, "etc/cni/net.d"));
    expect(bad(await check(env))).toEqual([]);
  });

  test.each<[string, () => void, string, Finding["level"], RegExp]>([
    ["without an auxiliary chain", () => multus({}), "cni-chain", "warn", /auxiliaryCNIChainName/],
    [
      "whose folder is not mounted",
      () => multus(),
      "cni-chain",
      "warn",
      /cniConfDir=\/run\/multus\/.*vendor-cni-chain/,
    ],
    [
      "whose file is missing in the chain",
      () => {
        multus();
        mkdirSync(join(root, "run/multus/cni/net.d"), { recursive: true });
      },
      "cni-chain",
      "fail",
      /start the agent/,
    ],
    ["without Multus in sight", () => {}, "cni-chain", "warn", /chained=true/],
    [
      "without the file itself",
      () => rmSync(join(root, "etc/cni/net.d/istio-cni.conf")),
      "cni-folders",
      "fail",
      /agent/,
    ],
    [
      "without the launcher",
      () => rmSync(join(root, "opt/cni/bin/ambient-cni")),
      "launcher",
      "fail",
      /CNI_BIN_DIR/,
    ],
    [
      "beside istio-cni's in the chain",
      () => {
        multus();
        put(`${folder}/a.conf`, '{"type":"istio-cni"}');
      },
      "other-agents",
      "fail",
      /REPLACE_ISTIO_CNI/,
    ],
    [
      "that looks for the agent elsewhere",
      () => put("etc/cni/net.d/istio-cni.conf", ours.replace("/var/run/istio-cni", "/run/other")),
      "cni-run-dir",
      "fail",
      /restart/,
    ],
  ])("%s is said", async (_what, change, id, level, fix) => {
    own();
    launcher();
    change();
    expect((await check(env)).get(id)).toMatchObject({ level, fix: expect.stringMatching(fix) });
  });
});

describe("with CRI-O", () => {
  const chain = (network: string, ...types: string[]): string =>
    JSON.stringify({ cniVersion: "1.0.0", name: network, plugins: types.map((type) => ({ type })) });
  const crio = (text: string): void => put("etc/crio/crio.conf", `[crio.network]\n${text}\n`);
  beforeEach(() => {
    put("etc/cni/net.d/05-a.conflist", chain("a", "bridge"));
    put("etc/cni/net.d/10-b.conflist", chain("b", "ptp", "ambient-cni"));
    launcher();
  });

  test("the network that it is told is the chain", async () => {
    expect((await check()).get("cni-chain")?.level).toBe("fail");
    crio('cni_default_network = "b"');
    const found = await check();
    expect(found.get("cni-chain")?.level).toBe("ok");
    expect(found.get("cni-folders")?.what).toContain("ptp > ambient-cni");
    expect((await check({ CNI_CONF_NAME: "05-a.conflist" })).get("cni-conf-name")?.what).toContain(
      'network "b"',
    );
  });

  test("a network that nothing has, and a folder that is another one, are said", async () => {
    crio('cni_default_network = "c"\nnetwork_dir = "/etc/other"');
    mkdirSync(join(root, "etc/other"));
    const found = await check();
    expect(found.get("cni-folders")).toMatchObject({
      level: "fail",
      what: expect.stringContaining('network "c"'),
    });
    expect(found.get("cni-network-dir")).toMatchObject({
      level: "fail",
      what: expect.stringContaining("/etc/other"),
    });
  });

  test("files that nothing shows are said", async () => {
    put("proc/7/comm", "crio\n");
    put("proc/7/cgroup", "0::/system.slice/crio.service\n");
    expect((await check()).get("cni-default-network")).toMatchObject({ level: "warn" });
  });
});

test("a link that leads out of sight may be the chain", async () => {
  symlinkSync("/opt/x.conflist", join(root, "etc/cni/net.d/05-x.conflist"));
  put("etc/cni/net.d/10-b.conflist", '{"name":"b","plugins":[{"type":"ambient-cni"}]}');
  expect((await check()).get("cni-conf-invalid")).toMatchObject({
    level: "fail",
    what: expect.stringContaining("/opt/x.conflist"),
  });
});

test("plugins in files of their own count", async () => {
  put("etc/cni/net.d/10-n.conflist", '{"name":"n","cniVersion":"1.1.0"}');
  put("etc/cni/net.d/n/10-a.conf", '{"type":"bridge"}');
  put("etc/cni/net.d/n/zz-ambient-cni.conf", '{"type":"ambient-cni","exempt":[]}');
  launcher();
  const found = await check();
  expect(bad(found)).toEqual([]);
  expect(found.get("cni-folders")?.what).toContain("bridge > ambient-cni");
});

test("OpenShift's folders are recognised, with the platform to set", async () => {
  put("etc/kubernetes/cni/net.d/00-multus.conf", '{"name":"m","type":"multus-shim"}');
  put("var/lib/cni/bin/multus-shim", "");
  expect((await check()).get("cni-folders")?.fix).toContain("global.platform=openshift");
});
