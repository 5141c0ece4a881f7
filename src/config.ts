// SPDX-License-Identifier: Apache-2.0
// Environment and flags become one frozen AgentConfig, which says too what of them cannot be followed.
// Names and defaults are istio-cni's where it has them. Source: istio/istio cni/pkg/config, cni/pkg/constants.
import { isIPv4, isIPv6 } from "node:net";
import { basename, dirname, isAbsolute, join } from "node:path";
import { type NamespaceNames, NamespacePatterns } from "./kube/namespace-patterns.ts";
import { type EnablementSelector, parseEnablementSelectors } from "./kube/selectors.ts";
import type { LogSettings } from "./log/log-levels.ts";
import { optionOf, readCommandLine } from "./settings/command-line.ts";
import { readLogSettings } from "./settings/log-settings.ts";
import { type NriSettings, readNriSettings } from "./settings/nri-settings.ts";
import { type RepairSettings, readRepairSettings } from "./settings/repair-settings.ts";
import { type SettingFault, type Settings, SettingsReader } from "./settings/settings-reader.ts";
import {
  reasonWithoutEffect,
  settingsWithoutAmbient,
  settingsWithoutEffect,
} from "./settings/without-effect.ts";

export type { SettingFault } from "./settings/settings-reader.ts";

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
  /** When the agent leaves the node for good, running pods leave the mesh first; else they stay in it for the next agent. */
  readonly releasePods: boolean;
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
  /** False: sidecars are served, and no pod is captured for ztunnel. */
  readonly ambient: boolean;
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
  /** Listen to what the kernel announces in captured pods and on the host; false: look by the clock alone. */
  readonly kernelNotices: boolean;
  /** How long ADD of a mesh pod waits for a ztunnel to connect. */
  readonly ztunnelWaitMs: number;
  /** How long istiod may take to hear that a pod leaves before anything changes in it, in ms. */
  readonly leavePauseMs: number;
  /** How long ztunnel may go on with the connections of a pod that leaves, in ms. */
  readonly leaveDrainMs: number;
  readonly healthPort: number;
  /** Port of the metrics; undefined: there is none. */
  readonly monitoringPort: number | undefined;
  readonly install: InstallConfig;
  readonly nri: NriSettings;
  readonly repair: RepairSettings;
  readonly log: LogSettings;
  /** Settings that were given and have no effect, each with the reason; said once at start, in one line. */
  readonly ignored: readonly string[];
  /** Settings that are followed in another way than one might think; said once at start. */
  readonly notes: readonly string[];
  /** Settings that are followed in another way than their text says; warned of at start. */
  readonly warnings: readonly string[];
  /** Settings that cannot be followed, something else stands in their place: the agent works, and is not ready. */
  readonly faults: readonly SettingFault[];
  /** Settings without which the agent cannot work: it stands by, not ready, and holds no pod up. */
  readonly blockers: readonly SettingFault[];
}

/** Where the settings come from. */
export interface ConfigSource {
  readonly env: Settings;
  /** Arguments after the command's name. */
  readonly args: readonly string[];
}

const forcedBesideNative = "FORCE_IPTABLES_BINARY: NATIVE_NFTABLES=true takes no iptables";
/** Source: linux net/netfilter/nft_socket.c: a socket's cgroup cannot be asked for where source addresses are changed. */
const kubeletByUser =
  "PROBE_MATCH=kubelet: native nftables know the kubelet by its user alone, so every host process of that user counts as the kubelet";

/** The settings of this process; the only place that reads its environment. */
export function processConfigSource(args: readonly string[]): ConfigSource {
  return { env: process.env, args };
}

