// SPDX-License-Identifier: Apache-2.0
// `ambient-cni rules`: prints what a pod would be given, without touching anything.
import { isIPv6 } from "node:net";
import { parseArgs } from "node:util";
import { renderNativeText } from "../redirection/native-rules.ts";
import { renderRestoreText } from "../redirection/restore-text.ts";
import { isInterfaceName, type RedirectOptions } from "../redirection/rules.ts";

/** Arguments of `rules` that cannot be used. */
export class RulesUsageError extends Error {
  override readonly name = "RulesUsageError";
}

export const rulesHelp = `usage: ambient-cni rules [OPTION...]

Prints the rules of one pod exactly as they are given to iptables-restore --noflush (or ip6tables-restore).

options:
  --native                  what "nft --stateless list table" shows in a pod with NATIVE_NFTABLES=true, for both families
  --family 4|6              address family (default 4); with --native: 4 for pods without IPv6
  --dns on|off              capture DNS (default on)
  --ingress                 do not redirect inbound traffic (ambient.istio.io/bypass-inbound-capture)
  --virtual-interface NAME  treat TCP from this interface as outbound; may be given several times
  --established keep|reset  connections from before the capture live on (default), or istio's own rules, which reset them
  --probe-snat ADDRESS      address that kubelet probes come from (default: istio-cni's for the family)

example:
  ambient-cni rules --family 6 --dns off
`;

const defaultProbeSnat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;

/** Renders the text for these arguments. @throws RulesUsageError */
export function renderRulesCommand(args: readonly string[]): string {
  const values = parseOptions(args);
  const { family = "4", native } = values;
  if (family !== "4" && family !== "6")
    throw new RulesUsageError(`cannot use --family "${family}": it must be 4 or 6`);
  if (!native) {
    const one = family === "6" ? 6 : 4;
    return renderRestoreText(redirectOptions(values, one), one);
  }
  if (values.family === "6")
    throw new RulesUsageError(
      "cannot use --family 6 with --native: its tables always hold the rules of IPv4",
    );
  const probeFamily = isIPv6(values["probe-snat"] ?? "") ? 6 : 4;
  return renderNativeText(redirectOptions(values, probeFamily), values.family === "4" ? [4] : [4, 6]);
}

/** @param family of the address in `--probe-snat` */
function redirectOptions(values: ReturnType<typeof parseOptions>, family: 4 | 6): RedirectOptions {
  const dnsCapture = ({ on: true, off: false } as Readonly<Record<string, boolean>>)[values.dns];
  if (dnsCapture === undefined)
    throw new RulesUsageError(`cannot use --dns "${values.dns}": it must be on or off`);
  const { established } = values;
  if (established !== "keep" && established !== "reset")
    throw new RulesUsageError(`cannot use --established "${established}": it must be keep or reset`);
  const virtualInterfaces = values["virtual-interface"];
  for (const name of virtualInterfaces) {
    if (!isInterfaceName(name)) {
      throw new RulesUsageError(
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

function parseOptions(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        native: { type: "boolean", default: false },
        family: { type: "string" },
        dns: { type: "string", default: "on" },
        ingress: { type: "boolean", default: false },
        "virtual-interface": { type: "string", multiple: true, default: [] },
        established: { type: "string", default: "keep" },
        "probe-snat": { type: "string" },
      },
    }).values;
  } catch (error) {
    throw new RulesUsageError(`${(error as Error).message}; see ambient-cni rules --help`);
  }
}
