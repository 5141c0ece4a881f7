// SPDX-License-Identifier: Apache-2.0
// Environment and flags become one frozen AgentConfig, or one report of everything that is wrong with them.
// Names and defaults are istio-cni's where it has them. Source: istio/istio cni/pkg/config, cni/pkg/constants.
import { isIPv4, isIPv6 } from "node:net";
import { join } from "node:path";
import { type NamespaceNames, NamespacePatterns } from "./kube/namespace-patterns.ts";
import { defaultSelectors, type EnablementSelector, parseEnablementSelectors } from "./kube/selectors.ts";
import { type LogLevel, type LogSettings, logLevels } from "./log/logger.ts";
import { ConfigError, type Settings, SettingsReader } from "./settings-reader.ts";

/** Which of iptables' two kernel interfaces to use, or none of them; `auto` asks the host. */
export type IptablesVariant = "auto" | "nft" | "legacy" | "native";

/** How the plugin gets into the chain of the node's runtime, and what it does there while the agent is away. */
export interface InstallConfig {
  /** False: somebody else puts launcher and configuration in place. */
  readonly enabled: boolean;
  /** The runtime's folder of network configurations. */
  readonly netDir: string;
  /** The runtime's folder of plugins. */
  readonly binDir: string;
  /** File to install into; `undefined` takes the one that the runtime takes. */
  readonly confName: string | undefined;
  /** False: a configuration of our plugin alone, for meta-plugins that call it by name. */
  readonly chained: boolean;
  /** Name of an own file that is kept equal to the primary one plus our entry; `undefined` edits the primary. */
  readonly ownedFileName: string | undefined;
  /** New files can be read by their group. */
  readonly groupRead: boolean;
  /** Take the place of an istio-cni that is in the chain. */
  readonly replaceIstioCni: boolean;
  /** `namespace`: namespaces that are certainly outside the mesh start pods without the agent; `hold`: only what must. */
  readonly awayPolicy: "hold" | "namespace";
  /** How long the launcher waits for an agent that is away. */
  readonly agentWaitSeconds: number;
}

/** Everything the agent can be told. Paths are absolute. */
export interface AgentConfig {
  readonly nodeName: string;
  readonly podName: string;
  readonly podNamespace: string;
  readonly systemNamespace: string;
  readonly kubeconfigPath: string | undefined;
  /** Prefix under which the host's files are seen; paths given by the runtime are opened below it. */
  readonly hostRoot: string;
  readonly runDir: string;
  /** The same folder as programs on the host see it. */
  readonly hostRunDir: string;
  readonly pluginSocketPath: string;
  readonly ztunnelSocketPath: string;
  readonly selectors: readonly EnablementSelector[];
  readonly excludeNamespaces: NamespaceNames;
  readonly dnsCapture: boolean;
  readonly ipv6: boolean;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** What becomes of a running pod's open connections when it is captured. */
  readonly establishedConnections: "keep" | "reset";
  /** Let probes reach pods with a branch ENI (AWS, security groups for pods). */
  readonly branchEniProbes: boolean;
  /** Which connections of the host count as kubelet probes. */
  readonly probeMatch: "any" | "kubelet";
  /** Network namespace that kubelet probes come from. */
  readonly hostNetnsPath: string;
  readonly iptablesVariant: IptablesVariant;
  readonly reconcileIntervalMs: number;
  /** How long ADD of a mesh pod waits for a ztunnel to connect. */
  readonly ztunnelWaitMs: number;
  /** How long istiod may take to hear that a pod leaves before anything changes in it, in ms. */
  readonly leavePauseMs: number;
  /** How long ztunnel may go on with the connections of a pod that leaves, in ms. */
  readonly leaveDrainMs: number;
  readonly healthPort: number;
  /** Port of the metrics and of the read-only state API. */
  readonly monitoringPort: number;
  /** Serve the dashboard, on the loopback address only. */
  readonly dashboard: boolean;
  readonly dashboardPort: number;
  readonly install: InstallConfig;
  readonly log: LogSettings;
  /** Settings that were given and have no effect, each with the reason; said once at start. */
  readonly ignored: readonly string[];
  /** Settings that are followed in another way than one might think; said once at start. */
  readonly notes: readonly string[];
}

/** Where the settings come from. */
export interface ConfigSource {
  readonly env: Settings;
  /** Arguments after the command's name. */
  readonly args: readonly string[];
}

/** Settings of istio-cni that this agent accepts and does not follow, and why. */
const ignoredNames: readonly (readonly [RegExp, string])[] = [
  [/^REPAIR_/, "only istio-cni's sidecar mode uses it"],
  [
    /^(CNI_NETWORK_CONFIG|KUBECFG_FILE_NAME|SKIP_TLS_VERIFY|KUBE_CA_FILE)$/,
    "the plugin has no API access to configure",
  ],
  [/^AMBIENT_DISABLE_SAFE_UPGRADE$/, "pods always keep their redirection over a restart"],
  [
    /^AMBIENT_RECONCILE_POD_RULES_ON_STARTUP$/,
    "rules are always verified, and written only where they differ",
  ],
];

