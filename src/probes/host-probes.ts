// SPDX-License-Identifier: Apache-2.0
// Lets kubelet probes reach enrolled pods past ztunnel: sets and rules on the host as desired state, asserted again and again.
import { Netns } from "../linux/netns.ts";
import { Backoff } from "../loop/backoff.ts";
import { systemClock } from "../loop/clock.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import { HostEars } from "./host-ears.ts";
import type { WantedHost } from "./host-form.ts";
import type { HostProbesOptions, ProbeCounts } from "./host-probes-options.ts";
import { type HostObservation, HostState } from "./host-state.ts";
import { KubeletMatch, MATCH_ANY, type ProbeMatch } from "./kubelet-match.ts";
import { LookPace } from "./look-pace.ts";
import { damageIn, describeDrift, type ProbeDrift } from "./probe-drift.ts";
import { ProbeMembers } from "./probe-members.ts";
import { asProbesError, notConvergedError, ProbesError, stoppedError } from "./probes-error.ts";
import type { HostMembers } from "./set-members.ts";

const DEFAULT_INTERVAL_MS = 3_000;
const FIRST_RETRY_MS = 500;
/** Many pods that are captured at once go into the sets by a few runs instead of one each. */
const GATHER_MS = 10;
/** The first round writes; the others exist for a refused match and for whoever wrote at the same moment. */
const MAX_ROUNDS = 3;

/** Entries that the sets should have, in the families that the host has. */
function countOf({ owners }: HostMembers, { families }: Pick<HostObservation, "families">): number {
  return families.reduce((sum, family) => sum + owners[family].size, 0);
}

/**
 * The host's side of kubelet probes. Looks and writes never overlap; calls that come meanwhile share the next one.
 * Members are only ever removed because their pod was.
 */
export class HostProbes {
  readonly #options: HostProbesOptions;
  readonly #state: HostState;
  readonly #kubelet: KubeletMatch | undefined;
  readonly #members = new ProbeMembers();
  readonly #runs: KeepTrue;
  readonly #pace: LookPace;
  readonly #ears: HostEars | undefined;
  #netns: Netns | undefined;
  /** Members asked for and in the sets. */
  #settled = false;
  #wasIntact = false;
  #hasCarried = false;
  #isClosed = false;
  #reported: { readonly fault: string | undefined } | undefined;
  readonly #counts = { restored: 0, reasserted: 0, failures: 0 };

