// SPDX-License-Identifier: Apache-2.0
// Finds the network namespaces of running pods and accepts only those that prove to be theirs.
import { join } from "node:path";
import { sameAddress } from "../linux/address.ts";
import { bareUid } from "../linux/cgroup-path.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import { Netns } from "../linux/netns.ts";
import { scanPinned } from "../linux/pinned-netns.ts";
import { type PodProcess, type ProcScan, scanProc, type WantedPod } from "../linux/proc-scan.ts";
import type { Logger } from "../log/logger.ts";
import type { Place } from "./attachments.ts";
import { matchPinned, type PinnedMatch } from "./match-pinned.ts";

/** A running pod to find. */
export interface SoughtPod extends WantedPod {
  /** Addresses of the pod's status; a namespace without any of them is not the pod's. */
  readonly ips: readonly string[];
  /** All its containers have ended: its address may be another pod's by now, and proves nothing alone. */
  readonly hasFinished?: boolean;
}

/**
 * How a sandbox became known: `add`, the runtime told of it by CNI; `nri`, it told of it by NRI alone; `proc`, by a process of the pod; `pinned`, by nothing but the
 * pod's address in a namespace that the runtime keeps as a file.
 */
export type SandboxSource = (typeof sandboxSources)[number];
export const sandboxSources = ["add", "nri", "proc", "pinned"] as const;

/** A pod's sandbox, found or named by the runtime. Whoever holds it closes the namespace handle. */
export interface Sandbox {
  readonly netns: Netns;
  /** Id of the sandbox container, as in CNI_CONTAINERID; empty when not known. */
  readonly containerId: string;
  /** Addresses the runtime named in ADD, none for a sandbox found otherwise: the pod's status may be older. */
  readonly ips: readonly string[];
  /** The runtime made the namespace for this very call: nobody has written in it before. */
  readonly isNew: boolean;
  /** When its oldest process started, in ms since boot; only known of a sandbox found in /proc. */
  readonly startedMs?: number;
  /** Default `add`. */
  readonly source?: SandboxSource;
}

/** A sandbox that was looked for. */
export interface FoundSandbox extends Sandbox {
  readonly source: SandboxSource;
}

/** What is known of a pod's sandbox, and of everybody else's, before it is looked for. */
export interface SearchHints {
  /** What ADD told of the pod's newest sandbox. */
  readonly place?: Place | undefined;
  /** Whether a namespace (`Netns.key`) is known to be another pod's. Default: of none. */
  readonly isOwned?: ((netnsKey: string) => boolean) | undefined;
}

export interface SandboxFinderOptions {
  readonly hostRoot: string;
  readonly hostNetns: ReadonlySet<string>;
  readonly log: Logger;
}

/** Source: USER_HZ is 100 on every architecture Node runs on; proc_pid_stat(5), starttime. */
const msPerTick = 10;
const maxTold = 1_024;

interface Search {
  readonly pod: SoughtPod;
  readonly isOwned: (netnsKey: string) => boolean;
  /** What ADD named, without one of the pod's addresses. Owned. */
  readonly told: FoundSandbox | undefined;
  readonly found: PromiseWithResolvers<FoundSandbox | undefined>;
}

/**
 * Looks pods up where ADD told of them, then in /proc, then among the namespaces that the runtime pinned. Searches asked
 * for at the same time share one pass over each.
 */
export class SandboxFinder {
  readonly #options: SandboxFinderOptions;
  /** Refusals that have been told: a pod is looked for again and again. */
  readonly #told = new Set<string>();
  #searches: Search[] = [];
  #scanning = false;

  constructor(options: SandboxFinderOptions) {
    this.#options = options;
  }