const forcedBesideNative = "FORCE_IPTABLES_BINARY: NATIVE_NFTABLES=true takes no iptables";
/** Source: linux net/netfilter/nft_socket.c: a socket's cgroup cannot be asked for where source addresses are changed. */
const kubeletByUser =
  "PROBE_MATCH=kubelet: native nftables know the kubelet by its user alone, so every host process of that user counts as the kubelet";

/** The settings of this process; the only place that reads its environment. */
export function processConfigSource(args: readonly string[]): ConfigSource {
  return { env: process.env, args };
}

/** Source: unix(7), sun_path without its closing zero. */
const maxSocketPathBytes = 107;

/**
 * Reads the settings.
 * @param options.needsNode NODE_NAME must be there; default true, commands for people do without
 * @throws ConfigError with every fault at once
 */
export function loadConfig(source: ConfigSource, options: { needsNode?: boolean } = {}): AgentConfig {
  const reader = new SettingsReader(source.env);
  const nodeName = reader.text("NODE_NAME", reader.text("KUBERNETES_NODE_NAME", ""));
  if (nodeName === "" && options.needsNode !== false)
    reader.fault("NODE_NAME", "is missing: set it from spec.nodeName (downward API)");
  if (!reader.flag("AMBIENT_ENABLED", true)) {
    reader.fault(
      "AMBIENT_ENABLED",
      "must not be false: this agent serves ambient mode only, use istio-cni for sidecars",
    );
  }
  const isNative = reader.flag("NATIVE_NFTABLES", false);
  const hostRoot = reader.path("HOST_ROOT", "/host");
  const runDir = reader.path("CNI_AGENT_RUN_DIR", "/var/run/istio-cni");
  const pluginSocketPath = join(runDir, "pluginevent.sock");
  const ztunnelSocketPath = reader.path("ZTUNNEL_UDS_ADDRESS", "/var/run/ztunnel/ztunnel.sock");
  // the agent binds the plugin socket under a longer name first
  if (Buffer.byteLength(pluginSocketPath) > maxSocketPathBytes - 8) {
    reader.fault("CNI_AGENT_RUN_DIR", `is too long: a socket path has at most ${maxSocketPathBytes} bytes`);
  }
  if (Buffer.byteLength(ztunnelSocketPath) > maxSocketPathBytes) {
    reader.fault("ZTUNNEL_UDS_ADDRESS", `is too long: a socket path has at most ${maxSocketPathBytes} bytes`);
  }
  const config: AgentConfig = {
    nodeName,
    podName: reader.text("POD_NAME", ""),
    podNamespace: reader.text("POD_NAMESPACE", ""),
    systemNamespace: reader.text("SYSTEM_NAMESPACE", "istio-system"),
    kubeconfigPath: source.env.KUBECONFIG ? reader.path("KUBECONFIG", "") : undefined,
    hostRoot,
    runDir,
    hostRunDir: runDir.startsWith(join(hostRoot, "/")) ? join("/", runDir.slice(hostRoot.length)) : runDir,
    pluginSocketPath,
    ztunnelSocketPath,
    selectors: readSelectors(reader),
    // the second is what istio-cni charts before 1.30 write
    excludeNamespaces: new NamespacePatterns([
      ...reader.list("EXCLUDE_NAMESPACES"),
      ...reader.list("EXCLUDED_NAMESPACES"),
    ]),
    dnsCapture: reader.flag("AMBIENT_DNS_CAPTURE", true),
    ipv6: reader.flag("AMBIENT_IPV6", true),
    probeSnatV4: reader.address("HOST_PROBE_SNAT_IP", "169.254.7.127", isIPv4),
    probeSnatV6: reader.address("HOST_PROBE_SNAT_IPV6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff", isIPv6),
    establishedConnections: reader.choice("ESTABLISHED_CONNECTIONS", ["keep", "reset"], "keep"),
    branchEniProbes: reader.flag("AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE", true),
    probeMatch: reader.choice("PROBE_MATCH", ["any", "kubelet"], "any"),
    hostNetnsPath: reader.flag("ALLOW_SWITCH_TO_HOST_NS", false)
      ? join(hostRoot, "proc/1/ns/net")
      : "/proc/self/ns/net",
    iptablesVariant: readIptablesVariant(reader, isNative),
    reconcileIntervalMs:
      1000 * reader.integer("RECONCILE_INTERVAL_SECONDS", { fallback: 30, min: 1, max: 3600 }),
    ztunnelWaitMs: 1000 * reader.integer("ZTUNNEL_WAIT_SECONDS", { fallback: 20, min: 0, max: 50 }),
    leavePauseMs: reader.integer("LEAVE_PAUSE_MS", { fallback: 500, min: 0, max: 10_000 }),
    leaveDrainMs: reader.integer("LEAVE_DRAIN_MS", { fallback: 2_000, min: 0, max: 60_000 }),
    healthPort: reader.integer("HEALTH_PORT", { fallback: 8000, min: 0, max: 65535 }),
    monitoringPort: reader.integer("MONITORING_PORT", { fallback: 15014, min: 0, max: 65535 }),
    dashboard: reader.flag("DASHBOARD", false),
    dashboardPort: reader.integer("DASHBOARD_PORT", { fallback: 15015, min: 0, max: 65535 }),
    install: readInstall(reader, hostRoot),
    log: readLogSettings(reader, source.args),
    ignored: [
      ...(isNative && reader.text("FORCE_IPTABLES_BINARY", "auto") !== "auto" ? [forcedBesideNative] : []),
      ...ignoredSettings(source.env),
    ],
    notes: isNative && reader.text("PROBE_MATCH", "any") === "kubelet" ? [kubeletByUser] : [],
  };
  if (reader.faults.length > 0) throw new ConfigError(reader.faults);
  return Object.freeze(config);
}

