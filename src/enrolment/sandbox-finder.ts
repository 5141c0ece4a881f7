// SPDX-License-Identifier: Apache-2.0
// Finds the network namespaces of running pods and accepts only those that prove to be theirs.
import { join } from "node:path";
import { sameAddress } from "../linux/address.ts";
import { interfaceAddresses } from "../linux/netlink/rtnetlink.ts";
import { Netns } from "../linux/netns.ts";
import { type PodProcess, scanProc, type WantedPod } from "../linux/proc-scan.ts";
import type { Logger } from "../log/logger.ts";

/** A running pod to find. */
export interface SoughtPod extends WantedPod {
  /** Addresses of the pod's status; a namespace without any of them is not the pod's. */
  readonly ips: readonly string[];
}

/** A pod's sandbox, found or named by the runtime. Whoever holds it closes the namespace handle. */
export interface Sandbox {
  readonly netns: Netns;
  /** Id of the sandbox container, as in CNI_CONTAINERID; empty when not known. */
  readonly containerId: string;
  /** Addresses the runtime named in ADD, none for a sandbox found in /proc: the pod's status may be older. */
  readonly ips: readonly string[];
  /** The runtime made the namespace for this very call: nobody has written in it before. */
  readonly isNew: boolean;
  /** When its oldest process started, in ms since boot; unknown for a sandbox that the runtime named. */
  readonly startedMs?: number;
}

export interface SandboxFinderOptions {
  readonly hostRoot: string;
  readonly hostNetns: ReadonlySet<string>;
  readonly log: Logger;
}

/** Source: USER_HZ is 100 on every architecture Node runs on; proc_pid_stat(5), starttime. */
const msPerTick = 10;

interface Search {
  readonly pod: SoughtPod;
  readonly found: PromiseWithResolvers<Sandbox | undefined>;
}

/** Looks pods up in /proc; searches asked for at the same time share one pass. */
export class SandboxFinder {
  readonly #options: SandboxFinderOptions;
  #searches: Search[] = [];
  #scanning = false;

  constructor(options: SandboxFinderOptions) {
    this.#options = options;
  }

  /** Finds one pod; `undefined` when none of its processes runs or the namespace is not provably the pod's. */
  find(pod: SoughtPod): Promise<Sandbox | undefined> {
    // without an address nothing could be proved
    if (pod.ips.length === 0) return Promise.resolve(undefined);
    const found = Promise.withResolvers<Sandbox | undefined>();
    this.#searches.push({ pod, found });
    if (!this.#scanning) void this.#scanAll();
    return found.promise;
  }

  async #scanAll(): Promise<void> {
    this.#scanning = true;
    // searches asked for in this turn, and all that come while a pass runs, go into one pass
    await Promise.resolve();
    while (this.#searches.length > 0) {
      const searches = this.#searches;
      this.#searches = [];
      try {
        await this.#scan(searches);
      } catch (error) {
        for (const { found } of searches) found.reject(error);
      }
    }
    this.#scanning = false;
  }

  async #scan(searches: readonly Search[]): Promise<void> {
    const { hostRoot, hostNetns } = this.#options;
    const processes = await scanProc(
      searches.map(({ pod }) => pod),
      { procRoot: join(hostRoot, "proc"), ignoreNetns: hostNetns },
    );
    await Promise.all(
      searches.map(({ pod, found }) =>
        this.#inspect(pod, processes.get(pod.uid)).then(found.resolve, found.reject),
      ),
    );
  }

  async #inspect(pod: SoughtPod, process: PodProcess | undefined): Promise<Sandbox | undefined> {
    const netns = process && this.#open(process.netnsPath, process.netnsKey);
    if (process === undefined || netns === undefined) return undefined;
    try {
      if (await this.#holdsAddress(netns, pod)) {
        const { containerId, startTime } = process;
        return { netns, containerId, ips: [], isNew: false, startedMs: startTime * msPerTick };
      }
    } catch (error) {
      netns.close();
      throw error;
    }
    netns.close();
    return undefined;
  }

  /** The process may have ended, and its number been given to another one, since it was looked at. */
  #open(path: string, expectedKey: string): Netns | undefined {
    try {
      const netns = Netns.open(path);
      if (netns.key === expectedKey) return netns;
      netns.close();
    } catch (error) {
      this.#options.log.debug({ path, err: error }, "a pod's process ended while it was looked at");
    }
    return undefined;
  }

  /** Whether an interface in the namespace has one of these addresses. */
  async owns(netns: Netns, ips: readonly string[]): Promise<boolean> {
    const addresses = await interfaceAddresses(netns.fd);
    return addresses.some(({ address }) => ips.some((ip) => sameAddress(ip, address)));
  }

  async #holdsAddress(netns: Netns, pod: SoughtPod): Promise<boolean> {
    const owned = await this.owns(netns, pod.ips);
    if (!owned) {
      this.#options.log.warn(
        { uid: pod.uid, netns: netns.key, ips: pod.ips },
        "refused a namespace for a pod: no interface in it has one of the pod's addresses",
      );
    }
    return owned;
  }
}
