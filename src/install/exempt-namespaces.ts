// SPDX-License-Identifier: Apache-2.0
// Which pods are exempt from waiting for an agent that is away: the launcher's two lists.
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import type { NodeState } from "../kube/node-state.ts";
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import type { EnablementSelector } from "../kube/selectors.ts";
import { removeHalves, replaceFile } from "../linux/atomic-file.ts";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import type { Clock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { claimOf, parseVerdicts, renderVerdicts, selectorsMark, showsMesh } from "./namespace-verdicts.ts";

/** Names under which the agent is installed: one in place of the other has to start in a chain that the other left. */
const daemonSetNames = ["ambient-cni-node", "istio-cni-node"];

/**
 * The list in our entry of the chain: `namespace` or `namespace/pod-name-prefix`, with patterns in the namespace. The agent's
 * own pods are on it, because after a reboot their sandbox would wait for the agent that it is to hold.
 */
export function chainExemptions(
  identity: Pick<AgentConfig, "excludeNamespaces" | "podNamespace" | "podName">,
): string[] {
  const { excludeNamespaces, podNamespace, podName } = identity;
  const exempt = [...excludeNamespaces].sort();
  // a DaemonSet's pods are named after it, with five characters of their own
  const owner = podName.replace(/-[^-]+$/, "");
  if (podNamespace === "" || owner === "" || owner === podName) return exempt;
  for (const name of new Set([owner, ...daemonSetNames])) exempt.push(`${podNamespace}/${name}-`);
  return exempt;
}

/** Name of the list's file; the launcher knows it, too (plugin/call.h). */
export const exemptListName = "ambient-cni.exempt-namespaces";

type ExemptListPlace = Pick<AgentConfig, "runDir"> & {
  readonly install: Pick<AgentConfig["install"], "enabled" | "binDir">;
};

/**
 * The list lies beside the launcher: that folder outlives a boot, and each agent that installs has it, also in istio-cni's own
 * DaemonSet. An agent that installs nothing may not have it, and keeps the list in its run dir.
 */
export function exemptListPath({ runDir, install }: ExemptListPlace): string {
  return join(install.enabled ? install.binDir : runDir, exemptListName);
}

/** Removes the list from the folder of plugins, with what a killed agent left of a newer one. @throws the file system's error */
export async function removeExemptList(binDir: string): Promise<void> {
  const path = join(binDir, exemptListName);
  await rm(path, { force: true });
  await removeHalves(path);
}

export interface ExemptNamespacesOptions {
  readonly path: string;
  /** AGENT_AWAY_POLICY. */
  readonly policy: "hold" | "namespace";
  readonly selectors: readonly EnablementSelector[];
  readonly node: NodeState;
  readonly log: Logger;
  readonly clock?: Clock;
}

/** Many namespaces change together, at the first list for one. The launcher gives us 2 s when a pod is being added. */
const settleMs = 50;
const firstRetryMs = 1_000;
const maxRetryMs = 5_000;

/**
 * The list of namespaces, see `namespace-verdicts.ts`: with the policy `namespace` those whose pods are certainly outside the
 * mesh, with the policy `hold` none. A namespace that was once seen with anything of the mesh (a label of its own, a pod that
 * opts in or has a sidecar) is held for as long as it exists: what left may come back while nobody looks. Its UID tells it from
 * one that was made anew. Nobody on the node can tell the two apart while the agent is away, as the runtime names no UID.
 */
export class ExemptNamespaces {
  readonly #options: ExemptNamespacesOptions;
  readonly #writes: KeepTrue;
  readonly #seen = new Map<string, string>();
  readonly #unsubscribe: (() => void)[] = [];
  #fault: string | undefined;

  constructor(options: ExemptNamespacesOptions) {
    this.#options = options;
    this.#writes = new KeepTrue({
      work: () => this.#write(),
      backoff: new Backoff({ baseMs: firstRetryMs, capMs: maxRetryMs }),
      clock: options.clock,
    });
  }

  /**
   * Call once pods and namespaces are known: until then the list of before stands. Resolves after the first try, so that
   * the chain does not name a launcher without a list.
   */
  async start(): Promise<void> {
    const { path, policy, node, log } = this.#options;
    await removeHalves(path).catch((error: unknown) =>
      log.debug({ path, err: error }, "cannot look for halves of the list of exempt namespaces"),
    );
    if (policy === "namespace") {
      await this.#remember();
      this.#unsubscribe.push(
        node.onNamespaceChange(() => this.#writes.requestIn(settleMs)),
        node.onPodChange(({ current }) => this.#look(current)),
      );
    }
    await this.#writes.request().catch(() => {});
  }

  /** The list stays: it is for the time without an agent. */
  async stop(): Promise<void> {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    await this.#writes.stop();
  }

  /** Whether the list on the disk, which may be an earlier agent's, has the pods of a namespace start. */
  async has(namespace: string): Promise<boolean> {
    const { path, policy } = this.#options;
    if (policy === "hold") return false;
    const { starting } = parseVerdicts(await readFile(path, "utf8").catch(() => ""));
    return starting.includes(namespace);
  }

  async #remember(): Promise<void> {
    const { path, selectors } = this.#options;
    const { seen, ...list } = parseVerdicts(await readFile(path, "utf8").catch(() => ""));
    if (list.selectors !== selectorsMark(selectors)) return;
    for (const [name, uid] of seen) this.#seen.set(name, uid);
  }

  /** A pod may be gone before the list is written. */
  #look(pod: PodFacts | undefined): void {
    if (pod !== undefined && this.#notes(pod)) this.#writes.requestIn(settleMs);
  }

  /** @returns whether the pod showed something new of its namespace */
  #notes(pod: PodFacts): boolean {
    const namespace = this.#options.node.namespace(pod.namespace);
    if (namespace === undefined || this.#isSeen(namespace)) return false;
    if (!showsMesh(pod, namespace, this.#options.selectors)) return false;
    this.#seen.set(namespace.name, namespace.uid);
    return true;
  }

  #isSeen({ name, uid }: NamespaceFacts): boolean {
    return this.#seen.get(name) === uid;
  }

  async #write(): Promise<void> {
    const { path, policy, log } = this.#options;
    try {
      if (policy === "hold") await rm(path, { force: true });
      else await replaceUnlessSame(path, this.#text());
      this.#fault = undefined;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#fault)
        log.warn({ path, err: error }, "cannot write the list of exempt namespaces; trying again");
      this.#fault = message;
      throw error;
    }
  }

  #text(): string {
    const { node, selectors } = this.#options;
    for (const pod of node.pods.values()) this.#notes(pod);
    const starting: NamespaceFacts[] = [];
    const seen = new Map<string, string>();
    for (const namespace of node.namespaces.values()) {
      if (claimOf(namespace.labels, selectors) === "mesh") this.#seen.set(namespace.name, namespace.uid);
      if (this.#isSeen(namespace)) seen.set(namespace.name, namespace.uid);
      else starting.push(namespace);
    }
    for (const name of this.#seen.keys()) if (!seen.has(name)) this.#seen.delete(name);
    return renderVerdicts({ selectors: selectorsMark(selectors), seen }, starting);
  }
}

async function replaceUnlessSame(path: string, text: string): Promise<void> {
  if ((await readFile(path, "utf8").catch(() => undefined)) === text) return;
  // empty after a crash of the node, it would hold up what it is to let through
  await replaceFile(path, { content: text, mode: 0o600 });
}
