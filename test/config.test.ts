// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { loadConfig } from "../src/config.ts";
import { defaultSelectors } from "../src/kube/selectors.ts";

const env = { NODE_NAME: "node1" };

describe("loadConfig", () => {
  test("has istio-cni's defaults", () => {
    expect(loadConfig({ env, args: [] })).toMatchObject({
      nodeName: "node1",
      systemNamespace: "istio-system",
      hostRoot: "/host",
      runDir: "/var/run/istio-cni",
      pluginSocketPath: "/var/run/istio-cni/pluginevent.sock",
      ztunnelSocketPath: "/var/run/ztunnel/ztunnel.sock",
      selectors: defaultSelectors,
      dnsCapture: true,
      ipv6: true,
      probeSnatV4: "169.254.7.127",
      probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
      branchEniProbes: true,
      establishedConnections: "keep",
      leavePauseMs: 500,
      leaveDrainMs: 2_000,
      iptablesVariant: "auto",
      healthPort: 8000,
      monitoringPort: 15014,
      install: {
        enabled: true,
        netDir: "/host/etc/cni/net.d",
        binDir: "/host/opt/cni/bin",
        confName: undefined,
        chained: true,
        ownedFileName: undefined,
        groupRead: false,
        replaceIstioCni: false,
        releasePods: false,
        awayPolicy: "namespace",
        agentWaitSeconds: 10,
      },
      nri: { enabled: "auto", socketPath: "/var/run/nri/nri.sock", refuse: true },
      log: { level: "info", scopes: {} },
      ignored: [],
      notes: [],
      warnings: [],
      faults: [],
      blockers: [],
    });
  });

  test("takes an empty value as not given, as a chart writes it", () => {
    expect(
      loadConfig({ env: { ...env, FORCE_IPTABLES_BINARY: "", EXCLUDE_NAMESPACES: "" }, args: [] }),
    ).toMatchObject({
      iptablesVariant: "auto",
    });
  });

  test("excludes namespaces by pattern", () => {
    const { excludeNamespaces } = loadConfig({
      env: { ...env, EXCLUDE_NAMESPACES: "openshift-*" },
      args: [],
    });
    expect(["openshift-dns", "shop"].map((name) => excludeNamespaces.has(name))).toEqual([true, false]);
  });

  test("lets probes of branch ENIs be switched off", () => {
    const off = { ...env, AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE: "false" };
    expect(loadConfig({ env: off, args: [] }).branchEniProbes).toBe(false);
  });

  test("splits lists", () => {
    const { excludeNamespaces } = loadConfig({
      env: {
        ...env,
        EXCLUDE_NAMESPACES: "istio-system, kube-system,",
        EXCLUDED_NAMESPACES: "old,kube-system",
      },
      args: [],
    });
    expect([...excludeNamespaces]).toEqual(["istio-system", "kube-system", "old"]);
  });

  test("the dashboard that an earlier agent served is told of in a line with the command, whatever its values", () => {
    const given = { ...env, DASHBOARD: "true", DASHBOARD_PORT: "none" };
    const why = "the agent serves no page; ambient-cni dashboard does";
    expect(loadConfig({ env: given, args: ["--dashboard-port=7"] })).toMatchObject({
      ignored: [`--dashboard_port: ${why}`, `DASHBOARD: ${why}`, `DASHBOARD_PORT: ${why}`],
      faults: [],
      warnings: [],
    });
  });

  test("says which settings have no effect", () => {
    expect(loadConfig({ env: { ...env, SKIP_TLS_VERIFY: "true" }, args: [] }).ignored).toEqual([
      expect.stringContaining("SKIP_TLS_VERIFY"),
    ]);
  });

  test("takes no iptables where native nftables are asked for, and says what that leaves without effect", () => {
    const asked = { ...env, NATIVE_NFTABLES: "true", FORCE_IPTABLES_BINARY: "legacy" };
    expect(loadConfig({ env: asked, args: [] })).toMatchObject({
      iptablesVariant: "native",
      ignored: ["FORCE_IPTABLES_BINARY: NATIVE_NFTABLES=true takes no iptables"],
      notes: [],
    });
    const kubelet = { ...env, NATIVE_NFTABLES: "true", PROBE_MATCH: "kubelet" };
    expect(loadConfig({ env: kubelet, args: [] })).toMatchObject({
      ignored: [],
      notes: [expect.stringMatching(/^PROBE_MATCH=kubelet: .*by its user alone/)],
    });
    const not = loadConfig({ env: { ...env, NATIVE_NFTABLES: "false" }, args: [] });
    expect(not).toMatchObject({ iptablesVariant: "auto", ignored: [], notes: [] });
  });

  // those of istio-cni: test/settings
  test.each<[string, string, RegExp, object]>([
    ["ESTABLISHED_CONNECTIONS", "drop", /keep, reset/, { establishedConnections: "keep" }],
    ["LEAVE_PAUSE_MS", "10001", /0 to 10000/, { leavePauseMs: 500 }],
    ["LEAVE_PAUSE_MS", "0.5", /whole number/, { leavePauseMs: 500 }],
    ["LEAVE_DRAIN_MS", "60001", /0 to 60000/, { leaveDrainMs: 2000 }],
    ["LEAVE_DRAIN_MS", "-1", /whole number/, { leaveDrainMs: 2000 }],
    ["HEALTH_PORT", "70000", /65535/, { healthPort: 8000 }],
    ["PROBE_MATCH", "root", /any, kubelet/, { probeMatch: "any" }],
    ["AGENT_AWAY_POLICY", "open", /hold, namespace/, { install: { awayPolicy: "namespace" } }],
    ["AGENT_WAIT_SECONDS", "3600", /0 to 60/, { install: { agentWaitSeconds: 10 } }],
    ["LOG_FORMAT", "xml", /json, pretty/, { log: { level: "info" } }],
  ])("says what is wrong with %s=%s, and goes on with the default", (name, value, reason, used) => {
    const config = loadConfig({ env: { ...env, [name]: value }, args: [] });
    expect(config.faults).toEqual([{ name, value, reason: expect.stringMatching(reason) as string }]);
    expect(config.faults[0]?.reason).toContain("is used instead");
    expect(config).toMatchObject({ ...used, blockers: [] });
  });

  test("keeps installing where an empty value says nothing about it", () => {
    expect(loadConfig({ env: { ...env, INSTALL_CNI_PLUGIN: "" }, args: [] }).install.enabled).toBe(true);
  });
});
