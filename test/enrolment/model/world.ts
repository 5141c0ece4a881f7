// SPDX-License-Identifier: Apache-2.0
// A node of fakes around a real Enrolment: kernel, ztunnel, API server and runtime as plain values that note every wrong use.
import { Attachments, type KeptSandbox, type Place } from "../../../src/enrolment/attachments.ts";
import type { EnrolmentPolicy } from "../../../src/enrolment/desired-state.ts";
import { Enrolment } from "../../../src/enrolment/enrolment.ts";
import type { EnrolmentOptions } from "../../../src/enrolment/enrolment-options.ts";
import { PodHistory } from "../../../src/enrolment/pod-history.ts";
import type { Decisions } from "../../../src/enrolment/reconciler.ts";
import type { FoundSandbox } from "../../../src/enrolment/sandbox-finder.ts";
import type { ObjectChange } from "../../../src/kube/object-cache.ts";
import { type NamespaceFacts, type PodFacts, podAnnotations } from "../../../src/kube/pod-facts.ts";
import { defaultSelectors } from "../../../src/kube/selectors.ts";
import type { Netns } from "../../../src/linux/netns.ts";
import { silentLogger } from "../../../src/log/logger.ts";
import type { Drift } from "../../../src/redirection/fingerprint.ts";
import { RedirectionError } from "../../../src/redirection/redirection-error.ts";
import { ZdsError } from "../../../src/ztunnel/zds-error.ts";
import { FakeClock } from "../../support/fake-clock.ts";

/** What of ours is in a namespace: nothing, everything, or all but the jumps that redirect. */
type Rules = "none" | "full" | "open";

/** One sandbox that the runtime made. */
export interface FakeSandbox {
  readonly uid: string;
  readonly key: string;
  readonly containerId: string;
  readonly bornMs: number;
  /** Its interface and addresses are there. */
  lives: boolean;
  /** Its ADD succeeded, so that processes run in it. */
  runs: boolean;
  /** An ADD is under way, and the API server had not told of running containers when it began. */
  isBeingMade: boolean;
  /** The runtime told of it by NRI alone, and tells of its end. */
  isTold: boolean;
  /** A CNI call said that it had ended, and it had not. */
  isDisowned: boolean;
  /** No DEL told of its end. */
  endedUnseen: boolean;
  rules: Rules;
  /** Somebody changed the rules since they were last seen to be right. */
  isTampered: boolean;
  /** Rules were verified in it at least once. */
  wasVerified: boolean;
  /** What rules it has cannot be read. */
  isUnreadable: boolean;
  /** The last look that was to make them right could not read them. */
  isInDoubt: boolean;
  readonly attachments: { readonly network: string; readonly ifname: string }[];
}

/** Something that was asked of a fake and is not answered yet. */
interface Pending {
  readonly what: string;
  readonly go: () => void;
  readonly fail: () => void;
}

const policy: EnrolmentPolicy = {
  selectors: defaultSelectors,
  excludeNamespaces: new Set(),
  systemNamespace: "istio-system",
  agentNamespace: "istio-system",
  dnsCapture: true,
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16::1",
  establishedConnections: "keep",
};

const gap: Drift = {
  kind: "missing-chain",
  family: 4,
  table: "nat",
  chain: "ISTIO_OUTPUT",
  detail: "chain ISTIO_OUTPUT is not there",
};

/** Parts of the product that a test puts a fault into. */
export interface WorldOptions {
  /** The runtime tells of its sandboxes besides CNI. Default false. */
  readonly hasNri?: boolean;
  readonly decisions?: Decisions;
  readonly attachments?: typeof Attachments;
}

