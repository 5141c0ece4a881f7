// SPDX-License-Identifier: Apache-2.0
// Environment and flags become one frozen AgentConfig, or one report of everything that is wrong with them.
// Names and defaults are istio-cni's where it has them. Source: istio/istio cni/pkg/config, cni/pkg/constants.
import { isIPv4, isIPv6 } from "node:net";
import { join, resolve } from "node:path";
import { defaultSelectors, type EnablementSelector, parseEnablementSelectors } from "./kube/selectors.ts";
import { type LogLevel, type LogSettings, logLevels } from "./observe/logger.ts";

/** Which of iptables' two kernel interfaces to use; `auto` asks the host. */
export type IptablesVariant = "auto" | "nft" | "legacy";

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
  readonly pluginSocketPath: string;
  readonly ztunnelSocketPath: string;
  readonly selectors: readonly EnablementSelector[];
  readonly excludeNamespaces: ReadonlySet<string>;
  readonly dnsCapture: boolean;
  readonly ipv6: boolean;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** Which connections of the host count as kubelet probes. */
  readonly probeMatch: "any" | "kubelet";
  /** Network namespace that kubelet probes come from. */
  readonly hostNetnsPath: string;
  readonly iptablesVariant: IptablesVariant;
  readonly reconcileIntervalMs: number;
  /** How long ADD of a mesh pod waits for a ztunnel to connect. */
  readonly ztunnelWaitMs: number;
  readonly healthPort: number;
  readonly log: LogSettings;
  /** Settings that were given and have no effect, each with the reason; said once at start. */
  readonly ignored: readonly string[];
}

/** One setting that cannot be used. */
export interface ConfigFault {
  readonly name: string;
  readonly value: string;
  readonly reason: string;
}

/** All faults of a configuration in one report, a line each. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly faults: readonly ConfigFault[];

  constructor(faults: readonly ConfigFault[]) {
    const lines = faults.map((fault) => `  ${fault.name}="${fault.value}": ${fault.reason}`);
    super(`Cannot start with this configuration:\n${lines.join("\n")}`);
    this.faults = faults;
  }
}

/** Where the settings come from. */
export interface ConfigSource {
  readonly env: Readonly<Record<string, string | undefined>>;
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
  [
    /^(MOUNTED_CNI_NET_DIR|CNI_CONF_NAME|CHAINED_CNI_PLUGIN|ISTIO_OWNED_CNI_CONFIG(_FILENAME)?|CNI_CONF_GROUP_READ)$/,
    "this version does not install itself into the chain yet",
  ],
  [/^AMBIENT_DISABLE_SAFE_UPGRADE$/, "pods always keep their redirection over a restart"],
  [
    /^AMBIENT_RECONCILE_POD_RULES_ON_STARTUP$/,
    "rules are always verified, and written only where they differ",
  ],
  [/^(MONITORING_PORT|AGENT_AWAY_POLICY)$/, "this version has no use for it yet"],
];

/** The settings of this process; the only place that reads its environment. */
export function processConfigSource(args: readonly string[]): ConfigSource {
  return { env: process.env, args };
}

/**
 * Gives libuv's pool more threads, unless the operator chose a number; only works before the pool is first used.
 * Netlink jobs can wait there for the kernel's rtnl lock, which other jobs must not have to wait for.
 */
export function widenThreadPool(): void {
  process.env.UV_THREADPOOL_SIZE ??= "16";
}

/** Go's strconv.ParseBool. Source: https://pkg.go.dev/strconv#ParseBool */
const booleans: Readonly<Record<string, boolean>> = {
  "1": true,
  t: true,
  T: true,
  TRUE: true,
  true: true,
  True: true,
  "0": false,
  f: false,
  F: false,
  FALSE: false,
  false: false,
  False: false,
};

class Reader {
  readonly faults: ConfigFault[] = [];
  readonly #env: ConfigSource["env"];

  constructor(env: ConfigSource["env"]) {
    this.#env = env;
  }

