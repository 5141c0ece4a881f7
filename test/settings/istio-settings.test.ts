// SPDX-License-Identifier: Apache-2.0
// The table of istio-cni's settings and options: what each of them does to this agent, and that none of them stops it.
import { describe, expect, test } from "vitest";
import { type AgentConfig, loadConfig } from "../../src/config.ts";
import { NamespacePatterns } from "../../src/kube/namespace-patterns.ts";
import { defaultSelectors } from "../../src/kube/selectors.ts";
import { options, settings } from "./istio-cni-names.ts";

const node = { NODE_NAME: "node1" };

function load(env: Record<string, string> = {}, args: readonly string[] = []): AgentConfig {
  return loadConfig({ env: { ...node, ...env }, args });
}

/** What a setting comes to: a part of the config, or one of the lines that are said. */
type Effect =
  | Partial<Record<keyof AgentConfig, unknown>>
  | "no effect"
  | { readonly warned: RegExp; readonly as: object }
  | { readonly fault: RegExp; readonly as: object }
  | { readonly blocked: RegExp };

const install = (part: object): Effect => ({ install: expect.objectContaining(part) });
const warnedInstall = (warned: RegExp, part: object): Effect => ({
  warned,
  as: { install: expect.objectContaining(part) },
});
const repair = (part: object): Effect => ({ repair: expect.objectContaining(part) });
const noBoolean = /neither true nor false: counts as false/;
const long = `/${"x".repeat(120)}`;