/** Reads the settings; what cannot be followed is in the result, and nothing is thrown. */
export function loadConfig(source: ConfigSource): AgentConfig {
  const { options, rest } = readCommandLine(source.args);
  const reader = new SettingsReader(source.env, options);
  const nodeName = reader.text("NODE_NAME", reader.text("KUBERNETES_NODE_NAME", ""));
  if (nodeName === "") reader.block("NODE_NAME", "is missing: set it from spec.nodeName (downward API)");
  const ambient = reader.flag("AMBIENT_ENABLED", true);
  const isNative = reader.flag("NATIVE_NFTABLES", false);
  const hostRoot = reader.path("HOST_ROOT", "/host");
  const runDir = readRunDir(reader);
  const ztunnelSocketPath = readZtunnelSocket(reader);
  const config = {
    nodeName,
    podName: reader.text("POD_NAME", ""),
    podNamespace: reader.text("POD_NAMESPACE", ""),
    systemNamespace: reader.text("SYSTEM_NAMESPACE", "istio-system"),
    kubeconfigPath: reader.text("KUBECONFIG", "") === "" ? undefined : reader.path("KUBECONFIG", "/"),
    hostRoot,
    runDir,
    hostRunDir: runDir.startsWith(join(hostRoot, "/")) ? join("/", runDir.slice(hostRoot.length)) : runDir,
    pluginSocketPath: join(runDir, pluginSocketName),
    ztunnelSocketPath,
    ambient,
    // nobody is selected, whatever the selectors say
    selectors: ambient ? readSelectors(reader) : [],
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
    kernelNotices: reader.flag("KERNEL_NOTICES", true),
    ztunnelWaitMs: 1000 * reader.integer("ZTUNNEL_WAIT_SECONDS", { fallback: 20, min: 0, max: 50 }),
    leavePauseMs: reader.integer("LEAVE_PAUSE_MS", { fallback: 500, min: 0, max: 10_000 }),
    leaveDrainMs: reader.integer("LEAVE_DRAIN_MS", { fallback: 2_000, min: 0, max: 60_000 }),
    healthPort: reader.integer("HEALTH_PORT", { fallback: 8000, min: 0, max: 65535 }),
    monitoringPort: reader.portIfAny("MONITORING_PORT", 15014),
    install: readInstall(reader, hostRoot),
    nri: readNriSettings(reader),
    repair: readRepairSettings(reader, nodeName),
    log: readLogSettings(reader),
    ignored: [
      ...(ambient ? [] : settingsWithoutAmbient(source.env, options)),
      ...(isNative && reader.text("FORCE_IPTABLES_BINARY", "auto") !== "auto" ? [forcedBesideNative] : []),
      ...settingsWithoutEffect(source.env, options),
    ],
    notes: [
      ...(ambient ? [] : [sidecarsAlone]),
      ...(isNative && reader.text("PROBE_MATCH", "any") === "kubelet" ? [kubeletByUser] : []),
    ],
  };
  const unknown = [...reader.unknownOptions.filter((name) => reasonWithoutEffect(name) === undefined)];
  const leftOut = [...unknown.map(optionOf), ...rest].map(
    (arg) => `${arg}: is no option of the agent: left out`,
  );
  const { faults, blockers } = reader;
  return Object.freeze({ ...config, faults, blockers, warnings: [...reader.warnings, ...leftOut] });
}

const sidecarsAlone =
  "AMBIENT_ENABLED=false: sidecars alone are served, no ztunnel is listened for, and pods that are captured leave the mesh";

/** Source: unix(7), sun_path without its closing zero. */
const maxSocketPathBytes = 107;
const pluginSocketName = "pluginevent.sock";
const defaultRunDir = "/var/run/istio-cni";
const defaultZtunnelSocket = "/var/run/ztunnel/ztunnel.sock";

function readRunDir(reader: SettingsReader): string {
  const runDir = reader.path("CNI_AGENT_RUN_DIR", defaultRunDir);
  // the agent binds the plugin socket under a longer name first
  if (Buffer.byteLength(join(runDir, pluginSocketName)) <= maxSocketPathBytes - 8) return runDir;
  reader.fault(
    "CNI_AGENT_RUN_DIR",
    `is too long: a socket path has at most ${maxSocketPathBytes} bytes`,
    defaultRunDir,
  );
  return defaultRunDir;
}

