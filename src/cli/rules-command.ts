// SPDX-License-Identifier: Apache-2.0
// `ambient-cni rules`: prints what a pod would be given, without touching anything.
import { isIPv6 } from "node:net";
import { renderNativeText } from "../redirection/native-rules.ts";
import { renderNativeSidecarText } from "../redirection/native-sidecar.ts";
import { isInterfaceName, type RedirectOptions } from "../redirection/rules.ts";
import {
  type SidecarOptions,
  SidecarOptionsError,
  sidecarAnnotations,
  sidecarOptionsOf,
} from "../redirection/sidecar-options.ts";
import { renderRedirectText } from "../redirection/told-redirection.ts";
import { renderSidecarText } from "../redirection/told-sidecar.ts";
import { type Command, parseNumber, parseOptions } from "./command.ts";
import { UsageError } from "./usage-error.ts";

const OPTIONS = {
  native: { type: "boolean", default: false },
  family: { type: "string" },
  dns: { type: "string" },
  ingress: { type: "boolean", default: false },
  "virtual-interface": { type: "string", multiple: true, default: [] as string[] },
  established: { type: "string" },
  "probe-snat": { type: "string" },
  sidecar: { type: "boolean", default: false },
  annotation: { type: "string", multiple: true, default: [] as string[] },
  "proxy-uid": { type: "string" },
  "proxy-gid": { type: "string" },
  "drop-invalid": { type: "boolean", default: false },
} as const;

type Values = ReturnType<typeof parseOptions<typeof OPTIONS>>;

/** `ambient-cni rules`. */
export const rulesCommand: Command = {
  name: "rules",
  summary: "print the rules of a pod exactly as they are given to iptables-restore",
  options: [...Object.keys(OPTIONS), "help"],
  help: `usage: ambient-cni rules [OPTION...]

Prints the rules of one pod exactly as they are given to iptables-restore --noflush (or ip6tables-restore).

options:
  --native                  what "nft --stateless list table" shows in a pod with NATIVE_NFTABLES=true, for both families
  --family 4|6              address family (default 4); with --native: 4 for pods without IPv6
  --dns on|off              capture DNS (default on)
  --ingress                 do not redirect inbound traffic (ambient.istio.io/bypass-inbound-capture)
  --virtual-interface NAME  treat TCP from this interface as outbound; may be given several times
  --established keep|reset  connections from before the capture live on (default), or istio's own rules, which reset them
  --probe-snat ADDRESS      address that kubelet probes come from (default: istio-cni's for the family)

of a pod that is redirected to its sidecar, in place of an ambient pod's:
  --sidecar                 its rules; of the options above --native, --family and --dns (default off, as the injector has it) say something
  --annotation NAME=VALUE   as on the pod: sidecar.istio.io/interceptionMode, traffic.sidecar.istio.io/…; may be given several times
  --proxy-uid ID            user that the proxy runs as, runAsUser of its container (default 1337)
  --proxy-gid ID            group that the proxy runs as (default 1337)
  --drop-invalid            what belongs to no connection is dropped (INVALID_DROP of its container)

examples:
  ambient-cni rules --family 6 --dns off
  ambient-cni rules --sidecar --annotation traffic.sidecar.istio.io/excludeOutboundPorts=3306
`,
  async run(args, io) {
    io.print(renderRulesCommand(args));
    return 0;
  },
};

const defaultProbeSnat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;

/** Renders the text for these arguments. @throws UsageError */
export function renderRulesCommand(args: readonly string[]): string {
  const values = parseOptions("rules", args, OPTIONS);
  const { family = "4", native } = values;
  if (family !== "4" && family !== "6")
    throw new UsageError(`cannot use --family "${family}": it must be 4 or 6`);
  if (native && values.family === "6")
    throw new UsageError("cannot use --family 6 with --native: its tables always hold the rules of IPv4");
  const one = family === "6" ? 6 : 4;
  const both = values.family === "4" ? ([4] as const) : ([4, 6] as const);
  if (values.sidecar) {
    const isDual = native ? both.length > 1 : one === 6;
    return renderSidecar(values, isDual, (options) =>
      native ? renderNativeSidecarText(options, both) : renderSidecarText(options, one),
    );
  }
  refuse(values, SIDECAR_OPTIONS, "without --sidecar");
  if (!native) return renderRedirectText(redirectOptions(values, one), one);
  const probeFamily = isIPv6(values["probe-snat"] ?? "") ? 6 : 4;
  return renderNativeText(redirectOptions(values, probeFamily), both);
}

