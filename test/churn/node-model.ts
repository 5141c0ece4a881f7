// SPDX-License-Identifier: Apache-2.0
// What a node should look like after a series of operations, from the operations alone: nobody is asked.
import { alterations, type Mode, type Operation, type Overrides, type PodOperation } from "./operations.ts";

/** Pods that may exist at the same time. */
export const podSlots = 30;

/** Namespaces and the mode they begin with; pod slots belong to them in turn. */
export const namespaceModes: ReadonlyMap<string, Mode> = new Map([
  ["mesh", "ambient"],
  ["plain", null],
  ["other", null],
]);

/** One pod that exists. */
export interface PodModel {
  readonly slot: number;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly mode: Mode;
  readonly overrides: Overrides;
  readonly sidecar: boolean;
  readonly finished: boolean;
  readonly hasSandbox: boolean;
  /** Rules of somebody else that must be there. */
  readonly foreignFilter: boolean;
  readonly foreignNat: boolean;
}

/** The namespace a slot belongs to for ever. */
export function namespaceOf(slot: number): string {
  return [...namespaceModes.keys()][slot % namespaceModes.size] as string;
}

/** The desired state, brought forward one operation at a time. */
export class NodeModel {
  readonly namespaces = new Map<string, Mode>(namespaceModes);
  readonly pods = new Map<number, PodModel>();

  /** Source: the default enablement selectors of istio-cni, and its exclusions. */
  wanted(pod: PodModel): boolean {
    if (pod.finished || pod.sidecar) return false;
    return (
      pod.mode === "ambient" || (this.namespaces.get(pod.namespace) === "ambient" && pod.mode !== "none")
    );
  }

  apply(operation: Operation): void {
    switch (operation.kind) {
      case "agent":
      case "ztunnel":
      case "api":
        return;
      case "label-namespace":
        this.namespaces.set(operation.namespace, operation.mode);
        return;
      case "replace-namespace":
        this.namespaces.set(operation.namespace, operation.mode);
        for (const pod of [...this.pods.values()]) {
          if (pod.namespace === operation.namespace) this.pods.delete(pod.slot);
        }
        return;
      default:
        this.#applyToPod(operation);
    }
  }

  #applyToPod(operation: PodOperation): void {
    const slot = operation.pod;
    switch (operation.kind) {
      case "create":
        this.pods.set(slot, newPod(operation));
        return;
      case "delete":
      case "force-delete":
        this.pods.delete(slot);
        return;
      case "finish":
        this.#change(slot, { finished: true, hasSandbox: operation.sandboxStays });
        return;
      case "rebuild":
        this.#change(slot, { foreignFilter: false, foreignNat: false });
        return;
      case "label":
        this.#change(slot, { mode: operation.mode });
        return;
      case "annotate":
        this.#change(slot, { overrides: operation.overrides });
        return;
      case "sidecar":
        this.#change(slot, { sidecar: operation.on });
        return;
      case "alter": {
        const { clears } = alterations[operation.how] as { clears?: "nat" | "all" };
        // flushing is done in one family, foreign rules are in IPv4; the whole rule set has both
        if (clears === "all") this.#change(slot, { foreignFilter: false, foreignNat: false });
        if (clears === "nat" && operation.family === 4) this.#change(slot, { foreignNat: false });
        return;
      }
    }
  }

  #change(slot: number, change: Partial<PodModel>): void {
    const pod = this.pods.get(slot);
    if (pod === undefined) throw new Error(`Cannot change pod ${slot}: it does not exist`);
    this.pods.set(slot, { ...pod, ...change });
  }
}

function newPod(operation: PodOperation & { kind: "create" }): PodModel {
  return {
    slot: operation.pod,
    name: `pod-${operation.pod}`,
    namespace: namespaceOf(operation.pod),
    uid: operation.uid,
    mode: operation.mode,
    overrides: operation.overrides,
    sidecar: false,
    finished: false,
    hasSandbox: true,
    foreignFilter: operation.foreign,
    foreignNat: operation.foreign,
  };
}