function readIptablesVariant(reader: SettingsReader, isNative: boolean): IptablesVariant {
  const forced = reader.choice("FORCE_IPTABLES_BINARY", ["auto", "nft", "legacy"], "auto");
  return isNative ? "native" : forced;
}

function readInstall(reader: SettingsReader, hostRoot: string): InstallConfig {
  const ownedFileName = reader.fileName("ISTIO_OWNED_CNI_CONFIG_FILENAME", "02-istio-cni.conflist");
  const confName = reader.fileName("CNI_CONF_NAME", "");
  return {
    enabled: reader.flag("INSTALL_CNI_PLUGIN", true),
    netDir: reader.path("MOUNTED_CNI_NET_DIR", join(hostRoot, "etc/cni/net.d")),
    binDir: reader.path("MOUNTED_CNI_BIN_DIR", join(hostRoot, "opt/cni/bin")),
    confName: confName === "" ? undefined : confName,
    chained: reader.flag("CHAINED_CNI_PLUGIN", true),
    ownedFileName: reader.flag("ISTIO_OWNED_CNI_CONFIG", false) ? ownedFileName : undefined,
    groupRead: reader.flag("CNI_CONF_GROUP_READ", false),
    replaceIstioCni: reader.flag("REPLACE_ISTIO_CNI", false),
    awayPolicy: reader.choice("AGENT_AWAY_POLICY", ["hold", "namespace"], "namespace"),
    agentWaitSeconds: reader.integer("AGENT_WAIT_SECONDS", { fallback: 10, min: 0, max: 60 }),
  };
}

function readSelectors(reader: SettingsReader): readonly EnablementSelector[] {
  const text = reader.text("AMBIENT_ENABLEMENT_SELECTOR", "");
  if (text === "") return defaultSelectors;
  try {
    return parseEnablementSelectors(text);
  } catch (error) {
    reader.fault("AMBIENT_ENABLEMENT_SELECTOR", (error as Error).message);
    return [];
  }
}

function ignoredSettings(env: Settings): string[] {
  const found: string[] = [];
  for (const name of Object.keys(env).sort()) {
    const reason = ignoredNames.find(([pattern]) => pattern.test(name))?.[1];
    if (reason !== undefined) found.push(`${name}: ${reason}`);
  }
  return found;
}

/** Reads LOG_LEVEL, `--log_output_level=[SCOPE:]LEVEL,…`, LOG_FORMAT, and `--log_as_json`, which wins over it. */
function readLogSettings(reader: SettingsReader, args: readonly string[]): LogSettings {
  const given = reader.choice("LOG_LEVEL", [...logLevels, "fatal"], "info");
  let level: LogLevel = given === "fatal" ? "error" : given;
  const scopes: Record<string, LogLevel> = {};
  for (const [index, arg] of args.entries()) {
    const [flag, inline] = splitFlag(arg);
    if (flag === "--log_as_json" || (index > 0 && args[index - 1] === "--log_output_level")) continue;
    if (flag !== "--log_output_level") {
      reader.faults.push({
        name: arg,
        value: "",
        reason: "is not an option of the agent; see ambient-cni --help",
      });
      continue;
    }
    for (const item of (inline ?? args[index + 1] ?? "").split(",").filter((part) => part !== "")) {
      const parts = item.split(":");
      const wanted = parts.at(-1) ?? "";
      // istio's "fatal" has no line of its own here
      const known = wanted === "fatal" ? "error" : logLevels.find((candidate) => candidate === wanted);
      if (known === undefined || parts.length > 2) {
        reader.faults.push({
          name: flag,
          value: item,
          reason: `must be LEVEL or SCOPE:LEVEL with LEVEL one of ${logLevels.join(", ")}`,
        });
      } else if (parts.length === 1 || parts[0] === "default") level = known;
      else scopes[parts[0] ?? ""] = known;
    }
  }
  const format = reader.choice("LOG_FORMAT", ["json", "pretty"], "json");
  const isPretty = format === "pretty" && !args.includes("--log_as_json");
  return { level, scopes, ...(isPretty ? { format } : {}) };
}

function splitFlag(arg: string): [string, string | undefined] {
  const at = arg.indexOf("=");
  return at < 0 ? [arg, undefined] : [arg.slice(0, at), arg.slice(at + 1)];
}
