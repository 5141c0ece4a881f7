// SPDX-License-Identifier: Apache-2.0
// PROBE_MATCH=kubelet: finds the kubelet and says by what its connections are told from those of other host processes.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { NodeCgroup } from "../linux/cgroup-path.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { nodeCgroupOf, Process, processesIn } from "../linux/proc.ts";
import type { Logger } from "../log/logger.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { ANY_SOCKET, type ProbeMatchArgs } from "./probe-rules.ts";

/** What the rule matches. */
export interface ProbeMatch {
  readonly kind: "any" | "cgroup" | "uid";
  readonly args: ProbeMatchArgs;
  /** Of the kind "uid": whose connections count. */
  readonly uid?: number;
  /**
   * Changes when the rule has to be written again although its text is the same: the kernel resolves a cgroup's path
   * once, and a service that is restarted gets a new cgroup with the old name.
   */
  readonly key: string;
  /** Cgroup namespace in which the path is meant, if it is not ours. */
  readonly cgroupNsPath?: string;
}

/** Any socket of the host, as istio-cni does it. */
export const MATCH_ANY: ProbeMatch = { kind: "any", args: ANY_SOCKET, key: "any" };

export interface KubeletMatchOptions {
  /** /proc of the host. */
  readonly procRoot: string;
  readonly backend: Pick<RedirectBackend, "variant" | "runner">;
  readonly log: Logger;
}

interface Kubelet {
  readonly pid: number;
  readonly rank: number;
  readonly startTime: number;
  readonly uid: number;
}

/**
 * Names of processes that are or hold a kubelet, and which of them is the better answer: the smaller number. Source: k3s and
 * MicroK8s (kubelite) run it in a larger program, k3s under its own name in containers; k0s starts one beside itself, in its
 * own cgroup; istio/istio cni/pkg/nftables/kubeletuid_linux.go, kubeletProcesses.
 */
const KUBELET_NAMES: ReadonlyMap<string, number> = new Map([
  ["kubelet", 0],
  ["kubelite", 1],
  ["k3s-server", 1],
  ["k3s-agent", 1],
  ["k3s", 1],
  ["k0s", 1],
]);
const MAX_PATH_BYTES = 500;

/** Keeps track of the kubelet: it is searched for once, and again when its process has ended. */
export class KubeletMatch {
  readonly #options: KubeletMatchOptions;
  #process: Kubelet | undefined;
  #match: ProbeMatch = MATCH_ANY;
  /** Kinds the kernel refused for this kubelet. */
  readonly #refused = new Set<ProbeMatch["kind"]>();
  #warned = "";

  constructor(options: KubeletMatchOptions) {
    this.#options = options;
  }

  /** Whether connections of this process fit the last match. */
  get countsOwnConnections(): boolean {
    const { kind, args } = this.#match;
    return kind === "any" || (kind === "uid" && args.at(-1) === String(process.getuid?.()));
  }

