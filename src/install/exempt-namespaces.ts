// SPDX-License-Identifier: Apache-2.0
// Which pods may start while the agent is away: the launcher's two lists.
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { matchLabelSelector } from "../kube/label-selector.ts";
import type { NodeState } from "../kube/node-state.ts";
import type { EnablementSelector } from "../kube/selectors.ts";
import { replaceFile } from "../linux/atomic-file.ts";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";

/** What decides whose pods never wait for the agent. */
export interface AgentIdentity {
  readonly excludeNamespaces: ReadonlySet<string>;
  /** Namespace and name of the agent's own pod; empty when it runs outside Kubernetes. */
  readonly podNamespace: string;
  readonly podName: string;
}

/** Names under which the agent is installed: one in place of the other has to start in a chain that the other left. */
const daemonSetNames = ["ambient-cni-node", "istio-cni-node"];

/**
 * The list in our entry of the chain: `namespace` or `namespace/pod-name-prefix`. The agent's own pods are on it, because
 * after a reboot their sandbox would wait for the agent that it is to hold.
 */
export function chainExemptions(identity: AgentIdentity): string[] {
  const { excludeNamespaces, podNamespace, podName } = identity;
  const exempt = [...excludeNamespaces].sort();
  // a DaemonSet's pods are named after it, with five characters of their own
  const owner = podName.replace(/-[^-]+$/, "");
  if (podNamespace === "" || owner === "" || owner === podName) return exempt;
  for (const name of new Set([owner, ...daemonSetNames])) exempt.push(`${podNamespace}/${name}-`);
  return exempt;
}

export interface ExemptNamespacesOptions {
  readonly runDir: string;
  /** AGENT_AWAY_POLICY. */
  readonly policy: "hold" | "namespace";
  readonly selectors: readonly EnablementSelector[];
  readonly node: NodeState;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** Many namespaces change together, at the first list for one. */
const settleMs = 50;
const firstRetryMs = 1_000;
const maxRetryMs = 5_000;

/**
 * The list in the run dir, one namespace a line: with the policy `namespace`, every namespace that no namespace selector
 * matches. An entry without a namespace selector (a pod that opts in by its own label) names no namespace: such a pod
 * starts outside the mesh while the agent is away, and is captured when it is back. With the policy `hold` there is none.
 */
export class ExemptNamespaces {
  readonly #options: ExemptNamespacesOptions;
  readonly #path: string;
  readonly #writes: KeepTrue;
  #unsubscribe: (() => void) | undefined;

  constructor(options: ExemptNamespacesOptions) {
    this.#options = options;
    this.#path = join(options.runDir, "exempt-namespaces");
    this.#writes = new KeepTrue({
      work: () => this.#write(),
      backoff: new Backoff({ baseMs: firstRetryMs, capMs: maxRetryMs }),
      clock: options.clock,
    });
  }

  /**
   * Call once the namespaces are known: a list made before would exempt nobody. Resolves after the first try, so that
   * the chain does not name a launcher without a list.
   */
  async start(): Promise<void> {
    if (this.#options.policy === "namespace")
      this.#unsubscribe = this.#options.node.onNamespaceChange(() => this.#writes.requestIn(settleMs));
    await this.#writes.request().catch(() => {});
  }

  /** The list stays: it is for the time without an agent. */
  async stop(): Promise<void> {
    this.#unsubscribe?.();
    await this.#writes.stop();
  }

  async #write(): Promise<void> {
    const { policy, log } = this.#options;
    try {
      if (policy === "hold") await rm(this.#path, { force: true });
      else await this.#replace(this.#text());
    } catch (error) {
      log.warn({ path: this.#path, err: error }, "cannot write the list of exempt namespaces; trying again");
      throw error;
    }
  }

  #text(): string {
    // pods that say nothing belong into the mesh in every namespace: none can be exempt
    const isEverywhere = this.#options.selectors.some(
      ({ namespaceSelector, podSelector }) =>
        namespaceSelector.length === 0 && matchLabelSelector(podSelector, {}),
    );
    if (isEverywhere) return "";
    const selectors = this.#options.selectors.map(({ namespaceSelector }) => namespaceSelector);
    const named = selectors.filter((selector) => selector.length > 0);
    // a selector of all namespaces and no other: every namespace is the mesh's
    if (named.length === 0) return "";
    const exempt = [...this.#options.node.namespaces.values()].filter(
      ({ labels }) => !named.some((selector) => matchLabelSelector(selector, labels)),
    );
    return exempt
      .map(({ name }) => `${name}\n`)
      .sort()
      .join("");
  }

  async #replace(text: string): Promise<void> {
    if ((await readFile(this.#path, "utf8").catch(() => undefined)) === text) return;
    // empty after a crash of the node, it would hold up what it is to let through
    await replaceFile(this.#path, { content: text, mode: 0o600 });
  }
}