const table: readonly (readonly [string, string, Effect])[] = [
  ["AMBIENT_ENABLED", "true", { ambient: true, blockers: [] }],
  ["AMBIENT_ENABLED", "false", { ambient: false, selectors: [], blockers: [] }],
  ["AMBIENT_ENABLED", "maybe", { warned: noBoolean, as: { ambient: false, selectors: [], blockers: [] } }],
  ["AMBIENT_ENABLEMENT_SELECTOR", "[]", { selectors: [] }],
  ["AMBIENT_ENABLEMENT_SELECTOR", "", { selectors: defaultSelectors }],
  ["AMBIENT_ENABLEMENT_SELECTOR", "null", { warned: /no pod is selected/, as: { selectors: [] } }],
  [
    "AMBIENT_ENABLEMENT_SELECTOR",
    "- podselector: {}\n  more: 1",
    { warned: /is taken for "podSelector"/, as: { selectors: [{ podSelector: [], namespaceSelector: [] }] } },
  ],
  ["AMBIENT_ENABLEMENT_SELECTOR", "a: b", { blocked: /must be a list/ }],
  ["AMBIENT_DNS_CAPTURE", "false", { dnsCapture: false }],
  ["AMBIENT_DNS_CAPTURE", "T", { dnsCapture: true }],
  ["AMBIENT_DNS_CAPTURE", "yes", { warned: noBoolean, as: { dnsCapture: false } }],
  ["AMBIENT_DNS_CAPTURE", "", { warned: noBoolean, as: { dnsCapture: false } }],
  ["AMBIENT_IPV6", "0", { ipv6: false }],
  ["AMBIENT_IPV6", "on", { warned: noBoolean, as: { ipv6: false } }],
  ["AMBIENT_DISABLE_SAFE_UPGRADE", "true", "no effect"],
  ["AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "false", "no effect"],
  ["AMBIENT_TPROXY_REDIRECTION", "true", "no effect"],
  ["AMBIENT_USE_SCOPED_XTABLES_LOCKING", "false", "no effect"],
  ["ENABLE_AMBIENT_DETECTION_RETRY", "true", "no effect"],
  ["AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE", "false", { branchEniProbes: false }],
  ["AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE", "n", { warned: noBoolean, as: { branchEniProbes: false } }],
  ["NATIVE_NFTABLES", "true", { iptablesVariant: "native" }],
  ["NATIVE_NFTABLES", "nft", { warned: noBoolean, as: { iptablesVariant: "auto" } }],
  ["FORCE_IPTABLES_BINARY", "legacy", { iptablesVariant: "legacy" }],
  [
    "FORCE_IPTABLES_BINARY",
    "iptables",
    { fault: /nft, legacy; "auto" is used/, as: { iptablesVariant: "auto" } },
  ],
  ["CHAINED_CNI_PLUGIN", "false", install({ chained: false })],
  ["CHAINED_CNI_PLUGIN", "no", warnedInstall(noBoolean, { chained: false })],
  ["CNI_CONF_NAME", "10-x.conflist", install({ confName: "10-x.conflist", netDir: "/host/etc/cni/net.d" })],
  ["CNI_CONF_NAME", "", install({ confName: undefined })],
  [
    "CNI_CONF_NAME",
    "sub/10-x.conflist",
    install({ confName: "10-x.conflist", netDir: "/host/etc/cni/net.d/sub" }),
  ],
  [
    "CNI_CONF_NAME",
    "/etc/cni/net.d/10-x.conflist",
    warnedInstall(/"10-x.conflist" is used/, { confName: "10-x.conflist", netDir: "/host/etc/cni/net.d" }),
  ],
  [
    "CNI_CONF_NAME",
    "../10-x.conflist",
    warnedInstall(/"10-x.conflist" is used/, { confName: "10-x.conflist", netDir: "/host/etc/cni/net.d" }),
  ],
  ["CNI_CONF_NAME", "..", warnedInstall(/the default is used/, { confName: undefined })],
  ["CNI_CONF_NAME", "/", warnedInstall(/the default is used/, { confName: undefined })],
  ["ISTIO_OWNED_CNI_CONFIG", "true", install({ ownedFileName: "02-istio-cni.conflist" })],
  ["ISTIO_OWNED_CNI_CONFIG", "si", warnedInstall(noBoolean, { ownedFileName: undefined })],
  ["CNI_CONF_GROUP_READ", "true", install({ groupRead: true })],
  ["CNI_CONF_GROUP_READ", "0640", warnedInstall(noBoolean, { groupRead: false })],
  ["CNI_NETWORK_CONFIG", "{}", "no effect"],
  ["CNI_NETWORK_CONFIG_FILE", "/x", "no effect"],
  ["KUBECONFIG_MODE", "0644", "no effect"],
  ["KUBE_CA_FILE", "/x", "no effect"],
  ["SKIP_TLS_VERIFY", "true", "no effect"],
  ["LOG_UDS_SOCKET", "/x", "no effect"],
  ["CNI_EVENT_ADDRESS", "/x", "no effect"],
  ["MOUNTED_CNI_NET_DIR", "/net", install({ netDir: "/net" })],
  ["MOUNTED_CNI_NET_DIR", "net", warnedInstall(/"\/net" is used/, { netDir: "/net" })],
  ["CNI_AGENT_RUN_DIR", "/run/x", { runDir: "/run/x" }],
  ["CNI_AGENT_RUN_DIR", "run/x", { warned: /"\/run\/x" is used/, as: { runDir: "/run/x" } }],
  ["CNI_AGENT_RUN_DIR", long, { fault: /too long/, as: { runDir: "/var/run/istio-cni" } }],
  ["ZTUNNEL_UDS_ADDRESS", "/z.sock", { ztunnelSocketPath: "/z.sock" }],
  [
    "ZTUNNEL_UDS_ADDRESS",
    long,
    { fault: /too long/, as: { ztunnelSocketPath: "/var/run/ztunnel/ztunnel.sock" } },
  ],
  ["NODE_NAME", "n2", { nodeName: "n2" }],
  ["POD_NAME", "p", { podName: "p" }],
  ["POD_NAMESPACE", "ns", { podNamespace: "ns" }],
  ["SYSTEM_NAMESPACE", "mesh", { systemNamespace: "mesh" }],
  ["REVISION", "canary", "no effect"],
  ["EXCLUDE_NAMESPACES", "a, b,", { excludeNamespaces: new NamespacePatterns(["a", "b"]) }],
  ["HOST_PROBE_SNAT_IP", "169.254.1.1", { probeSnatV4: "169.254.1.1" }],
  [
    "HOST_PROBE_SNAT_IP",
    "169.254.1",
    { fault: /IPv4 address; "169.254.7.127" is used/, as: { probeSnatV4: "169.254.7.127" } },
  ],
  ["HOST_PROBE_SNAT_IPV6", "fd00::1", { probeSnatV6: "fd00::1" }],
  [
    "HOST_PROBE_SNAT_IPV6",
    "10.0.0.1",
    { fault: /IPv6 address/, as: { probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } },
  ],
  ["ALLOW_SWITCH_TO_HOST_NS", "true", { hostNetnsPath: "/host/proc/1/ns/net" }],
  ["ALLOW_SWITCH_TO_HOST_NS", "2", { warned: noBoolean, as: { hostNetnsPath: "/proc/self/ns/net" } }],
  ["MONITORING_PORT", "9000", { monitoringPort: 9000 }],
  ["MONITORING_PORT", "0", { monitoringPort: undefined, warnings: [] }],
  ["MONITORING_PORT", "-1", { monitoringPort: undefined, warnings: [] }],
  ["MONITORING_PORT", "70000", { warned: /no port/, as: { monitoringPort: undefined } }],
  ["MONITORING_PORT", "http", { warned: /no port/, as: { monitoringPort: undefined } }],
  ["LOG_LEVEL", "debug", { log: { level: "debug", scopes: {} } }],
  ["LOG_LEVEL", "WARNING", { log: { level: "warn", scopes: {} }, warnings: [] }],
  ["LOG_LEVEL", "fatal", { log: { level: "error", scopes: {} } }],
  ["LOG_LEVEL", "loud", { warned: /no level/, as: { log: { level: "info", scopes: {} } } }],
  ["CURRENT_AGENT_VERSION", "1.31.0", "no effect"],
  ["GOMEMLIMIT", "1", "no effect"],
  ["GOMAXPROCS", "1", "no effect"],
  ["REPAIR_ENABLED", "true", repair({ mode: undefined })],
  ["REPAIR_ENABLED", "no", { warned: noBoolean, as: { repair: { mode: undefined } } }],
  ["REPAIR_REPAIR_PODS", "true", repair({ mode: "repair" })],
  ["REPAIR_DELETE_PODS", "true", repair({ mode: "delete" })],
  ["REPAIR_LABEL_PODS", "true", repair({ mode: "label" })],
  ["REPAIR_DELETE_PODS", "all", { warned: noBoolean, as: { repair: { mode: undefined } } }],
  ["REPAIR_BROKEN_POD_LABEL_KEY", "mesh/broken", repair({ labelKey: "mesh/broken" })],
  ["REPAIR_BROKEN_POD_LABEL_VALUE", "yes", repair({ labelValue: "yes" })],
  ["REPAIR_BROKEN_POD_LABEL_VALUE", "", repair({ labelValue: "" })],
  ["REPAIR_NODE_NAME", "node2", repair({ nodeName: "node2" })],
  ["REPAIR_NODE_NAME", "", repair({ nodeName: "node1" })],
  ["REPAIR_SIDECAR_ANNOTATION", "inject/status", repair({ sidecarAnnotation: "inject/status" })],
  ["REPAIR_SIDECAR_ANNOTATION", "", repair({ sidecarAnnotation: "" })],
  ["REPAIR_INIT_CONTAINER_NAME", "", repair({ initContainerName: "" })],
  ["REPAIR_INIT_CONTAINER_TERMINATION_MESSAGE", "no rules", repair({ terminationMessage: "no rules" })],
  ["REPAIR_INIT_CONTAINER_EXIT_CODE", "7", repair({ exitCode: 7 })],
  ["REPAIR_INIT_CONTAINER_EXIT_CODE", "0", repair({ exitCode: 0 })],
  // off: what is wrong is nobody's concern
  ["REPAIR_INIT_CONTAINER_EXIT_CODE", "x", repair({ exitCode: 126 })],
  ["REPAIR_LABEL_SELECTORS", "app in (a, b)", repair({ labelSelectors: "app in (a, b)" })],
  ["REPAIR_FIELD_SELECTORS", "a!=b", repair({ fieldSelectors: "a!=b" })],
  ["REPAIR_RUN_AS_DAEMON", "true", "no effect"],
];

/** Told by tests of their own below, or by those of the parts they are about. */
const elsewhere = [
  "KUBERNETES_NODE_NAME",
  "ISTIO_OWNED_CNI_CONFIG_FILENAME",
  "ISTIO_OWNED_CNI_CONF_FILENAME",
];

function expectEffect(config: AgentConfig, name: string, effect: Effect): void {
  const { faults, blockers, warnings, ignored } = config;
  const named = (list: AgentConfig["faults"]) => list.map((each) => `${each.name}: ${each.reason}`);
  if (effect === "no effect") {
    expect({ faults, blockers, warnings }).toEqual({ faults: [], blockers: [], warnings: [] });
    expect(ignored).toEqual([expect.stringMatching(new RegExp(`^(--)?${name}: `, "i")) as string]);
  } else if ("blocked" in effect) {
    expect(named(blockers)).toEqual([expect.stringMatching(effect.blocked as RegExp) as string]);
  } else if ("warned" in effect) {
    expect(warnings).toContainEqual(expect.stringMatching(effect.warned as RegExp));
    expect(config).toMatchObject(effect.as as object);
    expect({ faults, blockers }).toEqual({ faults: [], blockers: [] });
  } else if ("fault" in effect) {
    expect(named(faults)).toEqual([expect.stringMatching(effect.fault as RegExp) as string]);
    expect(config).toMatchObject(effect.as as object);
    expect(blockers).toEqual([]);
  } else {
    expect(config).toMatchObject(effect);
    expect({ faults, blockers, warnings, ignored }).toEqual({
      faults: [],
      blockers: [],
      warnings: [],
      ignored: [],
    });
  }
}

describe("istio-cni's settings", () => {
  test("are all in the table", () => {
    const rows = new Set(table.map(([name]) => name));
    expect(settings.filter((name) => !rows.has(name) && !elsewhere.includes(name))).toEqual([]);
    expect([...rows].filter((name) => !settings.includes(name))).toEqual([]);
  });

  test.each(table)("%s=%j", (name, value, effect) => expectEffect(load({ [name]: value }), name, effect));

  const asFlags = table.filter(([, value]) => value !== "");
  test.each(asFlags)("--%s %j as an option wins over the environment", (name, value, effect) => {
    const flag = `--${name.toLowerCase().replaceAll("_", "-")}`;
    const other = effect === "no effect" ? {} : { [name]: "other" };
    for (const args of [[`${flag}=${value}`], [flag, value], [`--${name.toLowerCase()}=${value}`]])
      expectEffect(load(other, args), name, effect);
  });

  test("an option without a value is true, whatever comes next", () => {
    expect(load({}, ["--native-nftables", "--ambient-ipv6=false"])).toMatchObject({
      iptablesVariant: "native",
      ipv6: false,
      warnings: [],
    });
  });

  test.each([
    [{ ISTIO_OWNED_CNI_CONFIG_FILENAME: "01-a.conflist" }, "01-a.conflist"],
    [{ ISTIO_OWNED_CNI_CONF_FILENAME: "01-b.conflist" }, "01-b.conflist"],
    [
      { ISTIO_OWNED_CNI_CONFIG_FILENAME: "01-a.conflist", ISTIO_OWNED_CNI_CONF_FILENAME: "01-b.conflist" },
      "01-a.conflist",
    ],
    [{ ISTIO_OWNED_CNI_CONF_FILENAME: "" }, "02-istio-cni.conflist"],
    [{ ISTIO_OWNED_CNI_CONF_FILENAME: "/etc/cni/net.d/01-b.conflist" }, "01-b.conflist"],
  ])("the own file's name by %j is %s", (env, name) => {
    expect(load({ ISTIO_OWNED_CNI_CONFIG: "true", ...env }).install.ownedFileName).toBe(name);
  });

  test("the node's name may come as istio-cni's installer has it; without one nothing can work", () => {
    expect(loadConfig({ env: { KUBERNETES_NODE_NAME: "n3" }, args: [] }).nodeName).toBe("n3");
    expect(loadConfig({ env: {}, args: [] }).blockers).toEqual([
      expect.objectContaining({
        name: "NODE_NAME",
        reason: expect.stringContaining("spec.nodeName") as string,
      }),
    ]);
  });

  test("all at once, each with nonsense in it, leave an agent that says what is wrong", () => {
    const nonsense = "][ %s /\u0001 -1";
    const all = Object.fromEntries(settings.map((name) => [name, nonsense]));
    const config = load({ ...all, AMBIENT_ENABLED: "true" });
    const names = [...config.faults, ...config.blockers].map(({ name }) => name);
    expect(names.sort()).toEqual([
      "AMBIENT_ENABLEMENT_SELECTOR",
      "FORCE_IPTABLES_BINARY",
      "HOST_PROBE_SNAT_IP",
      "HOST_PROBE_SNAT_IPV6",
    ]);
  });
});

describe("istio-cni's options", () => {
  const values: Readonly<Record<string, string>> = {
    "--ctrlz_address": "*",
    "--ctrlz_port": "0",
    "--log_as_json": "true",
    "--log_caller": "all",
    "--log_output_level": "all:debug",
    "--log_stacktrace_level": "default:none",
    "--log_target": "stdout",
    "--vklog": "9",
  };

  test.each(options)("%s is taken", (option) => {
    const value = values[option] ?? "1";
    // it is the only one that never takes the next word
    const apart = option === "--log_as_json" ? [option] : [option, value];
    for (const args of [[`${option}=${value}`], apart]) {
      const { faults, blockers, warnings, ignored, log } = load({}, args);
      expect({ faults, blockers, warnings }).toEqual({ faults: [], blockers: [], warnings: [] });
      if (option === "--log_output_level") expect(log.level).toBe("debug");
      else if (option !== "--log_as_json")
        expect(ignored).toEqual([expect.stringMatching(new RegExp(`^${option}: `)) as string]);
    }
  });

  const every = (level: string, but: string[] = []) =>
    Object.fromEntries(
      ["agent", "cni", "enrolment", "install", "kube", "netns", "probes", "redirect", "repair", "ztunnel"]
        .filter((scope) => !but.includes(scope))
        .map((scope) => [scope, level]),
    );
  test.each<[string, object]>([
    ["debug", { level: "debug", scopes: {} }],
    ["default:debug", { level: "debug", scopes: {} }],
    ["all:debug", { level: "debug", scopes: {} }],
    ["cni-plugin:debug", { level: "info", scopes: { cni: "debug" } }],
    ["cni-agent:debug", { level: "info", scopes: every("debug", ["cni"]) }],
    [
      "cni-agent:debug,cni-plugin:error",
      { level: "info", scopes: { ...every("debug", ["cni"]), cni: "error" } },
    ],
    ["cni:debug,all:warn", { level: "warn", scopes: {} }],
    ["all:warn,kube:debug", { level: "warn", scopes: { kube: "debug" } }],
    ["cni-agent:fatal", { level: "info", scopes: every("error", ["cni"]) }],
    ["default:none", { level: "none", scopes: {} }],
  ])("--log_output_level=%s", (text, log) => {
    const config = load({}, [`--log_output_level=${text}`]);
    expect(config).toMatchObject({ log, warnings: [] });
    expect(config.log.scopes).toEqual((log as { scopes: object }).scopes);
  });

  test.each([
    ["klog:debug", /nothing logs in that scope/],
    ["cni:loud", /LEVEL or SCOPE:LEVEL/],
    ["a:b:info", /LEVEL or SCOPE:LEVEL/],
    ["loud,debug", /"loud" is left out/],
  ])("--log_output_level=%s is followed as far as it can be", (text, said) => {
    const config = load({}, [`--log_output_level=${text}`]);
    expect(config).toMatchObject({ faults: [], blockers: [], log: { scopes: {} } });
    expect(config.warnings).toEqual([expect.stringMatching(said) as string]);
  });

  test("what nobody knows is said and left out", () => {
    const { warnings, blockers } = load({}, ["--frob=1", "--log_as_json", "-x", "word"]);
    expect(blockers).toEqual([]);
    expect(warnings).toEqual(
      ["--frob", "-x", "word"].map((arg) => `${arg}: is no option of the agent: left out`),
    );
  });
});

test("without ambient mode what says how pods are captured has no effect, in one line, and a note says what is done", () => {
  const { ignored, notes } = load({
    AMBIENT_ENABLED: "false",
    AMBIENT_DNS_CAPTURE: "true",
    AMBIENT_IPV6: "",
    PROBE_MATCH: "any",
  });
  expect(ignored).toEqual(["AMBIENT_DNS_CAPTURE, PROBE_MATCH: AMBIENT_ENABLED=false captures no pod"]);
  expect(notes).toEqual([expect.stringMatching(/^AMBIENT_ENABLED=false: sidecars alone are served/)]);
  expect(load({ AMBIENT_DNS_CAPTURE: "true" })).toMatchObject({ ignored: [], notes: [] });
});
