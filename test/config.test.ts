// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { loadConfig } from "../src/config.ts";
import { defaultSelectors } from "../src/kube/selectors.ts";
import { ConfigError, type ConfigFault } from "../src/settings-reader.ts";

const env = { NODE_NAME: "node1" };

function faultsOf(
  change: Record<string, string | undefined>,
  args: readonly string[] = [],
): readonly ConfigFault[] {
  try {
    loadConfig({ env: { ...env, ...change }, args });
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
  return [];
}

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
      dashboard: false,
      install: {
        enabled: true,
        netDir: "/host/etc/cni/net.d",
        binDir: "/host/opt/cni/bin",
        confName: undefined,
        chained: true,
        ownedFileName: undefined,
        groupRead: false,
        replaceIstioCni: false,
        awayPolicy: "namespace",
        agentWaitSeconds: 10,
      },
      log: { level: "info", scopes: {} },
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

  test.each([
    [
      "default level and scopes",
      ["--log_output_level=warn,cni:debug"],
      { level: "warn", scopes: { cni: "debug" } },
    ],
    ["the scope called default", ["--log_output_level", "default:error"], { level: "error", scopes: {} }],
    ["JSON output, which is the only one", ["--log_as_json"], { level: "info", scopes: {} }],
  ])("reads istio's log flags: %s", (_name, args, log) => {
    expect(loadConfig({ env, args }).log).toEqual(log);
  });

  test("says which settings have no effect", () => {
    expect(loadConfig({ env: { ...env, REPAIR_ENABLED: "true" }, args: [] }).ignored).toEqual([
      expect.stringContaining("REPAIR_ENABLED"),
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

  const bad: readonly [string, Record<string, string | undefined>, RegExp][] = [
    ["NODE_NAME", { NODE_NAME: undefined }, /spec\.nodeName/],
    ["AMBIENT_ENABLED", { AMBIENT_ENABLED: "false" }, /must not be false/],
    ["AMBIENT_IPV6", { AMBIENT_IPV6: "maybe" }, /true or false/],
    ["CNI_AGENT_RUN_DIR", { CNI_AGENT_RUN_DIR: "run" }, /absolute path/],
    ["ESTABLISHED_CONNECTIONS", { ESTABLISHED_CONNECTIONS: "drop" }, /keep, reset/],
    ["LEAVE_PAUSE_MS", { LEAVE_PAUSE_MS: "10001" }, /0 to 10000/],
    ["LEAVE_PAUSE_MS", { LEAVE_PAUSE_MS: "0.5" }, /whole number/],
    ["LEAVE_DRAIN_MS", { LEAVE_DRAIN_MS: "60001" }, /0 to 60000/],
    ["LEAVE_DRAIN_MS", { LEAVE_DRAIN_MS: "-1" }, /whole number/],
    ["HOST_PROBE_SNAT_IP", { HOST_PROBE_SNAT_IP: "fd00::1" }, /IPv4/],
    ["HOST_PROBE_SNAT_IPV6", { HOST_PROBE_SNAT_IPV6: "10.0.0.1" }, /IPv6/],
    ["FORCE_IPTABLES_BINARY", { FORCE_IPTABLES_BINARY: "ebpf" }, /nft, legacy/],
    ["HEALTH_PORT", { HEALTH_PORT: "70000" }, /65535/],
    ["CNI_CONF_NAME", { CNI_CONF_NAME: "../10-x.conflist" }, /without a folder/],
    ["AGENT_AWAY_POLICY", { AGENT_AWAY_POLICY: "open" }, /hold, namespace/],
    ["AGENT_WAIT_SECONDS", { AGENT_WAIT_SECONDS: "3600" }, /0 to 60/],
    ["CNI_AGENT_RUN_DIR", { CNI_AGENT_RUN_DIR: `/${"x".repeat(100)}` }, /too long.*107/],
    ["ZTUNNEL_UDS_ADDRESS", { ZTUNNEL_UDS_ADDRESS: `/${"x".repeat(107)}` }, /too long.*107/],
    ["LOG_LEVEL", { LOG_LEVEL: "loud" }, /debug, info/],
    ["AMBIENT_ENABLEMENT_SELECTOR", { AMBIENT_ENABLEMENT_SELECTOR: "- podSelector: 7" }, /must be a map/],
  ];
  test.each(bad)("refuses a bad %s with its name and the reason", (name, change, reason) => {
    expect(faultsOf(change)).toEqual([
      expect.objectContaining({ name, reason: expect.stringMatching(reason) as string }),
    ]);
  });

  test("reports all faults at once", () => {
    const faults = faultsOf({ NODE_NAME: "", HEALTH_PORT: "x", AMBIENT_IPV6: "x" }, [
      "--frob",
      "--log_output_level=cni:loud",
    ]);
    expect(faults.map(({ name }) => name)).toEqual([
      "NODE_NAME",
      "AMBIENT_IPV6",
      "HEALTH_PORT",
      "--frob",
      "--log_output_level",
    ]);
  });
});
