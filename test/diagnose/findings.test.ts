// SPDX-License-Identifier: Apache-2.0
// The checks that are about text and files: capabilities, folders, chain, exemptions, permissions, policies.
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { type AccessReviewer, checkApiPermissions } from "../../src/diagnose/api-permissions.ts";
import { checkChain } from "../../src/diagnose/chain-check.ts";
import { checkExemptions } from "../../src/diagnose/exemption-check.ts";
import { allOf } from "../../src/diagnose/finding.ts";
import { droppedProbes, type IngressPolicy } from "../../src/diagnose/network-policy-check.ts";
import { checkFolder, judgeCapabilities } from "../../src/diagnose/self-test.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import type { PodListReport } from "../../src/status/state-report.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "doctor-"));
});
afterEach(() => rmSync(root, { recursive: true }));

describe("capabilities", () => {
  test.each([
    ["00000000002c3002", "ok", ""],
    ["000001ffffffffff", "ok", ""],
    ["00000000000c3002", "fail", "SYS_ADMIN"],
    ["0000000000000000", "fail", "NET_ADMIN"],
    ["", "fail", "SYS_PTRACE"],
  ])("CapEff %s is %s", (hex, level, missing) => {
    const found = judgeCapabilities(`Name:\tnode\nCapEff:\t${hex}\n`);
    expect(found.level).toBe(level);
    expect(found.what).toContain(missing);
    expect(found.fix === null).toBe(level === "ok");
  });
});

describe("a folder", () => {
  const folder = (path: string) => ({ id: "x", path, use: "folder", setting: "SETTING" });
  test("that is there is right", async () => {
    expect(await checkFolder(folder(root))).toMatchObject({ id: "x", level: "ok" });
  });
  test("that is missing, or a file, names the setting", async () => {
    writeFileSync(join(root, "file"), "");
    for (const name of ["absent", "file"]) {
      const found = await checkFolder(folder(join(root, name)));
      expect(found).toMatchObject({ level: "fail", fix: expect.stringContaining("SETTING") });
    }
  });
  test("that the agent makes is right where it can be made", async () => {
    expect(await checkFolder({ ...folder(join(root, "a/b")), isMade: true })).toMatchObject({
      level: "ok",
    });
  });
});

describe("the chain", () => {
  const fixtures = join(import.meta.dirname, "../conflist/fixtures");
  const check = async (change: () => void, told?: Parameters<typeof checkChain>[0]["told"]) => {
    for (const name of ["etc/cni/net.d", "opt/cni/bin"]) mkdirSync(join(root, name), { recursive: true });
    change();
    const { install, hostRoot, hostRunDir } = loadCliConfig({ HOST_ROOT: root });
    const found = await checkChain({ install, hostRoot, hostRunDir, told, pods: undefined });
    return new Map(found.map((each) => [each.id, each]));
  };
  const conflist = (plugins: object[]) => JSON.stringify({ cniVersion: "1.0.0", name: "net", plugins });
  const write = (name: string, text: string) => writeFileSync(join(root, "etc/cni/net.d", name), text);
  const ours = {
    type: "ambient-cni",
    cni_agent_run_dir: "/var/run/istio-cni",
    agent_wait_seconds: 10,
    exempt: [],
  };
  const launcher = () => {
    const path = join(root, "opt/cni/bin/ambient-cni");
    writeFileSync(path, "");
    chmodSync(path, 0o755);
  };

  test("with our entry and launcher is right", async () => {
    const found = await check(() => {
      write("10-net.conflist", conflist([{ type: "bridge" }, ours]));
      launcher();
    });
    expect([...found.values()].filter(({ level }) => level !== "ok")).toEqual([]);
    expect(found.get("cni-folders")?.what).toContain("bridge > ambient-cni");
  });

  test.each([
    ["without us", () => write("10-net.conflist", conflist([{ type: "bridge" }])), "cni-chain", "fail"],
    [
      "with us twice",
      () => write("10-net.conflist", conflist([{ type: "bridge" }, ours, ours])),
      "cni-chain",
      "fail",
    ],
    [
      "with us in a file that the runtime does not take",
      () => {
        write("05-first.conflist", conflist([{ type: "cilium-cni" }]));
        write("10-net.conflist", conflist([{ type: "bridge" }, ours]));
      },
      "cni-chain",
      "fail",
    ],
    [
      "that calls a launcher that is not there",
      () => write("10-net.conflist", conflist([ours])),
      "launcher",
      "fail",
    ],
    [
      "with istio-cni beside us",
      () => write("10-net.conflist", conflist([{ type: "istio-cni" }, ours])),
      "other-agents",
      "fail",
    ],
    [
      "with istio-cni's plugin left behind",
      () => {
        write("10-net.conflist", conflist([ours]));
        writeFileSync(join(root, "opt/cni/bin/istio-cni"), "");
      },
      "other-agents",
      "warn",
    ],
    [
      "that looks for the agent elsewhere",
      () => write("10-net.conflist", conflist([{ ...ours, cni_agent_run_dir: "/run/other" }])),
      "cni-run-dir",
      "fail",
    ],
    [
      "behind a broken file",
      () => {
        write("00-broken.conflist", "{");
        write("10-net.conflist", conflist([ours]));
      },
      "cni-conf-invalid",
      "warn",
    ],
    ["in an empty folder", () => {}, "cni-folders", "fail"],
  ])("%s is said", async (_what, change, id, level) => {
    const found = (await check(change)).get(id);
    expect(found).toMatchObject({ level, fix: expect.stringMatching(/\w/) });
  });

  test("in k3s' folder is found, with its name", async () => {
    const found = await check(() => {
      const netDir = join(root, "var/lib/rancher/k3s/agent/etc/cni/net.d");
      mkdirSync(netDir, { recursive: true });
      cpSync(join(fixtures, "k3s-flannel.conflist"), join(netDir, "10-flannel.conflist"));
      mkdirSync(join(root, "var/lib/rancher/k3s/data/cni"), { recursive: true });
      writeFileSync(join(root, "var/lib/rancher/k3s/data/cni/flannel"), "");
    });
    expect(found.get("cni-folders")?.fix).toMatch(/looks like k3s.*k3s\/agent\/etc\/cni\/net\.d.*data\/cni/);
  });

  test("that somebody fights over is said", async () => {
    const told = {
      file: "x",
      installed: false,
      plugins: [],
      fault: null,
      rewrites: 7,
      fights: 1,
      fighting: true,
    };
    const found = await check(() => write("10-net.conflist", conflist([{ type: "cilium-cni" }])), told);
    expect(found.get("cni-fight")).toMatchObject({ level: "fail", what: expect.stringContaining("7 times") });
  });
});