function readZtunnelSocket(reader: SettingsReader): string {
  const path = reader.path("ZTUNNEL_UDS_ADDRESS", defaultZtunnelSocket);
  if (Buffer.byteLength(path) <= maxSocketPathBytes) return path;
  reader.fault(
    "ZTUNNEL_UDS_ADDRESS",
    `is too long: a socket path has at most ${maxSocketPathBytes} bytes`,
    defaultZtunnelSocket,
  );
  return defaultZtunnelSocket;
}

function readIptablesVariant(reader: SettingsReader, isNative: boolean): IptablesVariant {
  const forced = reader.choice("FORCE_IPTABLES_BINARY", ["auto", "nft", "legacy"], "auto");
  return isNative ? "native" : forced;
}

function readInstall(reader: SettingsReader, hostRoot: string): InstallConfig {
  const ownedFileName = readOwnedFileName(reader);
  const { netDir, confName } = readConfPlace(reader, hostRoot);
  return {
    enabled: reader.text("INSTALL_CNI_PLUGIN", "") === "" || reader.flag("INSTALL_CNI_PLUGIN", true),
    netDir,
    binDir: reader.path("MOUNTED_CNI_BIN_DIR", join(hostRoot, "opt/cni/bin")),
    confName,
    chained: reader.flag("CHAINED_CNI_PLUGIN", true),
    ownedFileName: reader.flag("ISTIO_OWNED_CNI_CONFIG", false) ? ownedFileName : undefined,
    groupRead: reader.flag("CNI_CONF_GROUP_READ", false),
    replaceIstioCni: reader.flag("REPLACE_ISTIO_CNI", false),
    releasePods: reader.flag("RELEASE_PODS_ON_UNINSTALL", false),
    awayPolicy: reader.choice("AGENT_AWAY_POLICY", ["hold", "namespace"], "namespace"),
    agentWaitSeconds: reader.integer("AGENT_WAIT_SECONDS", { fallback: 10, min: 0, max: 60 }),
  };
}

/** A name with a folder is below the runtime's, as istio-cni joins the two; one that would be elsewhere is only a name. */
function readConfPlace(reader: SettingsReader, hostRoot: string): Pick<InstallConfig, "netDir" | "confName"> {
  const netDir = reader.path("MOUNTED_CNI_NET_DIR", join(hostRoot, "etc/cni/net.d"));
  const given = reader.text("CNI_CONF_NAME", "");
  const folder = dirname(join(".", given));
  if (!isAbsolute(given) && !folder.startsWith("..") && basename(given) !== "..")
    return { netDir: join(netDir, folder), confName: given === "" ? undefined : basename(given) };
  return { netDir, confName: nameOnly(reader, "CNI_CONF_NAME", given) };
}

/** The chart of istio-cni writes the second name, its agent reads the first. Source: istio/istio manifests/charts/istio-cni, 1.27 to 1.31. */
function readOwnedFileName(reader: SettingsReader): string | undefined {
  const names = ["ISTIO_OWNED_CNI_CONFIG_FILENAME", "ISTIO_OWNED_CNI_CONF_FILENAME"];
  const name = names.find((each) => reader.text(each, "") !== "");
  return (name && nameOnly(reader, name, reader.text(name, ""))) ?? defaultOwnedFileName;
}

const defaultOwnedFileName = "02-istio-cni.conflist";

/** @returns undefined when there is no name in it */
function nameOnly(reader: SettingsReader, name: string, given: string): string | undefined {
  const base = basename(given);
  const found = base === "" || base === "." || base === ".." ? undefined : base;
  if (found !== given)
    reader.warn(
      name,
      `only the name of a file can be followed: ${found === undefined ? "the default" : `"${found}"`} is used`,
    );
  return found;
}

function readSelectors(reader: SettingsReader): readonly EnablementSelector[] {
  const name = "AMBIENT_ENABLEMENT_SELECTOR";
  try {
    const { selectors, warnings } = parseEnablementSelectors(reader.text(name, ""));
    for (const warning of warnings) reader.warnings.push(`${name}: ${warning}`);
    return selectors;
  } catch (error) {
    // a guess would capture pods that are not meant, and let others go
    reader.block(name, (error as Error).message);
    return [];
  }
}
