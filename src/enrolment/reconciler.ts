// SPDX-License-Identifier: Apache-2.0
// One run of one pod: reads its messages, asks for the next step, does it. Safe at any moment, any number of times.
import type { PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import { callOff, handOver, tellZtunnel, workloadInfo } from "./hand-over-step.ts";
import { type Found, nextStep, type Step } from "./next-step.ts";
import type { PodRecord } from "./pod-record.ts";
import { type Carried, freshRun, type View } from "./pod-view.ts";
import { probedAddresses } from "./probed-addresses.ts";
import type { ReconcilerContext, ReconcilerParts } from "./reconciler-parts.ts";
import { redirectPod } from "./redirect-step.ts";
import { soughtPod } from "./runtime-pod.ts";
import { advance, begin } from "./step-result.ts";

/** The pure part: from what is known to what is next. Tests put faults in its place. */
export interface Decisions {
  readonly nextStep: typeof nextStep;
  readonly advance: typeof advance;
}

export const decisions: Decisions = { nextStep, advance };

/** More than any way in and out together takes; a run that does not come to rest is a fault of ours, and must not spin. */
const maxSteps = 200;

type Doing<D extends Step["do"]> = Extract<Step, { do: D }>;

/** Does the steps. */
export class Reconciler {
  readonly #parts: ReconcilerParts;
  readonly #context: ReconcilerContext;
  readonly #decisions: Decisions;

  constructor(parts: ReconcilerParts, context: ReconcilerContext, pure: Decisions = decisions) {
    this.#parts = parts;
    this.#context = context;
    this.#decisions = pure;
  }

  /** Looks at one pod and does what is missing. @throws when a step failed; the pod then stays where it is */
  async run(record: PodRecord): Promise<Doing<"rest">> {
    try {
      return await this.#walk(record);
    } finally {
      callOff(record);
    }
  }

  async #walk(record: PodRecord): Promise<Doing<"rest">> {
    let run = freshRun;
    record.lookMs = undefined;
    let isSandboxKnown = false;
    for (let count = 0; count < maxSteps; count++) {
      record.read(this.#parts.clock.nowMs());
      const view = this.#view(record);
      const step = this.#decisions.nextStep(record.workload, view, run);
      if (step.do === "rest") return step;
      if (!isSandboxKnown && (step.do === "tell" || step.do === "redirect" || step.do === "hand-over")) {
        this.#parts.history.step(record.uid, "sandbox");
        isSandboxKnown = true;
      }
      record.become(begin(record.workload, step));
      const found = isLook(step)
        ? await this.#timed(record, () => this.#perform(step, record))
        : await this.#perform(step, record);
      // what has arrived meanwhile comes first: the step's word counts only for the sandbox that it was about
      record.read(this.#parts.clock.nowMs());
      const endedKey = record.workload.ended?.key;
      const next = this.#decisions.advance(record.workload, { step, found, run, view: this.#view(record) });
      record.become(next.workload);
      run = next.run;
      if (step.do === "settle" && record.workload.phase.at === "captured") {
        this.#settled(record, step);
        if (endedKey === step.sandbox.netns.key) this.#context.outcomes.recaptured(record);
      }
    }
    throw new Error(
      `Cannot reconcile pod "${record.uid}": it does not come to rest within ${maxSteps} steps`,
    );
  }

  async #timed<T>(record: PodRecord, look: () => Promise<T>): Promise<T> {
    const { clock } = this.#parts;
    const startMs = clock.nowMs();
    try {
      return await look();
    } finally {
      record.lookMs = (record.lookMs ?? 0) + clock.nowMs() - startMs;
    }
  }

  #view(record: PodRecord): View {
    const { ztunnel, annotations, clock } = this.#parts;
    const { uid, facts } = record;
    return {
      nowMs: clock.nowMs(),
      desired: this.#context.desired(record),
      isAdding: record.isAdding,
      hasZtunnel: ztunnel.connectionCount > 0,
      acknowledged: ztunnel.acknowledged(uid),
      isAnnounced: facts !== undefined && annotations.isAnnotated(facts),
      isAnnouncing: annotations.isWriting(uid),
      isTakingStock: this.#context.isTakingStock(),
      isLeavingNode: this.#context.isLeavingNode(),
      pace: this.#context.pace,
    };
  }

  /** @returns what a step that looks for something has found */
  async #perform(step: Step, record: PodRecord): Promise<Found> {
    switch (step.do) {
      case "find":
        return { do: "find", sandbox: await this.#find(step.pod) };
      case "prove":
        return await this.#prove(step);
      case "inspect":
        return { do: "inspect", isTouched: await this.#parts.isTouched(step.sandbox.netns) };
      case "count-carried":
        return { do: "count-carried", carried: await this.#countCarried(step) };
      case "clear":
        return { do: "clear", isClean: await this.#clear(step, record) };
      default:
        await this.#act(step, record);
        return undefined;
    }
  }

  async #act(
    step: Exclude<Step, { do: "find" | "prove" | "inspect" | "count-carried" | "clear" }>,
    record: PodRecord,
  ): Promise<void> {
    const { annotations, ztunnel } = this.#parts;
    switch (step.do) {
      case "close":
        for (const netns of step.surplus) netns.close();
        return;
      case "hold":
        ztunnel.hold({ uid: record.uid, workload: workloadInfo(step.pod), netns: step.sandbox?.netns });
        return;
      case "tell":
        return tellZtunnel(step, record, this.#parts);
      case "hand-over":
        return await handOver(step, record, this.#parts);
      case "redirect":
        return await redirectPod(step, record, { ...this.#parts, outcomes: this.#context.outcomes });
      case "pass-probes":
        return await this.#passProbes(step, record);
      case "announce":
        return annotations.set(step.pod, "enabled");
      case "conceal":
        return annotations.set(step.pod, null);
      case "open":
        return await this.#open(step, record);
      case "withdraw":
        return await this.#withdraw(record);
      case "restore":
        return await this.#restore(step, record);
      case "forget":
        this.#parts.attachments.forgetPod(record.uid);
        return annotations.forget(record.uid);
      case "settle":
      case "note-concealed":
      case "release":
      case "rest":
        return;
    }
  }

  async #find(pod: PodFacts) {
    const { finder, attachments, bootMs } = this.#parts;
    const place = attachments.placeOf(pod.uid);
    const found = await finder.find(soughtPod(pod), {
      ...(place === undefined ? {} : { place }),
      isOwned: (netnsKey) => this.#context.isOwned(netnsKey, pod.uid),
    });
    // searches of other pods went on meanwhile
    if (found !== undefined && this.#context.isOwned(found.netns.key, pod.uid)) {
      found.netns.close();
      return undefined;
    }
    if (found?.startedMs === undefined) return found;
    return { ...found, startedMs: found.startedMs - bootMs };
  }

  /** A sandbox that has lost all of the pod's addresses was rebuilt behind our back, or is gone. */
  async #prove({ pod, sandbox }: Doing<"prove">): Promise<Found> {
    const held = await this.#parts.finder.held(sandbox.netns, [...sandbox.ips, ...pod.ips]);
    const isOwner = held.length > 0;
    return { do: "prove", isOwner, successor: isOwner ? undefined : await this.#find(pod) };
  }

  /** Connections that ztunnel carries; where the kernel does not say, time alone counts. */
  async #countCarried({ sandbox }: Doing<"count-carried">): Promise<Carried> {
    try {
      const { count, closingCount } = await this.#parts.connections.countThroughZtunnel(sandbox.netns);
      return { count, closingCount };
    } catch {
      return { count: 1, closingCount: 0 };
    }
  }

  /** Lets the host's probes reach the pod past ztunnel. What is wrong with the host's side is the readiness's to say. */
  async #passProbes({ pod, sandbox, redirect }: Doing<"pass-probes">, record: PodRecord): Promise<void> {
    const { finder, probes, probePath, log } = this.#parts;
    let ips: readonly string[] = pod.ips;
    try {
      const held = (asked: readonly string[]) => finder.held(sandbox.netns, asked);
      ips = await probedAddresses({ told: sandbox.ips, status: pod.ips, held });
      await probes.set(pod.uid, ips);
      // in ingress mode inbound connections never meet ztunnel: such a pod would prove nothing
      if (record.sandbox?.netns === sandbox.netns && !sandbox.netns.closed && !redirect.ingressMode)
        probePath.enrolled({ uid: pod.uid, netns: sandbox.netns, addresses: ips });
    } catch (error) {
      log.debug({ uid: pod.uid, ips, err: error }, "the host's probes do not pass yet");
    }
  }

  async #open({ sandbox }: Doing<"open">, { uid }: PodRecord): Promise<void> {
    await this.#parts.probePath.left(uid);
    if (sandbox !== undefined) await this.#parts.redirection.open(sandbox.netns);
  }

  async #withdraw(record: PodRecord): Promise<void> {
    const { ztunnel, probes, probePath, annotations, history, log } = this.#parts;
    const { pod, phase } = record.workload;
    // a pod that goes on without its sandbox must not be called captured; one that is being deleted is known to go
    if (phase.at === "ended" && pod !== undefined && pod.deletionTimestamp !== true)
      annotations.set(pod, null);
    await ztunnel.remove(record.uid);
    record.noteWithdrawn();
    history.step(record.uid, "remove-ztunnel");
    await probePath.left(record.uid);
    try {
      await probes.remove(record.uid);
    } catch (error) {
      log.debug({ uid: record.uid, err: error }, "the host's probes still pass");
    }
    history.step(record.uid, "remove-probes");
  }

  async #restore({ sandbox, reason }: Doing<"restore">, record: PodRecord): Promise<void> {
    const { redirection, history, log } = this.#parts;
    if (sandbox !== undefined) {
      await redirection.remove(sandbox.netns);
      await this.#forgetCarried(sandbox.netns, record.uid);
    }
    history.step(record.uid, "remove-rules");
    const { namespace: ns, name: pod } = record.facts ?? {};
    log.info({ ns, pod, uid: record.uid, netns: sandbox?.netns.key, reason }, "pod left the mesh");
  }

  /** Where the kernel does not let us, a later capture may disturb a connection that meets an old one's ports. */
  async #forgetCarried(netns: Netns, uid: string): Promise<void> {
    const { connections, log } = this.#parts;
    try {
      await connections.forgetCarried(netns);
    } catch (error) {
      log.debug({ uid, netns: netns.key, err: error }, "cannot make the kernel forget what ztunnel carried");
    }
  }

  /** A sandbox that ended or was replaced: our rules go, unless the pod itself was deleted, and the handle is closed. */
  async #clear({ sandbox, keepsRules }: Doing<"clear">, record: PodRecord): Promise<boolean> {
    const { redirection, probePath, log } = this.#parts;
    const { netns } = sandbox;
    let isClean = true;
    // a check of the probes' way may be going on in it
    await probePath.left(record.uid);
    try {
      // a namespace that came back as the pod's current one is not cleared
      if (!keepsRules && netns.key !== record.sandbox?.netns.key) await redirection.remove(netns);
    } catch (error) {
      isClean = false;
      log.warn(
        { uid: record.uid, netns: netns.key, err: error },
        "could not take our rules out of an ended sandbox; they end with its namespace",
      );
    } finally {
      netns.close();
    }
    log.info({ uid: record.uid, netns: netns.key, keepsRules }, "sandbox let go");
    return isClean;
  }

  #settled(record: PodRecord, { sandbox }: Doing<"settle">): void {
    const { log, history } = this.#parts;
    const { namespace: ns, name: pod } = record.facts ?? {};
    const ms = history.runMs(record.uid);
    log.info({ ns, pod, uid: record.uid, netns: sandbox.netns.key, ms }, "pod enrolled");
    this.#context.oncaptured(record);
  }
}

/** Of a captured pod: everybody else waits for something that takes its time. */
function isLook(step: Step): boolean {
  return step.do === "prove" || (step.do === "redirect" && step.isRepair);
}
