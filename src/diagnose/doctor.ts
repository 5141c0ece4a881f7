// SPDX-License-Identifier: Apache-2.0
// Every check of a node, all at once: what the self-test looks at, and what only a running node has.
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { exemptListPath } from "../install/exempt-namespaces.ts";
import { ApiClient } from "../kube/api-client.ts";
import { knownVariant, type RedirectBackend } from "../netfilter/variant.ts";
import type { NodeReport } from "../status/node-state-report.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodListReport } from "../status/state-report.ts";
import { agentAway, judgeAgent } from "./agent-check.ts";
import { checkApiPermissions } from "./api-permissions.ts";
import { checkBackend, checkIpv6 } from "./backend-check.ts";
import { checkChain } from "./chain-check.ts";
import { checkExemptions } from "./exemption-check.ts";
import { type Finding, failing, guarded, type Said, warning } from "./finding.ts";
import { readBackend } from "./kernel-eyes.ts";
import { checkKernelFeatures } from "./kernel-features.ts";
import { checkNetworkPolicies } from "./network-policy-check.ts";
import { checkOutboundBypass } from "./outbound-bypass.ts";
import { checkCapabilities, checkFolder, selfTestFolders } from "./self-test.ts";
import { checkUnserved } from "./sidecar-check.ts";

/** What the doctor works with. */
export interface DoctorOptions {
  readonly config: AgentConfig;
  readonly agent: Pick<StateReader, "pods" | "node">;
  /** A check has ended. */
  readonly onprogress?: (id: string) => void;
}

const API_TIMEOUT_MS = 2_000;
/** Somebody asks because something does not work: an answer late is better than none. */
const TOOL_TIMEOUT_MS = 10_000;

/** Looks at everything; never rejects, writes nothing outside a namespace of its own. Findings in a fixed order. */
export async function examineNode(options: DoctorOptions): Promise<Finding[]> {
  const { config, onprogress } = options;
  const agent = askAgent(options);
  const backend = backendOf(config, agent);
  const checks: readonly (readonly [string, () => Promise<Said>])[] = [
    ["agent", async () => (await agent).findings],
    ["capabilities", async () => await capabilities(await agent)],
    ["backend", async () => await checkBackend(await backend, join(config.hostRoot, "proc/1"))],
    [
      "kernel",
      async () =>
        await checkKernelFeatures({ ...config, backend: await backend, toolTimeoutMs: TOOL_TIMEOUT_MS }),
    ],
    [
      "ipv6",
      async () =>
        await checkIpv6(await backend, {
          wanted: config.ipv6,
          procRoot: join(config.hostRoot, "proc/1/root/proc"),
        }),
    ],
    ["folders", async () => await Promise.all(selfTestFolders(config).map(checkFolder))],
    ["cni-chain", async () => await chain(config, await agent)],
    [
      "exemptions",
      async () => {
        const policy = config.install.awayPolicy;
        return await checkExemptions({ path: exemptListPath(config), policy, pods: (await agent).list });
      },
    ],
    [
      "outbound-bypass",
      async () =>
        await checkOutboundBypass({ procRoot: join(config.hostRoot, "proc"), pods: (await agent).list }),
    ],
    ["api", async () => await api(config, await agent)],
  ];
  const found = await Promise.all(
    checks.map(async ([id, check]) => {
      const findings = await guarded(id, check);
      onprogress?.(id);
      return findings;
    }),
  );
  return found.flat();
}

interface AskedAgent {
  readonly node: NodeReport | undefined;
  readonly list: PodListReport | undefined;
  readonly findings: readonly Finding[];
}

async function askAgent({ agent }: DoctorOptions): Promise<AskedAgent> {
  try {
    const [node, list] = await Promise.all([agent.node(), agent.pods()]);
    return { node, list, findings: judgeAgent(node, list) };
  } catch (error) {
    return { node: undefined, list: undefined, findings: [agentAway((error as Error).message)] };
  }
}

async function backendOf(config: AgentConfig, agent: Promise<AskedAgent>): Promise<RedirectBackend> {
  const told = (await agent).node?.backend;
  const variant = knownVariant(told?.variant);
  const backend = await readBackend({ ...config, variant: variant ?? config.iptablesVariant });
  return told === undefined || variant === undefined ? backend : { ...backend, reason: told.reason };
}

/** The agent's own where it can be seen: beside us in its container, or by its pid on the node. */
async function capabilities({ node }: AskedAgent): Promise<Finding> {
  const own = await checkCapabilities();
  if (node === undefined || own.level === "ok") return own;
  const ofAgent = await checkCapabilities(`/proc/${node.process.pid}/status`).catch(() => own);
  return ofAgent.level === "ok" ? { ...ofAgent, what: `of the agent: ${ofAgent.what}` } : own;
}

async function chain(config: AgentConfig, { node, list }: AskedAgent): Promise<Finding[]> {
  const { install, hostRoot, hostRunDir } = config;
  return await checkChain({ install, hostRoot, hostRunDir, told: node?.chain, pods: list });
}

async function api(config: AgentConfig, { node, list }: AskedAgent): Promise<Said> {
  let client: ApiClient;
  try {
    client = ApiClient.load({ kubeconfigPath: config.kubeconfigPath, limits: { headersMs: API_TIMEOUT_MS } });
  } catch (error) {
    return withoutCredentials(node, error as Error);
  }
  try {
    const wanted = new Set(
      (list?.pods ?? []).filter((pod) => pod.desired.wanted).map((pod) => `${pod.ns}/${pod.name}`),
    );
    const { probeSnatV4, probeSnatV6, ipv6 } = config;
    const nodeName = node?.node ?? config.nodeName;
    const probeAddresses = ipv6 ? [probeSnatV4, probeSnatV6] : [probeSnatV4];
    const { repair } = config;
    const [permissions, policies, unserved] = await Promise.all([
      checkApiPermissions(client, { timeoutMs: API_TIMEOUT_MS, repairMode: repair.mode }),
      checkNetworkPolicies(client, { wanted, nodeName, probeAddresses, timeoutMs: API_TIMEOUT_MS }),
      guarded("sidecars-unserved", () =>
        checkUnserved(client, { nodeName, repair, timeoutMs: API_TIMEOUT_MS }),
      ),
    ]);
    return [permissions, policies, ...unserved];
  } finally {
    client.close();
  }
}

function withoutCredentials(node: NodeReport | undefined, error: Error): Finding {
  const fix =
    "run it in the agent's pod: kubectl exec -n NAMESPACE POD -- ambient-cni doctor; or set KUBECONFIG";
  if (node === undefined) return failing("api", `not asked: ${error.message}`, fix);
  const fresh = node.watches.every((watch) => watch.fresh);
  const seen = fresh ? "the agent hears it" : "the agent does not hear it either";
  return warning("api", `not asked from here, ${seen}: ${error.message}`, fix);
}
