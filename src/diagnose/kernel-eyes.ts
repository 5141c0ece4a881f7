// SPDX-License-Identifier: Apache-2.0
// What a diagnosis looks at namespaces with: the agent's own readers, in this process, without its memory; nothing is written.
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { hostNetnsKeys } from "../linux/host-netns.ts";
import type { Family } from "../netfilter/family.ts";
import { chooseBackend, knownVariant, type RedirectBackend, writesIpv6 } from "../netfilter/variant.ts";
import { PodRedirection } from "../redirection/pod-redirection.ts";
import { SidecarRedirection } from "../redirection/sidecar-redirection.ts";
import type { NodeReport } from "../status/node-state-report.ts";

const TIMEOUT_MS = 5_000;

/** Where and with what to look. */
export interface EyesOptions extends Pick<AgentConfig, "hostRoot" | "runDir" | "ipv6"> {
  /** The variant that the agent says it uses; else what is kept for this boot, else what the host shows. */
  readonly variant: RedirectBackend["variant"] | "auto";
}

/** Readers of pods' namespaces. */
export interface KernelEyes {
  readonly backend: RedirectBackend;
  readonly redirection: PodRedirection;
  readonly sidecars: SidecarRedirection;
  readonly hostNetns: ReadonlySet<string>;
  /** That the node writes rules of. */
  readonly families: readonly Family[];
}

/** @throws Error when the host's namespace cannot be told; BackendError, ToolError without the programs it takes */
export async function openEyes(options: EyesOptions): Promise<KernelEyes> {
  const hostNetns = hostNetnsKeys(options);
  const backend = await readBackend(options);
  const ipv6 = options.ipv6 && writesIpv6(backend);
  return {
    backend,
    redirection: new PodRedirection({ backend, hostNetns, ipv6, timeoutMs: TIMEOUT_MS }),
    sidecars: new SidecarRedirection({ backend, hostNetns, timeoutMs: TIMEOUT_MS }),
    hostNetns,
    families: ipv6 ? [4, 6] : [4],
  };
}

/** What of a look follows from the agent's own word: it wins over this process' settings. */
export function agentsEyes(
  { iptablesVariant }: Pick<AgentConfig, "iptablesVariant">,
  { backend, settings }: Pick<NodeReport, "backend" | "settings">,
): Pick<EyesOptions, "ipv6" | "variant"> {
  return {
    ipv6: settings.AMBIENT_IPV6 !== "false",
    variant: knownVariant(backend.variant) ?? iptablesVariant,
  };
}

/** The variant that the agent uses, or would use; nothing is decided and kept by looking. */
export async function readBackend({
  hostRoot,
  runDir,
  variant,
}: Pick<EyesOptions, "hostRoot" | "runDir" | "variant">): Promise<RedirectBackend> {
  return await chooseBackend({ variant, runDir, hostProcess: join(hostRoot, "proc/1"), keeps: false });
}