  /**
   * Finds one pod; `undefined` when no namespace is provably the pod's. One without an address in its status is found only
   * where ADD told of it.
   */
  async find(pod: SoughtPod, hints: SearchHints = {}): Promise<FoundSandbox | undefined> {
    const { place, isOwned = () => false } = hints;
    const told = place === undefined ? undefined : await this.#atPlace(pod, { place, isOwned });
    if (told?.isCertain === true) return told.sandbox;
    // without an address nothing could be proved
    if (told === undefined && pod.ips.length === 0) return undefined;
    const found = Promise.withResolvers<FoundSandbox | undefined>();
    this.#searches.push({ pod, isOwned, told: told?.sandbox, found });
    if (!this.#scanning) void this.#scanAll();
    return await found.promise;
  }

  /** Whether the namespace of which ADD told is still there, under the path that it told. */
  stands({ netnsPath, netnsKey }: Place): boolean {
    try {
      return netnsKeyAt(join(this.#options.hostRoot, netnsPath)) === netnsKey;
    } catch {
      // nothing that can be seen speaks against what ADD told
      return true;
    }
  }

  /**
   * What ADD named wins over all that could be found, whatever its addresses are now: they are its pod's to change. Where it has none
   * of them, others may have come there: another process' number in the path, or a namespace's that came back.
   * @returns not certain: unless another pod's processes are in it
   */
  async #atPlace(
    pod: SoughtPod,
    { place, isOwned }: { place: Place; isOwned: (netnsKey: string) => boolean },
  ): Promise<{ readonly sandbox: FoundSandbox; readonly isCertain: boolean } | undefined> {
    const { netnsPath, netnsKey, containerId, ips } = place;
    if (this.#options.hostNetns.has(netnsKey) || isOwned(netnsKey)) return undefined;
    const netns = this.#open({ path: join(this.#options.hostRoot, netnsPath), key: netnsKey });
    if (netns === undefined) return undefined;
    const sandbox = { netns, containerId, ips, isNew: false, source: place.toldBy ?? "add" } as const;
    const known = [...pod.ips, ...ips];
    if (known.length === 0) return { sandbox, isCertain: true };
    try {
      return { sandbox, isCertain: (await this.held(netns, known)).length > 0 };
    } catch (error) {
      netns.close();
      throw error;
    }
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
        for (const { told, found } of searches) {
          told?.netns.close();
          found.reject(error);
        }
      }
    }
    this.#scanning = false;
  }

  async #scan(searches: readonly Search[]): Promise<void> {
    const { hostRoot, hostNetns } = this.#options;
    const scan = await scanProc(
      searches.map(({ pod }) => pod),
      { procRoot: join(hostRoot, "proc"), ignoreNetns: hostNetns },
    );
    const left: Search[] = [];
    const inspections = searches.map(async (search) => {
      const { pod } = search;
      const told = this.#unlessOccupied(search, scan);
      const sandbox = told ?? (await this.#inspect(pod, scan.oldest.get(pod.uid)));
      if (sandbox === undefined && pod.hasFinished !== true) left.push(search);
      else search.found.resolve(sandbox);
    });
    await Promise.all(
      inspections.map((inspection, index) =>
        inspection.catch((error) => searches[index]?.found.reject(error)),
      ),
    );
    if (left.length === 0) return;
    // only theirs: what was found for the others is their pods' already
    await this.#scanPinned(left, scan).catch((error) => {
      for (const { found } of left) found.reject(error);
    });
  }

  #unlessOccupied({ pod, told }: Search, { occupants }: ProcScan): FoundSandbox | undefined {
    if (told === undefined) return undefined;
    const { netns, ips } = told;
    if (!isOccupied(occupants.get(netns.key), pod.uid)) return told;
    netns.close();
    this.#refuseAddresses(netns.key, { uid: pod.uid, ips: [...pod.ips, ...ips] });
    return undefined;
  }

  async #inspect(pod: SoughtPod, process: PodProcess | undefined): Promise<FoundSandbox | undefined> {
    if (process === undefined || pod.ips.length === 0) return undefined;
    const { netnsPath, netnsKey, containerId, startTime } = process;
    const netns = await this.#openProven({ path: netnsPath, key: netnsKey }, pod);
    if (netns === undefined) return undefined;
    return { netns, containerId, ips: [], isNew: false, startedMs: startTime * msPerTick, source: "proc" };
  }

  async #scanPinned(searches: readonly Search[], { occupants }: ProcScan): Promise<void> {
    const { hostRoot, hostNetns } = this.#options;
    const mayBe = ({ pod, isOwned }: Search, key: string): boolean =>
      !hostNetns.has(key) && !isOwned(key) && !isOccupied(occupants.get(key), pod.uid);
    const pinned = await scanPinned({
      hostRoot,
      ips: searches.flatMap(({ pod }) => pod.ips),
      isSought: (key) => searches.some((search) => mayBe(search, key)),
    });
    const matches = matchPinned(
      searches.map((search) => ({ ips: search.pod.ips, mayBe: (key) => mayBe(search, key) })),
      pinned,
    );
    await Promise.all(
      searches.map(async ({ pod, found }, index) => {
        await this.#takePinned(pod, matches[index]).then(found.resolve, found.reject);
      }),
    );
  }

  async #takePinned(pod: SoughtPod, match: PinnedMatch | undefined): Promise<FoundSandbox | undefined> {
    if (match?.chosen !== undefined) {
      const netns = await this.#openProven(match.chosen, pod);
      return netns && { netns, containerId: "", ips: [], isNew: false, source: "pinned" };
    }
    if (match !== undefined) {
      this.#refuse(
        { uid: pod.uid, ips: pod.ips, paths: match.refused.slice(0, 8).map(({ path }) => path) },
        "refused namespaces for a pod: they have its addresses, and nothing tells which namespace is which pod's",
      );
    }
    return undefined;
  }

  /** Opens a namespace if it is still the one that was looked at, and holds one of the addresses. */
  async #openProven(
    file: { readonly path: string; readonly key: string },
    { uid, ips }: { readonly uid: string; readonly ips: readonly string[] },
  ): Promise<Netns | undefined> {
    const netns = this.#open(file);
    if (netns === undefined) return undefined;
    try {
      if ((await this.held(netns, ips)).length > 0) return netns;
    } catch (error) {
      netns.close();
      throw error;
    }
    netns.close();
    this.#refuseAddresses(file.key, { uid, ips });
    return undefined;
  }

  #refuseAddresses(netns: string, { uid, ips }: Pick<SoughtPod, "uid" | "ips">): void {
    this.#refuse(
      { uid, netns, ips },
      "refused a namespace for a pod: no interface in it has one of the pod's addresses",
    );
  }

  #refuse(fields: object, message: string): void {
    const { log } = this.#options;
    const refusal = JSON.stringify(fields);
    if (this.#told.has(refusal)) log.debug(fields, message);
    else log.warn(fields, message);
    if (this.#told.size >= maxTold) this.#told.clear();
    this.#told.add(refusal);
  }

  /** What held it may have ended, and its path or number been given to another one, since it was looked at. */
  #open({ path, key }: { readonly path: string; readonly key: string }): Netns | undefined {
    try {
      const netns = Netns.open(path);
      if (netns.key === key) return netns;
      netns.close();
    } catch (error) {
      this.#options.log.debug({ path, err: error }, "a pod's namespace went while it was looked at");
    }
    return undefined;
  }

  /** Those of these addresses that an interface in the namespace has. */
  async held(netns: Netns, ips: readonly string[]): Promise<string[]> {
    const addresses = await interfaceAddresses(netns, ips);
    return ips.filter((ip) => addresses.some(({ address }) => sameAddress(ip, address)));
  }
}

/** A pod whose status is behind still names the address that another pod was given: that one has processes there. */
function isOccupied(occupants: ReadonlySet<string> | undefined, uid: string): boolean {
  return occupants !== undefined && !occupants.has(bareUid(uid));
}
