// SPDX-License-Identifier: Apache-2.0
// Settings of istio-cni 1.24 to 1.31, and of our own earlier versions, that the agent takes and does not follow, and why.
import { optionOf } from "./command-line.ts";
import type { Settings } from "./settings-reader.ts";

/** Source: istio/istio cni/pkg/constants, cni/pkg/nodeagent/options.go, manifests/charts/istio-cni, of each release branch. */
const reasons: readonly (readonly [RegExp, string])[] = [
  [/^REPAIR_RUN_AS_DAEMON$/, "the repair always runs beside the rest"],
  [
    /^(CNI_NETWORK_CONFIG(_FILE)?|KUBECFG_FILE_NAME|KUBECONFIG_MODE|SKIP_TLS_VERIFY|KUBE_CA_FILE)$/,
    "the plugin has no API access to configure",
  ],
  [/^(LOG_UDS_SOCKET|CNI_EVENT_ADDRESS)$/, "the socket is in CNI_AGENT_RUN_DIR"],
  [/^AMBIENT_DISABLE_SAFE_UPGRADE$/, "pods always keep their redirection over a restart"],
  [
    /^AMBIENT_RECONCILE_POD_RULES_ON_STARTUP$/,
    "rules are always verified, and written only where they differ",
  ],
  [/^AMBIENT_TPROXY_REDIRECTION$/, "rules are those of istio-cni 1.25 and later"],
  [/^AMBIENT_USE_SCOPED_XTABLES_LOCKING$/, "the lock is always one for each pod"],
  [/^ENABLE_AMBIENT_DETECTION_RETRY$/, "a pod of which nobody can tell always waits"],
  [/^(REVISION|CURRENT_AGENT_VERSION)$/, "nothing depends on it"],
  [/^(GOMEMLIMIT|GOMAXPROCS)$/, "the agent is no Go program"],
  [
    /^(LOG_CALLER|LOG_STACKTRACE_LEVEL|LOG_TARGET|LOG_ROTATE.*|VKLOG)$/,
    "lines go to standard output, as JSON",
  ],
  [/^DASHBOARD(_PORT)?$/, "the agent serves no page; ambient-cni dashboard does"],
  [/^CTRLZ_(PORT|ADDRESS)$/, "there is no ControlZ; see ambient-cni debug"],
];

/** Why a setting has no effect; undefined for one that has, or that nobody knows. */
export function reasonWithoutEffect(name: string): string | undefined {
  return reasons.find(([pattern]) => pattern.test(name))?.[1];
}

/** A line for each that was given, `NAME: reason` or `--name: reason`, in the order of their names. */
export function settingsWithoutEffect(env: Settings, options: Settings): string[] {
  const given = [
    ...Object.keys(env).map((name) => [name, name] as const),
    ...Object.keys(options).map((name) => [name, optionOf(name)] as const),
  ];
  return given
    .flatMap(([name, shown]) => {
      const reason = reasonWithoutEffect(name);
      return reason === undefined ? [] : [`${shown}: ${reason}`];
    })
    .sort();
}

/** They say which pods are captured, and how. */
const ambientSettings: readonly string[] = [
  "AMBIENT_ENABLEMENT_SELECTOR",
  "AMBIENT_DNS_CAPTURE",
  "AMBIENT_IPV6",
  "AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE",
  "ESTABLISHED_CONNECTIONS",
  "PROBE_MATCH",
  "ZTUNNEL_UDS_ADDRESS",
  "ZTUNNEL_WAIT_SECONDS",
  ...["NRI_ENABLED", "NRI_SOCKET_PATH", "NRI_REFUSE"],
];

/** What has no effect where AMBIENT_ENABLED is false, in one line: a chart sets most of it without being asked. */
export function settingsWithoutAmbient(env: Settings, options: Settings): string[] {
  const given = ambientSettings.filter((name) => env[name] || options[name]);
  return given.length === 0 ? [] : [`${given.join(", ")}: AMBIENT_ENABLED=false captures no pod`];
}