/** All of it. What must never be so ends up in `violations`. */
export class World {
  readonly violations: string[] = [];
  readonly clock = new FakeClock(1_000_000);
  readonly pods = new Map<string, PodFacts>();
  readonly sandboxes: FakeSandbox[] = [];
  readonly pending: Pending[] = [];
  readonly acked = new Map<string, string>();
  /** `uid key` of every acknowledgement there ever was. */
  readonly everAcked = new Set<string>();
  readonly annotations = new Map<string, "enabled" | "pending" | null>();
  readonly letGo = new Set<string>();
  isZtunnelThere = false;
  isZtunnelRefusing = false;
  isNamespaceLabelled = true;
  /** Whether the next thing that is asked has to wait for its turn; drawn anew each time. */
  waits: () => boolean = () => false;
  enrolment: Enrolment;
  openHandles = 0;

  readonly #options: WorldOptions;
  readonly #kept = new Map<string, KeptSandbox>();
  readonly #roster = new Map<string, Netns | undefined>();
  readonly #writing = new Set<string>();
  #version = 1;
  #names = 0;
  /** How many handles of a namespace are open, by its key. */
  readonly #handles = new Map<string, number>();
  #onPodChange: (change: ObjectChange<PodFacts>) => void = () => {};
  #onNamespaceChange: (change: ObjectChange<NamespaceFacts>) => void = () => {};
  #zdsEvents: EnrolmentOptions["ztunnel"] | undefined;

  constructor(options: WorldOptions = {}) {
    this.#options = options;
    this.enrolment = this.#makeEnrolment();
  }