  /** What to match now. While the kubelet is away the last match stands: there are no probes then. */
  async current(hostNetnsKey: string): Promise<ProbeMatch> {
    if (this.#process !== undefined && this.#isAlive(this.#process)) return this.#match;
    const found = await this.#search(hostNetnsKey);
    if (found === undefined) {
      if (this.#process === undefined) this.#warn("no kubelet process was found in the host's namespace");
      return this.#match;
    }
    this.#process = found;
    this.#refused.clear();
    this.#match = await this.#matchFor(found);
    return this.#match;
  }

  /** The kernel refused the rule: the next weaker match is used until the kubelet is another process. */
  async refuse(match: ProbeMatch, reason: string): Promise<boolean> {
    if (match.kind === "any" || this.#process === undefined) return false;
    this.#refused.add(match.kind);
    this.#match = await this.#matchFor(
      this.#process,
      `the kernel refused to match its ${match.kind}: ${reason}`,
    );
    return true;
  }

  async #matchFor(process: Kubelet, refusal?: string): Promise<ProbeMatch> {
    const byCgroup = this.#refused.has("cgroup") ? undefined : await this.#cgroupMatch(process);
    if (typeof byCgroup === "object") {
      this.#options.log.info({ pid: process.pid, match: byCgroup.args }, "probes are those of the kubelet");
      return byCgroup;
    }
    const why = refusal ?? byCgroup ?? "";
    if (this.#refused.has("uid")) {
      this.#warn(why);
      return MATCH_ANY;
    }
    this.#warn(`${why}; every host process of user ${process.uid} counts as kubelet`, "user");
    return {
      kind: "uid",
      args: ["-m", "owner", "--uid-owner", String(process.uid)],
      uid: process.uid,
      key: `uid ${process.uid}`,
    };
  }

  /** @returns a match, or why there is none */
  async #cgroupMatch({ pid, startTime }: Kubelet): Promise<ProbeMatch | string> {
    // Source: linux net/netfilter/nft_socket.c: not where ours stand
    if (this.#options.backend.variant === "native") return "native nftables cannot ask for its cgroup here";
    const hostNs = join(this.#options.procRoot, "1/ns/cgroup");
    const isOurs = netnsKeyAt(hostNs) === netnsKeyAt("/proc/self/ns/cgroup");
    const file = join(this.#options.procRoot, String(pid), "cgroup");
    let text: string;
    try {
      text = isOurs ? readFileSync(file, "utf8") : await this.#readIn(hostNs, file);
    } catch (error) {
      return `its cgroup cannot be read: ${(error as Error).message}`;
    }
    const path = unifiedPath(text);
    if (path === undefined) return "it is in no cgroup of version 2 but the root";
    const args = ["-m", "cgroup", "--path", path];
    const match = { kind: "cgroup", args, key: `${path} of ${pid} since ${startTime}` } as const;
    return isOurs ? match : { ...match, cgroupNsPath: hostNs };
  }

  /** Paths in that file are written as the namespace of whoever reads it sees them. */
  async #readIn(cgroupNs: string, file: string): Promise<string> {
    const argv = ["nsenter", `--cgroup=${cgroupNs}`, "--", "cat", file] as const;
    return (await this.#options.backend.runner.run({ argv })).stdout;
  }

  /** The oldest process with a kubelet's name in the host's namespace that belongs to no pod; the kubelet's own name wins. */
  async #search(hostNetnsKey: string): Promise<Kubelet | undefined> {
    let best: Kubelet | undefined;
    const node = nodeCgroupOf(this.#options.procRoot);
    for await (const process of processesIn(this.#options.procRoot)) {
      const found = kubeletOf(process, { hostNetnsKey, node });
      if (found !== undefined && (best === undefined || isBetter(found, best))) best = found;
    }
    return best;
  }

  #isAlive({ pid, startTime }: Kubelet): boolean {
    return new Process(this.#options.procRoot, pid).startTime() === startTime;
  }

  #warn(why: string, instead = "any"): void {
    if (why === this.#warned) return;
    this.#warned = why;
    const meaning = instead === "any" ? "; every host process counts as kubelet" : "";
    this.#options.log.warn({}, `Cannot tell the kubelet's probes apart: ${why}${meaning}`);
  }
}

/**
 * Path of a process in the cgroup v2 hierarchy; undefined in its root, which every process would match.
 * Source: cgroups(7), /proc/pid/cgroup; linux net/netfilter/xt_cgroup.c (a path matches everything below it).
 */
export function unifiedPath(text: string): string | undefined {
  const path = /^0::\/(.*)$/m.exec(text)?.[1]?.replace(/ \(deleted\)$/, "");
  if (path === undefined || path === "" || path.startsWith("..")) return undefined;
  return Buffer.byteLength(path) <= MAX_PATH_BYTES && /^[^\s"'\\]+$/.test(path) ? path : undefined;
}

function isBetter(one: Kubelet, other: Kubelet): boolean {
  return one.rank === other.rank ? one.startTime < other.startTime : one.rank < other.rank;
}

/** A pod in the host's network may call a process of its own so, and be older. */
function kubeletOf(
  process: Process,
  { hostNetnsKey, node }: { readonly hostNetnsKey: string; readonly node: NodeCgroup },
): Kubelet | undefined {
  const rank = KUBELET_NAMES.get(process.comm() ?? "");
  if (rank === undefined || process.netnsKey() !== hostNetnsKey) return undefined;
  const [owner, startTime, uid] = [process.owner(node), process.startTime(), process.uid()];
  if (owner === undefined || owner.podUid !== undefined) return undefined;
  return startTime === undefined || uid === undefined
    ? undefined
    : { pid: process.pid, rank, startTime, uid };
}