const SIDECAR_OPTIONS = ["annotation", "proxy-uid", "proxy-gid", "drop-invalid"] as const;
const AMBIENT_OPTIONS = ["ingress", "virtual-interface", "established", "probe-snat"] as const;

/** Options that say nothing of what is asked for are no options of it. */
function refuse(
  values: Values,
  names: readonly (typeof SIDECAR_OPTIONS | typeof AMBIENT_OPTIONS)[number][],
  where: string,
): void {
  const given = names.find((name) => {
    const value = values[name];
    return Array.isArray(value) ? value.length > 0 : value !== undefined && value !== false;
  });
  if (given !== undefined) throw new UsageError(`cannot use --${given} ${where}: it says nothing there`);
}

/** @throws UsageError, also for what no rules can hold */
function renderSidecar(
  values: Values,
  dualStack: boolean,
  render: (options: SidecarOptions) => string,
): string {
  refuse(values, AMBIENT_OPTIONS, "with --sidecar");
  const uid = idOf("proxy-uid", values["proxy-uid"]);
  const gid = idOf("proxy-gid", values["proxy-gid"]);
  const proxy = {
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
    dnsCapture: isOn(values.dns ?? "off"),
    dualStack,
    dropInvalid: values["drop-invalid"],
  };
  try {
    return render(sidecarOptionsOf(annotationsOf(values.annotation), proxy));
  } catch (error) {
    if (error instanceof SidecarOptionsError) throw new UsageError(error.message);
    throw error;
  }
}

function annotationsOf(words: readonly string[]): Record<string, string> {
  const known: readonly string[] = Object.values(sidecarAnnotations);
  return Object.fromEntries(
    words.map((word) => {
      const at = word.indexOf("=");
      const name = word.slice(0, Math.max(at, 0));
      if (!known.includes(name))
        throw new UsageError(
          `cannot use --annotation "${word}": it must be NAME=VALUE with one of ${known.join(", ")}`,
        );
      return [name, word.slice(at + 1)];
    }),
  );
}

function idOf(option: string, text: string | undefined): number | undefined {
  return text === undefined ? undefined : parseNumber(option, text, { min: 1, max: 2 ** 32 - 2 });
}

function isOn(dns: string): boolean {
  const value = ({ on: true, off: false } as Readonly<Record<string, boolean>>)[dns];
  if (value === undefined) throw new UsageError(`cannot use --dns "${dns}": it must be on or off`);
  return value;
}

/** @param family of the address in `--probe-snat` */
function redirectOptions(values: Values, family: 4 | 6): RedirectOptions {
  const dnsCapture = isOn(values.dns ?? "on");
  const { established = "keep" } = values;
  if (established !== "keep" && established !== "reset")
    throw new UsageError(`cannot use --established "${established}": it must be keep or reset`);
  const virtualInterfaces = values["virtual-interface"];
  for (const name of virtualInterfaces) {
    if (!isInterfaceName(name)) {
      throw new UsageError(
        `cannot use --virtual-interface "${name}": it is no interface name (1 to 15 characters, no space or slash)`,
      );
    }
  }
  const probes = { ...defaultProbeSnat, [family]: values["probe-snat"] ?? defaultProbeSnat[family] };
  return {
    dnsCapture,
    ingressMode: values.ingress,
    virtualInterfaces,
    probeSnatV4: probes[4],
    probeSnatV6: probes[6],
    establishedConnections: established,
  };
}
