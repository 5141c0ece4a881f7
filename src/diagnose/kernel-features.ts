// SPDX-License-Identifier: Apache-2.0
// Whether the kernel can do what redirection takes: tried for real, in a network namespace made for it, never in the host's.

import type { AgentConfig } from "../config.ts";
import { NOBODYS_LOCK } from "../linux/lock-files.ts";
import { NativeError } from "../linux/native.ts";
import { ensureRedirectRouting } from "../linux/netlink/rtnetlink.ts";
import { Netns } from "../linux/netns.ts";
import { ToolError } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { BACKEND_NAMES, type RedirectBackend, toolsOf, writesIpv6 } from "../netfilter/variant.ts";
import { MATCH_ANY } from "../probes/kubelet-match.ts";
import { PROBE_CHAIN, PROBE_HOOK, probeRule } from "../probes/probe-rules.ts";
import { PROBE_SETS } from "../probes/probe-set.ts";
import { renderRedirectText } from "../redirection/told-redirection.ts";
import { allOf, type Finding, failing, fine, type Said, warning } from "./finding.ts";
import { loadRemedy, tryNatively } from "./native-features.ts";

/** What is tried. */
export interface KernelFeatureOptions extends Pick<AgentConfig, "ipv6" | "probeSnatV4" | "probeSnatV6"> {
  readonly backend: RedirectBackend;
  /** How long each program may take; default 2 s. One that takes longer leaves open what it was to try. */
  readonly toolTimeoutMs?: number | undefined;
}

const DEFAULT_TIMEOUT_MS = 2_000;
/** Not known is no answer of the kernel's: a node that has just booted loads a dozen modules for the first rules. */
export const KERNEL_UNKNOWN = "kernel-unknown";

/** Why an attempt did not succeed. */
interface Refusal {
  /** The program's words, or ours where it said nothing in time. */
  readonly why: string;
  readonly isAnswer: boolean;
}

interface Feature {
  readonly id: string;
  readonly what: string;
  readonly fix: string;
  /** Lines of one table, tried alone. */
  readonly table: string;
  readonly lines: (family: Family) => readonly string[];
}

