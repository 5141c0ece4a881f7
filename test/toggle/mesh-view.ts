// SPDX-License-Identifier: Apache-2.0
// A control plane's view of who is in the mesh, as ztunnels get it: some time after it changed.
import type { StandIn } from "../support/ztunnel/stand-in.ts";

/** A pod as a control plane describes it to ztunnels. */
export interface MeshPod {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly addresses: readonly string[];
  /** Reached through HBONE. */
  readonly isInMesh: boolean;
}

/** How a {@link MeshView} works. */
export interface MeshViewOptions {
  readonly read: () => readonly MeshPod[];
  readonly push: (pods: readonly MeshPod[]) => Promise<void>;
  /**
   * Quiet time before a push; default that of istiod. Source: istio/istio pilot/pkg/features/tuning.go, PILOT_DEBOUNCE_AFTER.
   */
  readonly debounceMs?: number;
}

/** Pushes what is true some time after the last change. */
export class MeshView {
  readonly #options: MeshViewOptions;
  #timer: NodeJS.Timeout | undefined;
  #pushing: Promise<void> = Promise.resolve();

  constructor(options: MeshViewOptions) {
    this.#options = options;
  }

  /** Something has changed. */
  changed(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#push(), this.#options.debounceMs ?? 100);
  }

  /** True when ztunnels have been told everything. @throws what the last push threw */
  async isSettled(): Promise<boolean> {
    if (this.#timer !== undefined) return false;
    await this.#pushing;
    return this.#timer === undefined;
  }

  #push(): void {
    this.#timer = undefined;
    const { read, push } = this.#options;
    this.#pushing = this.#pushing.then(() => push(read()));
    // whoever asks whether it is settled hears of a failure
    this.#pushing.catch(() => {});
  }
}

/** Tells a stand-in, as XDS does the real one. */
export async function tellStandIn(ztunnel: StandIn, pods: readonly MeshPod[]): Promise<void> {
  const set = pods.map(({ namespace, name, addresses, isInMesh }) => {
    const protocol = isInMesh ? ("HBONE" as const) : ("TCP" as const);
    return { namespace, name, addresses, protocol };
  });
  await ztunnel.command({ do: "workloads", set });
}