  fault(name: string, reason: string): void {
    this.faults.push({ name, value: this.#env[name] ?? "", reason });
  }

  /** An empty value counts as not given, as a Helm chart writes it. */
  text(name: string, fallback: string): string {
    const value = this.#env[name]?.trim();
    return value === undefined || value === "" ? fallback : value;
  }

  path(name: string, fallback: string): string {
    const value = this.text(name, fallback);
    if (!value.startsWith("/")) this.fault(name, "must be an absolute path");
    return resolve("/", value);
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.text(name, String(fallback));
    const parsed = booleans[value];
    if (parsed === undefined) this.fault(name, "must be true or false");
    return parsed ?? fallback;
  }

  integer(name: string, range: { fallback: number; min: number; max: number }): number {
    const value = this.text(name, String(range.fallback));
    const parsed = Number(value);
    if (!/^\d+$/.test(value) || parsed < range.min || parsed > range.max) {
      this.fault(name, `must be a whole number from ${range.min} to ${range.max}`);
      return range.fallback;
    }
    return parsed;
  }

  choice<const T extends string>(name: string, allowed: readonly T[], fallback: T): T {
    const value = this.text(name, fallback);
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) this.fault(name, `must be one of ${allowed.join(", ")}`);
    return found ?? fallback;
  }

  list(name: string): string[] {
    return this.text(name, "")
      .split(",")
      .map((item) => item.trim())
      .filter((item) => item !== "");
  }

  address(name: string, fallback: string, isAddress: (text: string) => boolean): string {
    const value = this.text(name, fallback);
    if (!isAddress(value)) this.fault(name, `must be an ${isAddress === isIPv4 ? "IPv4" : "IPv6"} address`);
    return value;
  }
}

/** Source: unix(7), sun_path without its closing zero. */
const maxSocketPathBytes = 107;

/** Reads the settings. @throws ConfigError with every fault at once */
export function loadConfig(source: ConfigSource): AgentConfig {
  const reader = new Reader(source.env);
  const nodeName = reader.text("NODE_NAME", reader.text("KUBERNETES_NODE_NAME", ""));
  if (nodeName === "") reader.fault("NODE_NAME", "is missing: set it from spec.nodeName (downward API)");
  if (!reader.flag("AMBIENT_ENABLED", true)) {
    reader.fault(
      "AMBIENT_ENABLED",
      "must not be false: this agent serves ambient mode only, use istio-cni for sidecars",
    );
  }
  if (reader.flag("NATIVE_NFTABLES", false)) {
    reader.fault(
      "NATIVE_NFTABLES",
      "is not supported by this version: unset it to use iptables (nft variant included)",
    );
  }
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
    pluginSocketPath,
    ztunnelSocketPath,
    selectors: readSelectors(reader),
    excludeNamespaces: new Set(reader.list("EXCLUDE_NAMESPACES")),
    dnsCapture: reader.flag("AMBIENT_DNS_CAPTURE", true),
    ipv6: reader.flag("AMBIENT_IPV6", true),
    probeSnatV4: reader.address("HOST_PROBE_SNAT_IP", "169.254.7.127", isIPv4),
    probeSnatV6: reader.address("HOST_PROBE_SNAT_IPV6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff", isIPv6),
    probeMatch: reader.choice("PROBE_MATCH", ["any", "kubelet"], "any"),
    hostNetnsPath: reader.flag("ALLOW_SWITCH_TO_HOST_NS", false)
      ? join(hostRoot, "proc/1/ns/net")
      : "/proc/self/ns/net",
    iptablesVariant: reader.choice("FORCE_IPTABLES_BINARY", ["auto", "nft", "legacy"], "auto"),
    reconcileIntervalMs:
      1000 * reader.integer("RECONCILE_INTERVAL_SECONDS", { fallback: 30, min: 1, max: 3600 }),
    ztunnelWaitMs: 1000 * reader.integer("ZTUNNEL_WAIT_SECONDS", { fallback: 20, min: 0, max: 50 }),
    healthPort: reader.integer("HEALTH_PORT", { fallback: 8000, min: 0, max: 65535 }),
    log: readLogSettings(reader, source.args),
    ignored: ignoredSettings(source.env),
  };
  if (reader.faults.length > 0) throw new ConfigError(reader.faults);
  return Object.freeze(config);
}

function readSelectors(reader: Reader): readonly EnablementSelector[] {
  const text = reader.text("AMBIENT_ENABLEMENT_SELECTOR", "");
  if (text === "") return defaultSelectors;
  try {
    return parseEnablementSelectors(text);
  } catch (error) {
    reader.fault("AMBIENT_ENABLEMENT_SELECTOR", (error as Error).message);
    return [];
  }
}

function ignoredSettings(env: ConfigSource["env"]): string[] {
  const found: string[] = [];
  for (const name of Object.keys(env).sort()) {
    const reason = ignoredNames.find(([pattern]) => pattern.test(name))?.[1];
    if (reason !== undefined) found.push(`${name}: ${reason}`);
  }
  return found;
}

/** Reads LOG_LEVEL, `--log_output_level=[SCOPE:]LEVEL,…` and accepts `--log_as_json` (the output always is). */
function readLogSettings(reader: Reader, args: readonly string[]): LogSettings {
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
  return { level, scopes };
}

function splitFlag(arg: string): [string, string | undefined] {
  const at = arg.indexOf("=");
  return at < 0 ? [arg, undefined] : [arg.slice(0, at), arg.slice(at + 1)];
}