/** What our rules are made of, each as the smallest rule that needs it. */
const FEATURES: readonly Feature[] = [
  {
    id: "table-nat",
    what: "table nat",
    fix: loadRemedy("iptable_nat nft_chain_nat"),
    table: "nat",
    lines: () => [],
  },
  {
    id: "table-mangle",
    what: "table mangle",
    fix: loadRemedy("iptable_mangle"),
    table: "mangle",
    lines: () => [],
  },
  { id: "table-raw", what: "table raw", fix: loadRemedy("iptable_raw"), table: "raw", lines: () => [] },
  {
    id: "mark-match",
    what: "match mark",
    fix: loadRemedy("xt_mark"),
    table: "mangle",
    lines: () => ["-A PREROUTING -m mark --mark 0x539/0xfff -j ACCEPT"],
  },
  {
    id: "connmark",
    what: "match connmark and target CONNMARK",
    fix: loadRemedy("xt_connmark nf_conntrack"),
    table: "mangle",
    lines: () => [
      "-A PREROUTING -j CONNMARK --set-xmark 0x111/0xfff",
      "-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    ],
  },
  {
    id: "redirect",
    what: "target REDIRECT",
    fix: loadRemedy("xt_REDIRECT nf_nat"),
    table: "nat",
    lines: () => ["-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"],
  },
  {
    id: "ct-zone",
    what: "target CT with zones",
    fix: `${loadRemedy("xt_CT")}; or set AMBIENT_DNS_CAPTURE=false, which does without`,
    table: "raw",
    lines: () => ["-A OUTPUT -p udp -m udp --dport 53 -j CT --zone 1"],
  },
];

/** What the host's rule for probes is made of. */
const HOST_FEATURES: readonly Feature[] = [
  {
    id: "owner-match",
    what: "match owner",
    fix: loadRemedy("xt_owner"),
    table: "nat",
    lines: () => ["-A POSTROUTING -p tcp -m owner --socket-exists -j ACCEPT"],
  },
  {
    id: "set-match",
    what: "match set",
    fix: loadRemedy("xt_set ip_set_hash_ip"),
    table: "nat",
    lines: (family) => [`-A POSTROUTING -p tcp -m set --match-set ${PROBE_SETS[family]} dst -j ACCEPT`],
  },
];

/** Tries everything; one finding for each feature that is missing, or one that says that all are there. */
export async function checkKernelFeatures(options: KernelFeatureOptions): Promise<Said> {
  const { backend, ipv6 } = options;
  let made: Netns;
  try {
    made = await Netns.makeTemporary();
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    return warning(
      "kernel",
      `${error.message}: it takes the capability SYS_ADMIN`,
      "what the kernel can do was not tried; a pod's failure will name what is missing",
    );
  }
  using netns = made;
  const families: Family[] = ipv6 && writesIpv6(backend) ? [4, 6] : [4];
  const tried: Promise<Said>[] =
    backend.variant === "native"
      ? [tryNatively(netns, { ...options, families })]
      : [
          ...families.map((family) => podRules(netns, { ...options, family })),
          hostRules(netns, { ...options, families }),
        ];
  const found = allOf(...(await Promise.all([routing(netns, families), ...tried])));
  if (found.length > 0) return found;
  return fine(
    "kernel",
    `rules, sets and routing were tried in a namespace of their own with ${BACKEND_NAMES[backend.variant]}, ${families.map((family) => `IPv${family}`).join(" and ")}`,
  );
}

async function routing(netns: Netns, families: readonly Family[]): Promise<Said> {
  try {
    await ensureRedirectRouting(netns.fd, { v6: families.includes(6) });
    return undefined;
  } catch (error) {
    const what = `the kernel refuses the ip rule or the local route of redirection: ${(error as Error).message}`;
    const fix = "it takes policy routing (CONFIG_IP_MULTIPLE_TABLES) and the capability NET_ADMIN";
    return failing("kernel-policy-routing", what, fix);
  }
}

type FamilyOptions = KernelFeatureOptions & { readonly family: Family };

async function podRules(netns: Netns, options: FamilyOptions): Promise<Said> {
  const { family, probeSnatV4, probeSnatV6 } = options;
  const variant = { dnsCapture: true, ingressMode: false, virtualInterfaces: [], probeSnatV4, probeSnatV6 };
  const text = renderRedirectText(variant, family);
  return await tryRules(netns, { ...options, text, features: FEATURES });
}

async function hostRules(
  netns: Netns,
  options: KernelFeatureOptions & { readonly families: readonly Family[] },
): Promise<Said> {
  const { backend, families } = options;
  const create = families.map(
    (family) => `create ${PROBE_SETS[family]} hash:ip family ${family === 4 ? "inet" : "inet6"} comment`,
  );
  try {
    const argv = ["ipset", "restore"] as const;
    await backend.runner.run({
      argv,
      netnsFd: netns.fd,
      stdin: `${create.join("\n")}\n`,
      timeoutMs: options.toolTimeoutMs ?? DEFAULT_TIMEOUT_MS,
    });
  } catch (error) {
    if (hasNoAnswer(error)) return unknown("sets of addresses can be made", error.message);
    const what = `sets of addresses cannot be made, so kubelet probes go through ztunnel: ${(error as Error).message}`;
    return failing("kernel-ipset", what, loadRemedy("ip_set ip_set_hash_ip"));
  }
  return allOf(...(await Promise.all(families.map((family) => hostRule(netns, { ...options, family })))));
}

async function hostRule(netns: Netns, options: FamilyOptions): Promise<Said> {
  const { family, probeSnatV4, probeSnatV6 } = options;
  const rule = probeRule(family, { match: MATCH_ANY.args, snat: family === 4 ? probeSnatV4 : probeSnatV6 });
  const lines = [
    `:${PROBE_CHAIN} - [0:0]`,
    `-A ${PROBE_CHAIN} ${rule.join(" ")}`,
    `-I ${PROBE_HOOK} 1 -j ${PROBE_CHAIN}`,
  ];
  const text = `*nat\n${lines.join("\n")}\nCOMMIT\n`;
  return await tryRules(netns, { ...options, text, features: HOST_FEATURES });
}

/** Tries rules, and where they are refused what they are made of, part by part, to name what is missing. */
async function tryRules(
  netns: Netns,
  options: FamilyOptions & { readonly text: string; readonly features: readonly Feature[] },
): Promise<Said> {
  const { features, family, backend } = options;
  const refusal = await restore(netns, options);
  if (refusal === undefined) return undefined;
  if (!refusal.isAnswer) return unknown(`the kernel takes the rules for IPv${family}`, refusal.why);
  const found: Finding[] = [];
  for (const { id, what, fix, table, lines } of features) {
    const text = `*${table}\n${lines(family)
      .map((line) => `${line}\n`)
      .join("")}COMMIT\n`;
    const part = await restore(netns, { ...options, text });
    if (part === undefined) continue;
    const missing = `the kernel has no ${what} for IPv${family} (iptables-${backend.variant}): ${part.why}`;
    found.push(
      part.isAnswer
        ? failing(`kernel-${id}`, missing, fix)
        : unknown(`the kernel has ${what} for IPv${family}`, part.why),
    );
  }
  if (found.length > 0) return found;
  return failing(
    "kernel-rules",
    `the rules are refused for IPv${family}: ${refusal.why}`,
    "look at the node's kernel log (dmesg)",
  );
}

function unknown(what: string, why: string): Finding {
  const fix = "the node is slow, or busy; ask once more when it is not: ambient-cni doctor";
  return warning(KERNEL_UNKNOWN, `it is not known whether ${what}: ${why}`, fix);
}

function hasNoAnswer(error: unknown): error is ToolError & { readonly code: "TOOL_TIMED_OUT" } {
  return error instanceof ToolError && error.code === "TOOL_TIMED_OUT";
}

/** @returns why it is refused, or not known to be taken */
async function restore(
  netns: Netns,
  {
    backend,
    family,
    text,
    toolTimeoutMs: timeoutMs = DEFAULT_TIMEOUT_MS,
  }: FamilyOptions & { readonly text: string },
): Promise<Refusal | undefined> {
  const argv = [toolsOf(backend)?.[family]?.restore ?? "", "--noflush"] as const;
  // nobody else writes in a namespace that was made for this
  const lock = backend.variant === "legacy" ? { lockFile: NOBODYS_LOCK } : {};
  try {
    await backend.runner.run({ argv, netnsFd: netns.fd, stdin: text, timeoutMs, ...lock });
    return undefined;
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    const isAnswer = !hasNoAnswer(error);
    return { why: (isAnswer && error.stderr.trim().split("\n")[0]) || error.message, isAnswer };
  }
}
