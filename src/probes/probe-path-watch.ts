// SPDX-License-Identifier: Apache-2.0
// Finds out, once a pod is enrolled, whether kubelet probes pass ztunnel on this node's network; says what to do if they do not.
import { Netns } from "../linux/netns.ts";
import type { Logger } from "../log/logger.ts";
import { Backoff } from "../loop/backoff.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { unlessLate } from "../loop/deadline.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { Family } from "../netfilter/family.ts";
import { canonicalAddress, familyOf } from "./probe-address.ts";
import {
  checkProbePath,
  type ProbePathOutcome,
  type ProbePathResult,
  probePathRemedy,
} from "./probe-path-check.ts";

/** An enrolled pod whose addresses are in the host's sets. It must not be in ingress mode: there ztunnel has no part in inbound. */
export interface ProbedPod {
  readonly uid: string;
  /** Stays the caller's; the watch opens the namespace once more for itself. */
  readonly netns: Netns;
  readonly addresses: readonly string[];
}

/** The last finding. `unknown`: nothing was checked yet, or it could not be. */
export interface ProbePathState {
  readonly outcome: ProbePathOutcome | "unknown";
  /** Unix time; undefined before the first check. */
  readonly atMs: number | undefined;
}

/** Probes do not pass. */
export interface ProbePathReport {
  readonly uid: string;
  readonly outcome: Exclude<ProbePathOutcome, "bypassed">;
  /** What was seen, one sentence an address. */
  readonly message: string;
  readonly remedy: string;
}

export interface ProbePathWatchOptions {
  readonly hostNetnsPath: string;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
  /** Whether a connection of this process is one the host's rule takes for a probe; if not nothing can be checked. */
  readonly countsOwnConnections: () => boolean;
  /** Types of the plugins in the node's CNI configuration, for the remedy. */
  readonly pluginTypes: () => Promise<readonly string[]>;
  /** Probes do not pass: called after each check that found so. */
  readonly onoutcome: (report: ProbePathReport) => void;
  readonly log: Logger;
  /** The network of a new pod may be complete only after ADD, of which the enrolment is a part; default 2 s. */
  readonly settleMs?: number;
  /** A bad outcome is believed when it is found again after this long, in which the host's rules heal; default 5 s. */
  readonly confirmMs?: number;
  /** After a bad outcome, or {@link ProbePathWatch.suspect}, the earliest next check; default 10 min. */
  readonly repeatMs?: number;
  /** When nothing could be found out: the earliest next check, doubled each time up to `repeatMs`, less up to a half at random; default 10 s. */
  readonly retryMs?: number;
  /** How long one connection may take; default 2 s. */
  readonly timeoutMs?: number;
  readonly clock?: Clock;
}

const DEFAULTS = { settleMs: 2_000, confirmMs: 5_000, repeatMs: 600_000, retryMs: 10_000, timeoutMs: 2_000 };
const PLUGIN_TYPES_MS = 2_000;
/** What a check saw that is not as it should be. */
interface FoundPath extends Pick<ProbePathReport, "uid" | "outcome"> {
  readonly results: readonly ProbePathResult[];
}

/** The pod of the check under way; its namespace is the watch's own. */
interface CheckedPod extends ProbedPod {
  readonly abort: AbortController;
}

const SEVERITY: readonly ProbePathOutcome[] = ["bypassed", "captured", "unreachable"];

/**
 * One check at a time, in the background. It begins with a pod that is named to {@link enrolled}: the first since the start,
 * and a later one after a bad outcome. For its time the pod has a listening socket on a port of the kernel's choice.
 */
export class ProbePathWatch {
  readonly #options: ProbePathWatchOptions & Required<Pick<ProbePathWatchOptions, keyof typeof DEFAULTS>>;
  readonly #clock: Clock;
  readonly #runs: KeepTrue;
  /** Between checks of which nothing came. */
  readonly #pauses: Backoff;
  #pod: CheckedPod | undefined;
  #state: ProbePathState = { outcome: "unknown", atMs: undefined };
  #checkedMs = 0;
  #dueMs = Number.NEGATIVE_INFINITY;
  #saidUncheckable = false;

  constructor(options: ProbePathWatchOptions) {
    this.#options = { ...DEFAULTS, ...options };
    this.#clock = options.clock ?? systemClock;
    const { retryMs, repeatMs } = this.#options;
    this.#pauses = new Backoff({ baseMs: retryMs, capMs: repeatMs });
    this.#runs = new KeepTrue({ work: (signal) => this.#work(signal), clock: this.#clock });
  }

  get state(): ProbePathState {
    return this.#state;
  }

