// SPDX-License-Identifier: Apache-2.0
// Which iptables variants the host uses, and whether IPv6 can be redirected.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Netns } from "../linux/netns.ts";
import { countNftRules } from "../netfilter/nft/nft-count.ts";
import { describeCount, isAny, noRules } from "../netfilter/rule-count.ts";
import {
  BACKEND_NAMES,
  type RedirectBackend,
  readLegacyTableNames,
  writesIpv6,
} from "../netfilter/variant.ts";
import { type Finding, failing, fine, warning } from "./finding.ts";

/** Looks read-only: legacy tables are only named, because asking for one creates it. @param hostProcess /proc folder of a host process */
export async function checkBackend(backend: RedirectBackend, hostProcess: string): Promise<Finding> {
  using host = Netns.open(join(hostProcess, "ns/net"));
  const [count, v4, v6] = await Promise.all([
    countNftRules(host.fd).catch(() => noRules),
    readLegacyTableNames(join(hostProcess, "net"), 4),
    readLegacyTableNames(join(hostProcess, "net"), 6),
  ]);
  const hasNft = isAny(count);
  const legacy = [...new Set([...v4, ...v6])].sort();
  const { variant } = backend;
  const chosen = `pods get their rules with ${BACKEND_NAMES[variant]} (${backend.reason})`;
  // nf_tables stand beside whatever else the host uses
  if (variant === "native") return fine("backend", chosen);
  if (hasNft && legacy.length > 0) {
    const what = `the host uses both variants: ${describeCount(count)} rules in nf_tables, tables ${legacy.join(", ")} in x_tables; ${chosen}`;
    const fix =
      "usually one program brings its own iptables: find it with iptables-legacy-save; FORCE_IPTABLES_BINARY settles ours";
    return warning("backend", what, fix);
  }
  const isOdd = variant === "nft" ? !hasNft && legacy.length > 0 : hasNft && legacy.length === 0;
  if (!isOdd) return fine("backend", chosen);
  const what = `the host uses iptables-${hasNft ? "nft" : "legacy"} only, but ${chosen}`;
  return warning(
    "backend",
    what,
    "unset FORCE_IPTABLES_BINARY, or remove the decision in the run dir and restart the agent",
  );
}

/** Whether IPv6 is redirected, and if not, whether pods could pass the mesh by with it. */
export async function checkIpv6(
  backend: RedirectBackend,
  options: { wanted: boolean; procRoot: string },
): Promise<Finding> {
  const sysctl = join(options.procRoot, "sys/net/ipv6/conf/all/disable_ipv6");
  const text = await readFile(sysctl, "utf8").catch(() => undefined);
  const isOn = text?.trim() === "0";
  if (!options.wanted) {
    if (!isOn) return fine("ipv6", "left out (AMBIENT_IPV6=false), and the node has none");
    const what =
      "AMBIENT_IPV6 is false, and the node has IPv6: pods with IPv6 addresses pass the mesh by with it";
    return warning("ipv6", what, "set AMBIENT_IPV6=true unless no pod has an IPv6 address");
  }
  if (!writesIpv6(backend)) {
    const what = `AMBIENT_IPV6 is true, but ip6tables of variant ${backend.variant} is not installed`;
    return failing("ipv6", what, "use an agent image that holds it, or set AMBIENT_IPV6=false");
  }
  if (isOn) return fine("ipv6", "redirected too");
  return fine("ipv6", "the node has no IPv6; pods that have none either are redirected with IPv4 only");
}