  /** @throws RangeError for a probe address that is none */
  constructor(options: HostProbesOptions) {
    this.#options = options;
    this.#state = new HostState(options);
    const { intervalMs = DEFAULT_INTERVAL_MS, clock = systemClock } = options;
    this.#pace = new LookPace({ intervalMs, clock });
    this.#runs = new KeepTrue({
      work: () => this.#assert(),
      shortestMs: GATHER_MS,
      longestMs: () => this.#ears?.restMs ?? this.#pace.pauseMs,
      backoff: new Backoff({ baseMs: FIRST_RETRY_MS, capMs: intervalMs }),
      clock,
    });
    const { unannounced } = this.#state;
    // whose connections pass with PROBE_MATCH=kubelet is a matter of processes, of which nobody tells
    if (options.listen !== undefined && options.match !== "kubelet" && unannounced !== "rules") {
      const { listen, log } = options;
      const onheard = (inMs: number): void => this.#runs.requestIn(inMs);
      this.#ears = new HostEars({ listen, asksForSets: unannounced === "entries", onheard, log, clock });
    }
    if (options.match === "kubelet") {
      const { procRoot = "/proc", backend, log } = options;
      this.#kubelet = new KubeletMatch({ procRoot, backend, log });
    }
  }

  get counts(): ProbeCounts {
    return { ...this.#counts, ...this.#state.counts };
  }

  /** What is wrong, undefined when nothing is. */
  get fault(): string | undefined {
    return this.#reported?.fault;
  }

  /** Whether a connection of this process counts as a probe; with PROBE_MATCH=kubelet it usually does not. */
  get countsOwnConnections(): boolean {
    return this.#kubelet?.countsOwnConnections ?? true;
  }

  /** Addresses that the sets hold in the pod's name; undefined while they may differ from what was asked for. */
  addressesOf(uid: string): readonly string[] | undefined {
    return this.#settled && this.fault === undefined ? this.#members.ownedBy(uid) : undefined;
  }

  /** Asserts the desired state once and then on a timer. A failure is reported through `onstate` and tried again. */
  async start(): Promise<void> {
    await this.#runs.request().catch(() => {});
  }

  /**
   * The pod owns these addresses now; resolves when the sets have them. Saying the same again costs nothing.
   * @throws RangeError for what is no UID or address
   * @throws {ProbesError} when the host cannot be brought to it; it is tried again without being asked
   */
  async set(uid: string, addresses: readonly string[]): Promise<void> {
    if (this.#members.set(uid, addresses)) this.#settled = false;
    if (!this.#settled || this.fault !== undefined) await this.#runs.request();
  }

  /** Takes the pod's entries out, and nobody else's. @throws as {@link set} */
  async remove(uid: string): Promise<void> {
    await this.set(uid, []);
  }

  /**
   * Many pods at once, in one run of ipset; of two with one address the later in the list owns it. Those that were set or removed
   * already stay as they are. @throws as {@link set}
   */
  async restore(members: ReadonlyMap<string, readonly string[]>): Promise<void> {
    this.#members.restore(members);
    this.#settled = false;
    await this.#runs.request();
  }

  /** What differs now; writes nothing. @throws {ProbesError} when the host cannot be read */
  async verify(): Promise<readonly ProbeDrift[]> {
    try {
      return await this.#runs.exclusively(async () => {
        const netns = this.#host();
        const members = this.#members.wanted(this.#options.isOutside);
        const match = await this.#match(netns);
        return (await this.#state.observe(netns, { members, match, rules: true })).drift;
      });
    } catch (error) {
      throw asProbesError(error);
    }
  }

  /** Ends the timer and waits for what is under way; sets and rules stay, for the agent that comes next. */
  async stop(): Promise<void> {
    await this.#runs.stop(stoppedError());
    this.#isClosed = true;
    this.#netns?.close();
  }

  async #assert(): Promise<void> {
    try {
      await this.#converge();
      this.#counts.reasserted++;
      this.#report(undefined);
    } catch (error) {
      this.#counts.failures++;
      this.#pace.forget();
      this.#ears?.forget();
      this.#wasIntact = false;
      this.#report(asProbesError(error).message);
      throw asProbesError(error);
    }
  }

  async #converge(): Promise<void> {
    const netns = this.#host();
    // what is asked for from now on has a run of its own coming
    const asked = this.#members.wanted(this.#options.isOutside);
    await this.#ears?.begin(netns);
    const members = this.#hasCarried ? asked : await this.#state.carriedOver(netns, asked);
    const wasSettled = this.#settled;
    let hasRules = false;
    let isAllSeen = false;
    for (let round = 0; ; round++) {
      const match = await this.#match(netns);
      try {
        // rules that were proved a moment ago are not read again
        const rules = !hasRules && this.#pace.isDue(match.key);
        const seen = await this.#look(netns, { members, match, rules });
        // entries of others than our members come to be out of date by what the API server says
        isAllSeen = rules && round === 0 && seen.entryCount === countOf(members, seen);
        if (seen.drift.length === 0) break;
        if (round === 0) this.#noteDrift(seen.drift, wasSettled);
        if (round === MAX_ROUNDS) throw notConvergedError(seen.drift);
        this.#ears?.write();
        await seen.write();
        hasRules = true;
      } catch (error) {
        if (round === MAX_ROUNDS || !(await this.#weaken(match, error))) throw error;
        hasRules = false;
      }
    }
    this.#members.settle(asked);
    if (!this.#runs.isNextRequested) this.#settled = true;
    if (isAllSeen && this.#settled) this.#ears?.note();
    this.#wasIntact = true;
    this.#hasCarried = true;
    await this.#state.clearLeftovers(netns, this.#options.log);
  }

  #look(netns: Netns, wanted: Omit<WantedHost, "families" | "at">): Promise<HostObservation> {
    const look = () => this.#state.observe(netns, wanted);
    return wanted.rules ? this.#pace.time(wanted.match.key, look) : look();
  }

  /** @returns whether a weaker match may be taken in place of the one that was refused */
  async #weaken(match: ProbeMatch, error: unknown): Promise<boolean> {
    if (!(error instanceof ProbesError) || error.code !== "RULE_REFUSED") return false;
    const { message } = error.cause as Error;
    return (await this.#kubelet?.refuse(match, message.replace(/\n.*/s, ""))) === true;
  }

  #match(netns: Netns): Promise<ProbeMatch> {
    return this.#kubelet?.current(netns.key) ?? Promise.resolve(MATCH_ANY);
  }

  /** Opened when first needed, so that a namespace that cannot be opened is a fault like any other. */
  #host(): Netns {
    if (this.#isClosed) throw stoppedError();
    this.#netns ??= Netns.open(this.#options.hostNetnsPath);
    return this.#netns;
  }

  /** Counts what others did to us; what we were asked to change is no damage. */
  #noteDrift(drift: readonly ProbeDrift[], wasSettled: boolean): void {
    if (!this.#wasIntact) return;
    const damage = damageIn(drift, { wasSettled });
    if (damage.length === 0) return;
    this.#counts.restored++;
    const fields = { times: this.#counts.restored, drift: describeDrift(damage) };
    this.#options.log.warn(fields, "somebody changed the host's rules or sets for kubelet probes; put back");
  }

  #report(fault: string | undefined): void {
    if (this.#reported !== undefined && this.#reported.fault === fault) return;
    const wasFaulty = this.#reported?.fault !== undefined;
    this.#reported = { fault };
    if (fault !== undefined)
      this.#options.log.error({ reason: fault }, "kubelet probes may fail; trying again");
    else if (wasFaulty) this.#options.log.info({}, "kubelet probes pass again");
    this.#options.onstate(fault);
  }
}