  /** A pod for a check, if one is due. Returns at once and never throws; may be called for any pod at any time. */
  enrolled(pod: ProbedPod): void {
    const isDue = this.#pod === undefined && this.#clock.nowMs() >= this.#dueMs;
    if (!isDue || this.#runs.isStopped) return;
    let netns: Netns;
    let addresses: string[];
    try {
      addresses = this.#choose(pod.addresses);
      if (addresses.length === 0 || !this.#isCheckable()) return;
      netns = Netns.open(`/proc/self/fd/${pod.netns.fd}`);
    } catch (error) {
      this.#options.log.debug(
        { uid: pod.uid, err: error },
        "this pod cannot be used to check the probes' way",
      );
      return;
    }
    this.#pod = { uid: pod.uid, netns, addresses, abort: new AbortController() };
    // a stop may come before the run begins
    this.#runs.request().catch(() => this.#letGo());
  }

  /** A pod is on its way out: a check under way lets go of its namespace, and the next pod is taken instead. */
  async left(uid: string): Promise<void> {
    if (this.#pod?.uid !== uid) return;
    this.#pod.abort.abort();
    await this.#runs.idle();
  }

  /** Something on the host had failed and was mended: a good outcome is looked at again when it is old enough. */
  suspect(): void {
    if (this.#dueMs === Number.POSITIVE_INFINITY) this.#dueMs = this.#checkedMs + this.#options.repeatMs;
  }

  /** Gives up a check under way and waits for its end. */
  async stop(): Promise<void> {
    await this.#runs.stop();
  }

  async #work(stopped: AbortSignal): Promise<void> {
    const pod = this.#pod;
    if (pod === undefined) return;
    try {
      await this.#run(pod, AbortSignal.any([stopped, pod.abort.signal]));
    } finally {
      this.#letGo();
    }
  }

  #letGo(): void {
    this.#pod?.netns.close();
    this.#pod = undefined;
  }

  async #run(pod: ProbedPod, signal: AbortSignal): Promise<void> {
    const { settleMs, repeatMs, log } = this.#options;
    try {
      await this.#clock.sleep(settleMs, signal);
      const results = await this.#find(pod, signal);
      const outcome = worstOf(results);
      this.#note(outcome);
      this.#pauses.reset();
      this.#dueMs = outcome === "bypassed" ? Number.POSITIVE_INFINITY : this.#checkedMs + repeatMs;
      if (outcome === "bypassed")
        log.info({ uid: pod.uid, ips: pod.addresses }, "kubelet probes pass ztunnel");
      else await this.#report({ uid: pod.uid, outcome, results }, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.#note("unknown");
      this.#dueMs = this.#checkedMs + this.#pauses.nextMs();
      log.info({ uid: pod.uid, err: error }, "could not find out whether kubelet probes pass ztunnel");
    }
  }

  /** A bad outcome only if it is so twice. @throws when the pod cannot be looked at, because it has ended for example */
  async #find(pod: ProbedPod, signal: AbortSignal): Promise<ProbePathResult[]> {
    const first = await this.#check(pod, signal);
    if (worstOf(first) === "bypassed") return first;
    const reason = describe(first);
    this.#options.log.debug(
      { uid: pod.uid, reason },
      "kubelet probes seem not to pass ztunnel; looking again",
    );
    await this.#clock.sleep(this.#options.confirmMs, signal);
    return await this.#check(pod, signal);
  }

  async #check({ netns, addresses }: ProbedPod, signal: AbortSignal): Promise<ProbePathResult[]> {
    const { hostNetnsPath, probeSnatV4, probeSnatV6, timeoutMs } = this.#options;
    using host = Netns.open(hostNetnsPath);
    const results: ProbePathResult[] = [];
    for (const address of addresses) {
      const probeSnat = familyOf(address) === 4 ? probeSnatV4 : probeSnatV6;
      results.push(await checkProbePath({ host, pod: netns, address, probeSnat, timeoutMs, signal }));
    }
    return results;
  }

  async #report({ uid, outcome, results }: FoundPath, signal: AbortSignal): Promise<void> {
    const { onoutcome, log } = this.#options;
    const remedy = probePathRemedy(await this.#pluginTypes(signal));
    const message = describe(results);
    log.warn({ uid, outcome, reason: message, remedy }, "kubelet probes do not pass ztunnel on this node");
    onoutcome({ uid, outcome, message, remedy });
  }

  /** None when they cannot be had: then the remedy is a general one. */
  async #pluginTypes(signal: AbortSignal): Promise<readonly string[]> {
    try {
      const waiting = { ms: PLUGIN_TYPES_MS, signal, clock: this.#clock };
      return (await unlessLate(this.#options.pluginTypes(), waiting)) ?? [];
    } catch (error) {
      this.#options.log.debug({ err: error }, "cannot tell the node's CNI plugins");
      return [];
    }
  }

  /** One address of each family. */
  #choose(addresses: readonly string[]): string[] {
    const chosen = new Map<Family, string>();
    for (const text of addresses) {
      const address = canonicalAddress(text);
      const family = familyOf(address);
      if (family === 4 || this.#options.ipv6) chosen.set(family, chosen.get(family) ?? address);
    }
    return [...chosen.values()];
  }

  #isCheckable(): boolean {
    if (this.#options.countsOwnConnections()) return true;
    if (!this.#saidUncheckable) {
      const why = "only the kubelet's own connections count as probes (PROBE_MATCH=kubelet)";
      this.#options.log.info({}, `cannot check whether kubelet probes pass ztunnel: ${why}`);
    }
    this.#saidUncheckable = true;
    return false;
  }

  #note(outcome: ProbePathState["outcome"]): void {
    this.#checkedMs = this.#clock.nowMs();
    this.#state = { outcome, atMs: Date.now() };
  }
}

function worstOf(results: readonly ProbePathResult[]): ProbePathOutcome {
  return SEVERITY[Math.max(...results.map(({ outcome }) => SEVERITY.indexOf(outcome)))] ?? "bypassed";
}

/** What is wrong. */
function describe(results: readonly ProbePathResult[]): string {
  const bad = results.filter(({ outcome }) => outcome !== "bypassed");
  return bad.map(({ message }) => message).join("; ");
}
