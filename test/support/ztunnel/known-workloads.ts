// SPDX-License-Identifier: Apache-2.0
// What the stand-in knows of the mesh, as ztunnel knows it from istiod: which pods exist, and which of them speak HBONE.
import { EventEmitter, once } from "node:events";
import type { StandInWorkloadInfo } from "./zds-message.ts";

/** A workload as the control plane tells of it. */
export interface KnownWorkload {
  readonly namespace: string;
  readonly name: string;
  readonly addresses: readonly string[];
  /** Default HBONE. */
  readonly protocol?: "HBONE" | "TCP";
}

/** Reads a list of workloads given as JSON. @throws SyntaxError, RangeError */
export function parseWorkloads(json: string): KnownWorkload[] {
  const list: unknown = JSON.parse(json);
  if (!Array.isArray(list)) throw new RangeError(`Cannot read the workloads ${json}: it is no list`);
  return list as KnownWorkload[];
}

/** How long a connection waits for its pod to become known. */
const patienceMs = 5_000;

/** Without a list the stand-in's own pods are known from the moment it has them, and are the mesh. */
export class KnownWorkloads {
  readonly #ownAddresses: () => Iterable<readonly string[]>;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #list: readonly KnownWorkload[] | undefined;

  /** `ownAddresses` tells the addresses of the pods the stand-in holds. */
  constructor(ownAddresses: () => Iterable<readonly string[]>, list: readonly KnownWorkload[] | undefined) {
    this.#ownAddresses = ownAddresses;
    this.#list = list;
  }

  /** Replaces the list; undefined: the pods it holds. */
  set(list: readonly KnownWorkload[] | undefined): void {
    this.#list = list;
    this.#changes.emit("change");
  }

  /** True when traffic to this address goes through HBONE. */
  speaksHbone(address: string): boolean {
    if (this.#list === undefined) return [...this.#ownAddresses()].some((own) => own.includes(address));
    return this.#list.some(
      ({ addresses, protocol = "HBONE" }) => protocol === "HBONE" && addresses.includes(address),
    );
  }

  /** True at once, or as soon as the workload becomes known; false when it does not for 5 s. */
  async untilKnown(info: StandInWorkloadInfo): Promise<boolean> {
    const signal = this.#knows(info) ? undefined : AbortSignal.timeout(patienceMs);
    while (!this.#knows(info)) {
      try {
        await once(this.#changes, "change", signal === undefined ? {} : { signal });
      } catch {
        return this.#knows(info);
      }
    }
    return true;
  }

  #knows({ namespace, name }: StandInWorkloadInfo): boolean {
    return this.#list?.some((known) => known.namespace === namespace && known.name === name) ?? true;
  }
}