  /** Lets everything happen that waits for nothing. */
  settle(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  namespace(): NamespaceFacts {
    const labels: Record<string, string> = this.isNamespaceLabelled
      ? { "istio.io/dataplane-mode": "ambient" }
      : {};
    return { key: "mesh", name: "mesh", uid: "", labels, resourceVersion: String(this.#version) };
  }

  labelNamespace(isLabelled: boolean): void {
    const previous = this.namespace();
    this.isNamespaceLabelled = isLabelled;
    this.#version++;
    this.#onNamespaceChange({ type: "set", current: this.namespace(), previous });
  }

  createPod(uid: string): void {
    this.change(uid, {
      key: uid,
      uid,
      namespace: "mesh",
      name: `pod-${uid}`,
      serviceAccount: "default",
      nodeName: "node-1",
      hostNetwork: false,
      phase: "Pending",
      ips: [],
      labels: {},
      annotations: {},
      containerIds: [],
      resourceVersion: "1",
    });
  }

  /** The API server tells of a change. */
  change(uid: string, facts: Partial<PodFacts>): void {
    const previous = this.pods.get(uid);
    const current = { ...previous, ...facts, resourceVersion: String(++this.#version) } as PodFacts;
    this.pods.set(uid, current);
    this.#onPodChange({ type: "set", current, ...(previous === undefined ? {} : { previous }) });
  }

  deletePod(uid: string): void {
    const previous = this.pods.get(uid);
    if (previous === undefined) return;
    this.pods.delete(uid);
    this.annotations.delete(uid);
    this.#onPodChange({ type: "delete", previous });
  }

  makeSandbox(uid: string): FakeSandbox {
    const number = ++this.#names;
    const sandbox: FakeSandbox = {
      uid,
      key: this.#freeKey(),
      containerId: `c${number}`,
      bornMs: this.clock.nowMs(),
      lives: true,
      runs: false,
      isBeingMade: false,
      isTold: false,
      isDisowned: false,
      endedUnseen: false,
      rules: "none",
      isTampered: false,
      wasVerified: false,
      isUnreadable: false,
      isInDoubt: false,
      attachments: [],
    };
    this.sandboxes.push(sandbox);
    return sandbox;
  }

  /** The lowest number that nobody has: the kernel gives one again as soon as the last handle of its namespace is closed. */
  #freeKey(): string {
    const inUse = new Set([...this.#handles.keys(), ...this.acked.values()]);
    for (const { key, lives } of this.sandboxes) if (lives) inUse.add(key);
    let number = 1;
    while (inUse.has(`4:${number}`)) number++;
    return `4:${number}`;
  }

  /** The newest sandbox of a pod, alive or not. */
  newest(uid: string): FakeSandbox | undefined {
    return this.sandboxes.findLast((sandbox) => sandbox.uid === uid);
  }

  living(uid: string): FakeSandbox | undefined {
    return this.sandboxes.findLast((sandbox) => sandbox.uid === uid && sandbox.lives);
  }

  isWanted(uid: string): boolean {
    const pod = this.pods.get(uid);
    if (pod === undefined || pod.phase === "Failed" || pod.phase === "Succeeded") return false;
    const label = pod.labels["istio.io/dataplane-mode"];
    return label === "ambient" || (label !== "none" && this.isNamespaceLabelled);
  }

  /** What the runtime says of a sandbox. */
  placeOf({ uid, key, containerId }: FakeSandbox): Place {
    return {
      uid,
      namespace: "mesh",
      name: `pod-${uid}`,
      containerId,
      netnsPath: `/var/run/netns/${containerId}`,
      netnsKey: key,
      ips: [`10.0.0.${key.slice(2)}`],
    };
  }

  /** The runtime tells of a sandbox without an ADD, waits a second, and has its containers run whatever comes of it. */
  async tell(sandbox: FakeSandbox): Promise<void> {
    const pod = this.pods.get(sandbox.uid);
    if (pod === undefined) return;
    const { uid, key, containerId } = sandbox;
    sandbox.isBeingMade = pod.phase !== "Running";
    const outcome = await this.enrolment
      .add({
        pod,
        namespace: this.namespace(),
        place: { ...this.placeOf(sandbox), toldBy: "nri" },
        attachment: { network: "", ifname: "", containerId },
        open: () => this.#openHandle(key),
        patience: { waitMs: this.isZtunnelThere ? 1_000 : 0 },
      })
      .catch(() => "passed");
    if (outcome === "enrolled" && !this.everAcked.has(`${uid} ${key}`))
      this.violations.push(`the runtime was told that ${key} is captured without an acknowledgement for it`);
    sandbox.isBeingMade = false;
    sandbox.isTold = true;
    sandbox.runs = true;
  }

  /** ADD of one attachment, as the launcher relays it. Settles when the agent has answered. */
  async add(sandbox: FakeSandbox, attachment: { network: string; ifname: string }): Promise<boolean> {
    const pod = this.pods.get(sandbox.uid);
    if (pod === undefined) return false;
    const { uid, key, containerId } = sandbox;
    sandbox.isBeingMade = pod.phase !== "Running";
    try {
      const outcome = await this.enrolment.add({
        pod,
        namespace: this.namespace(),
        place: this.placeOf(sandbox),
        attachment: { ...attachment, containerId },
        open: () => this.#openHandle(key),
      });
      if (outcome === "enrolled" && !this.everAcked.has(`${uid} ${key}`))
        this.violations.push(`ADD of ${key} succeeded without an acknowledgement for it`);
      if (outcome === "enrolled" && !sandbox.wasVerified)
        this.violations.push(`ADD of ${key} succeeded, and its rules were never verified`);
      sandbox.attachments.push(attachment);
      sandbox.runs = true;
      return true;
    } catch {
      return false;
    } finally {
      sandbox.isBeingMade = false;
    }
  }

  connectZtunnel(): void {
    if (this.isZtunnelThere) return;
    this.isZtunnelThere = true;
    this.#zdsEvents?.onchange({ type: "connected", connections: 1 });
    this.acked.clear();
    for (const [uid, netns] of this.#roster) if (netns !== undefined && !netns.closed) this.#ack(uid, netns);
    this.#zdsEvents?.onchange({ type: "snapshot", connections: 1 });
  }

  disconnectZtunnel(): void {
    if (!this.isZtunnelThere) return;
    this.isZtunnelThere = false;
    this.acked.clear();
    this.#zdsEvents?.onchange({ type: "disconnected", connections: 0 });
  }

  /** The agent ends, well, and another one begins. */
  async restart(): Promise<void> {
    const stopped = this.enrolment.stop();
    while (this.pending.length > 0) {
      this.pending.shift()?.go();
      await this.settle();
    }
    await stopped;
    if (this.openHandles !== 0)
      this.violations.push(`${this.openHandles} handles are open after the agent's end`);
    this.disconnectZtunnel();
    this.#roster.clear();
    this.#writing.clear();
    this.enrolment = this.#makeEnrolment();
    const started = this.enrolment.start();
    await this.settle();
    while (this.pending.length > 0) {
      this.pending.shift()?.go();
      await this.settle();
    }
    await started;
  }

  #makeEnrolment(): Enrolment {
    const { clock } = this;
    const keeper = {
      save: (sandbox: KeptSandbox) => void this.#kept.set(sandbox.place.containerId, sandbox),
      remove: (containerId: string) => void this.#kept.delete(containerId),
    };
    const { decisions, attachments: Owner = Attachments } = this.#options;
    const ztunnel = this.#ztunnel();
    this.#zdsEvents = ztunnel;
    return new Enrolment({
      node: this.#node(),
      finder: this.#finder(),
      redirection: this.#redirection(),
      isTouched: async (netns) => {
        this.#use(netns, "isTouched");
        return this.#of(netns).rules !== "none";
      },
      connections: {
        countEarlier: async () => ({ count: 0, isCapped: false }),
        resetEarlier: async () => ({ outcome: "reset", count: 0, isCapped: false }),
        countThroughZtunnel: async () => ({ count: 0, closingCount: 0, isCapped: false }),
        forgetCarried: async () => 0,
        forgetFrozen: async () => 0,
      },
      portHolders: async () => [],
      attachments: new Owner({ log: silentLogger, keeper, kept: [...this.#kept.values()] }),
      ztunnel,
      annotations: this.#annotations(),
      events: {
        record: (pod, { reason }) => {
          const sandbox = this.sandboxes.find(
            ({ key }) => key === this.enrolment.record(pod.uid)?.sandbox?.netns.key,
          );
          if (reason === "AmbientRepaired" && !this.#wasTampered(pod.uid))
            this.violations.push(`a repair of ${sandbox?.key} was told that nobody made necessary`);
        },
      },
      probes: {
        start: async () => {},
        restore: async () => {},
        set: () => this.#ask("probes.set"),
        remove: () => this.#ask("probes.remove"),
      },
      probePath: { enrolled: () => {}, left: async () => {} },
      history: new PodHistory({ now: () => clock.nowMs() }),
      policy,
      log: silentLogger,
      clock,
      bootMs: 0,
      random: () => 0.5,
      reconcileIntervalMs: 30_000,
      ztunnelWaitMs: 20_000,
      pace: { leavePauseMs: 500, leaveDrainMs: 2_000 },
      ...(decisions === undefined ? {} : { decisions }),
    });
  }

  #node(): EnrolmentOptions["node"] {
    return {
      pods: {
        values: () => this.pods.values(),
        get: (uid) => this.pods.get(uid),
        hasListedSince: () => false,
        onlist: () => {},
      },
      onsetback: () => {},
      pod: (uid) => this.pods.get(uid),
      podByName: (_, name) => [...this.pods.values()].find((pod) => pod.name === name),
      namespace: () => this.namespace(),
      isFresh: () => true,
      onPodChange: (listener) => {
        this.#onPodChange = listener;
        return () => {};
      },
      onNamespaceChange: (listener) => {
        this.#onNamespaceChange = listener;
        return () => {};
      },
    };
  }

  #finder(): EnrolmentOptions["finder"] {
    return {
      find: async (pod, { place, isOwned = () => false } = {}) => {
        await this.#ask("find");
        const living = this.living(pod.uid);
        const sandbox = pod.ips.length === 0 && place?.netnsKey !== living?.key ? undefined : living;
        if (sandbox === undefined || !sandbox.runs || isOwned(sandbox.key)) return undefined;
        const { key, containerId, bornMs } = sandbox;
        const found: FoundSandbox = {
          netns: this.#openHandle(key),
          containerId,
          ips: [],
          isNew: false,
          startedMs: bornMs,
          source: "proc",
        };
        return found;
      },
      stands: ({ uid, containerId }) => this.living(uid)?.containerId === containerId,
      held: async (netns, ips) => {
        this.#use(netns, "held");
        return this.#of(netns).lives ? [...ips] : [];
      },
    };
  }

  #redirection(): EnrolmentOptions["redirection"] {
    return {
      apply: async (netns) => {
        this.#use(netns, "apply");
        const sandbox = this.#of(netns);
        const { uid, key } = sandbox;
        // what was captured once may be mended without asking; a running pod must be known to ztunnel before its first rule
        const isRunning = sandbox.runs && !sandbox.isBeingMade && this.pods.get(uid)?.phase === "Running";
        if (sandbox.rules !== "full" && isRunning && !sandbox.wasVerified && this.acked.get(uid) !== key)
          this.violations.push(`rules lead running pod ${uid} to a ztunnel that has not acknowledged ${key}`);
        await this.#ask("apply");
        this.#use(netns, "apply");
        sandbox.isInDoubt = sandbox.isUnreadable;
        if (sandbox.isUnreadable) throw unreadable();
        const isChanged = sandbox.rules !== "full";
        sandbox.rules = "full";
        sandbox.wasVerified = true;
        return {
          changed: isChanged,
          writes: isChanged ? 1 : 0,
          repaired: isChanged ? [gap] : [],
          skippedFamilies: [],
          durationMs: 0,
        };
      },
      searchAgain: () => {},
      untilUp: async (netns) => {
        this.#use(netns, "look at");
        await this.#ask("look at");
      },
      open: async (netns) => {
        await this.#change(netns, "open");
        return { changed: true };
      },
      remove: async (netns) => {
        await this.#change(netns, "none");
        return { changed: true };
      },
    };
  }

  async #change(netns: Netns, rules: "open" | "none"): Promise<void> {
    this.#use(netns, rules);
    await this.#ask(rules);
    this.#use(netns, rules);
    const sandbox = this.#of(netns);
    if (sandbox.isUnreadable) throw unreadable();
    if (sandbox.rules !== "none") sandbox.rules = rules;
    sandbox.wasVerified = false;
    sandbox.isTampered = false;
  }

  #ztunnel(): EnrolmentOptions["ztunnel"] {
    const world = this;
    return {
      onchange: () => {},
      get connectionCount() {
        return world.isZtunnelThere ? 1 : 0;
      },
      get podCount() {
        return world.#roster.size;
      },
      acknowledged: (uid) => this.acked.get(uid),
      hold: ({ uid, netns }) => {
        this.#roster.set(uid, netns);
        this.letGo.delete(uid);
      },
      withdraw: (uid) => void this.#roster.delete(uid),
      add: async ({ uid, netns }) => {
        this.#roster.set(uid, netns);
        this.letGo.delete(uid);
        if (!this.isZtunnelThere) throw new ZdsError("NO_CONNECTION", "no ztunnel connection");
        await this.#ask("add", () => new ZdsError("DISCONNECTED", "ztunnel closed its connection"));
        if (!this.isZtunnelThere) throw new ZdsError("DISCONNECTED", "ztunnel closed its connection");
        if (this.isZtunnelRefusing) throw new ZdsError("NACK", "ztunnel refused: no");
        if (netns === undefined || this.#roster.get(uid) !== netns)
          throw new ZdsError("SUPERSEDED", "the pod was removed or changed meanwhile");
        if (netns.closed) throw new ZdsError("SUPERSEDED", "the pod's namespace is gone");
        this.#ack(uid, netns);
      },
      remove: async (uid) => {
        const servedKey = this.#roster.get(uid)?.key ?? this.acked.get(uid);
        this.#roster.delete(uid);
        this.letGo.add(uid);
        if (this.#mustStay(uid, servedKey))
          this.violations.push(`${uid} was let go, and its sandbox lives and is attached`);
        // never rejects: a ztunnel that did not hear it has lost its connection
        await this.#ask("remove").catch(() => {});
        this.acked.delete(uid);
      },
    };
  }

  #ack(uid: string, { key }: Netns): void {
    if (this.isZtunnelRefusing) return;
    this.acked.set(uid, key);
    this.everAcked.add(`${uid} ${key}`);
  }

  #annotations(): EnrolmentOptions["annotations"] {
    return {
      set: ({ uid }, value) => {
        if (!this.pods.has(uid) || (this.annotations.get(uid) ?? null) === value) return;
        this.annotations.set(uid, value);
        this.#writing.add(uid);
        void this.#ask("annotate").then(
          () => this.#written(uid),
          () => this.#written(uid),
        );
      },
      forget: (uid) => void this.#writing.delete(uid),
      forgetVersions: () => {},
      isWriting: (uid) => this.#writing.has(uid),
      isAnnotated: ({ uid }) => (this.annotations.get(uid) ?? null) !== null,
    };
  }

  #written(uid: string): void {
    this.#writing.delete(uid);
    const value = this.annotations.get(uid) ?? null;
    if (!this.pods.has(uid)) return;
    this.change(uid, { annotations: value === null ? {} : { [podAnnotations.redirection]: value } });
  }

  /** Answers now, or when the sequence says so; then well or with a failure. */
  #ask(what: string, failure = () => new Error(`${what} failed`)): Promise<void> {
    if (!this.waits()) return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.pending.push({ what, go: resolve, fail: () => reject(failure()) });
    return promise;
  }

  #openHandle(key: string): Netns {
    const world = this;
    this.openHandles++;
    this.#handles.set(key, (this.#handles.get(key) ?? 0) + 1);
    let isClosed = false;
    const handle = {
      fd: 3,
      key,
      get closed() {
        return isClosed;
      },
      close() {
        if (isClosed) world.violations.push(`a handle of ${key} was closed twice`);
        else world.#closed(key);
        isClosed = true;
      },
    };
    return handle as unknown as Netns;
  }

  #closed(key: string): void {
    this.openHandles--;
    const left = (this.#handles.get(key) ?? 0) - 1;
    if (left > 0) this.#handles.set(key, left);
    else this.#handles.delete(key);
  }

  #use(netns: Netns, what: string): void {
    if (netns.closed) this.violations.push(`${what} on a closed handle of ${netns.key}`);
  }

  #of({ key }: Netns): FakeSandbox {
    return this.sandboxes.findLast((sandbox) => sandbox.key === key) as FakeSandbox;
  }

  /** A wanted pod whose sandbox lives, and of whose attachments no CNI call has ended the last. */
  #mustStay(uid: string, servedKey: string | undefined): boolean {
    const sandbox = this.living(uid);
    if (
      sandbox === undefined ||
      sandbox.key !== servedKey ||
      !sandbox.runs ||
      sandbox.isDisowned ||
      !this.isWanted(uid)
    )
      return false;
    return sandbox.attachments.length > 0;
  }

  #wasTampered(uid: string): boolean {
    const tampered = this.sandboxes.filter((sandbox) => sandbox.uid === uid && sandbox.isTampered);
    for (const sandbox of tampered) sandbox.isTampered = false;
    return tampered.length > 0;
  }
}

function unreadable(): RedirectionError {
  return new RedirectionError("UNSTEADY", "the rules changed whenever they were read");
}