describe("exemptions", () => {
  test.each([
    ["hold", undefined, "ok"],
    ["hold", "start shop u1\n", "warn"],
    ["namespace", "start shop u1\n", "warn"],
    ["namespace", "hold shop u1\nstart other u2\n", "ok"],
    ["namespace", undefined, "warn"],
  ] as const)("policy %s with the list %j is %s", async (policy, list, level) => {
    const path = join(root, "list");
    if (list !== undefined) writeFileSync(path, list);
    const pods = { pods: [{ ns: "shop", desired: { wanted: true } }] } as unknown as PodListReport;
    expect(await checkExemptions({ path, policy, pods })).toMatchObject({ level });
  });
});

describe("permissions", () => {
  const reviewer = (allowed: (attributes: Record<string, unknown>) => boolean): AccessReviewer => ({
    create: async (_path, body) => {
      const { spec } = body as { spec: { resourceAttributes: Record<string, unknown> } };
      return { status: { allowed: allowed(spec.resourceAttributes) } };
    },
  });
  test("are right when all are granted", async () => {
    expect(await checkApiPermissions(reviewer(() => true))).toMatchObject({ id: "api", level: "ok" });
  });
  test("name what is missing", async () => {
    const found = await checkApiPermissions(reviewer(({ subresource }) => subresource !== "status"));
    expect(found).toMatchObject({ level: "fail", what: expect.stringContaining("patch pods/status") });
  });
  test("are only worth a warning when only Events are missing", async () => {
    const found = await checkApiPermissions(reviewer(({ resource }) => resource !== "events"));
    expect(found).toMatchObject({ level: "warn" });
  });
  test.each([
    [undefined, []],
    ["label", []],
    ["repair", []],
    ["delete", [expect.stringContaining("delete pods (broken sidecar pods, REPAIR_DELETE_PODS)")]],
  ] as const)(
    "with a repair by %s name the right to delete where it is missing and wanted",
    async (repairMode, what) => {
      const found = allOf(
        await checkApiPermissions(
          reviewer(({ verb }) => verb !== "delete"),
          { repairMode },
        ),
      );
      expect(found.filter(({ level }) => level === "warn").map((each) => each.what)).toEqual(what);
      expect(found.filter(({ level }) => level === "fail")).toEqual([]);
    },
  );
  test.each([
    [new ApiError("Cannot POST: connection refused", { reason: "Connection" }), "fail", /connection refused/],
    [new ApiError("Unauthorized", { reason: "Unauthorized", status: 401 }), "fail", /Unauthorized/],
    [new ApiError("not found", { reason: "NotFound", status: 404 }), "warn", /does not say/],
  ])("with an API server that says %s", async (error, level, what) => {
    const found = await checkApiPermissions({ create: () => Promise.reject(error) });
    expect(found).toMatchObject({ level, what: expect.stringMatching(what), fix: expect.any(String) });
  });
});

describe("network policies", () => {
  const pod = { ns: "shop", name: "cart", labels: { app: "cart" }, ips: ["10.0.0.1"] };
  const policy = (sources: IngressPolicy["sources"], ns = "shop"): IngressPolicy => ({
    ns,
    name: "p",
    selector: [],
    sources,
  });
  const block = (cidr: string, except: string[] = []) => [{ cidr, except }];
  test.each([
    ["no policy", [], false],
    ["one of another namespace", [policy([], "other")], false],
    ["one that lets nobody in", [policy([])], true],
    ["one that lets everybody in", [policy("all")], false],
    ["one that lets the cluster in", [policy(block("10.0.0.0/8"))], true],
    ["one that lets the probes in", [policy(block("169.254.7.127/32"))], false],
    ["one that lets all addresses in", [policy(block("0.0.0.0/0"))], false],
    ["one that takes the probes out", [policy(block("0.0.0.0/0", ["169.254.0.0/16"]))], true],
    ["two, of which one lets them in", [policy([]), policy("all")], false],
  ])("%s", (_what, policies, isDropped) => {
    expect(droppedProbes([pod], policies, ["169.254.7.127"]).length > 0).toBe(isDropped);
  });
});
