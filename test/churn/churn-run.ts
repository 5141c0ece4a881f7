// SPDX-License-Identifier: Apache-2.0
// Carries operations out on a node. Their order is kept for each pod and each peer; apart from that they overlap.
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import type { ObjectMeta } from "../support/api-server/objects.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import { KubeletPod } from "./kubelet-pod.ts";
import { NodeModel, namespaceModes, namespaceOf, podSlots } from "./node-model.ts";
import type { Mode, NamespaceOperation, Operation, Overrides, PodOperation } from "./operations.ts";
import { Peers } from "./peers.ts";
import { WorkChain, WorkLimit } from "./work-chain.ts";

const modeLabel = "istio.io/dataplane-mode";
/** Operations that may be under way at once; without a bound all outages would be over before the pods are worked on. */
const maxUnderWay = 8;
const maxSandboxesAtOnce = 3;
/** An ADD waits 5 s for the agent and 2 s for ztunnel; kubelet's next try may have to wait again. */
const longestOperationMs = 60_000;

interface Slot {
  /** What happens to the object of that name. */
  readonly objects: WorkChain;
  pod: KubeletPod | undefined;
}

/** A node, what happened to it, and what should have become of it. */
export class ChurnRun {
  readonly mesh: MeshNode;
  readonly peers: Peers;
  readonly model = new NodeModel();
  /** UIDs by the inode numbers of their sandboxes' namespaces, those of long ago too. */
  readonly sandboxes = new Map<string, string>();
  readonly #slots: readonly Slot[];
  readonly #namespaces = new Map<string, WorkChain>();
  readonly #limit = new WorkLimit(maxSandboxesAtOnce);
  /** What is under way, with the words for it. */
  readonly #underWay = new Map<Promise<void>, string>();
  readonly #lingering: KubeletPod[] = [];
  readonly #failures: Error[] = [];

  constructor(mesh: MeshNode) {
    this.mesh = mesh;
    this.peers = new Peers(mesh);
    this.#slots = Array.from({ length: podSlots }, () => ({ objects: new WorkChain(), pod: undefined }));
    for (const [name, mode] of namespaceModes) {
      this.#namespaces.set(name, new WorkChain());
      this.#createNamespace(name, mode);
    }
  }

  /** The pod a slot has now. */
  pod(slot: number): KubeletPod | undefined {
    return this.#slots[slot]?.pod;
  }

  /** Begins an operation; waits only when too many are under way. @throws Error when the harness failed at an earlier one */
  async begin(operation: Operation): Promise<void> {
    this.model.apply(operation);
    this.#track(this.#dispatch(operation), JSON.stringify(operation));
    await nextTurn();
    await this.#untilUnderWay(maxUnderWay - 1);
  }

  /** Waits until every operation has been carried out. */
  async finish(): Promise<void> {
    await this.#untilUnderWay(0);
  }

  /** Takes down the sandboxes that have outlived their pods' objects. */
  endLingering(): void {
    for (const pod of this.#lingering.splice(0))
      this.#track(pod.end(true), `end of ${pod.name} (${pod.uid})`);
  }

  #track(work: Promise<void>, what: string): void {
    const tracked = work
      .catch((error: Error) => void this.#failures.push(error))
      .finally(() => this.#underWay.delete(tracked));
    this.#underWay.set(tracked, what);
  }

  /** @throws Error naming what does not end */
  async #untilUnderWay(count: number): Promise<void> {
    const late = new AbortController();
    const deadline = delay(longestOperationMs, "late" as const, { signal: late.signal }).catch(
      () => "late" as const,
    );
    while (this.#underWay.size > count) {
      if (this.peers.faults.length > 0) throw new Error("a peer ended by itself");
      const first = await Promise.race([...this.#underWay.keys(), deadline]);
      if (first !== "late") continue;
      const stuck = [...this.#underWay.values()].map((what) => `  ${what}`);
      throw new Error(
        `${stuck.length} operations did not end in ${longestOperationMs} ms:\n${stuck.join("\n")}`,
      );
    }
    late.abort();
    this.#throwFailure();
  }

  #throwFailure(): void {
    const [first] = this.#failures;
    if (first !== undefined) throw first;
  }

  #dispatch(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case "agent":
      case "ztunnel":
      case "api":
        return this.peers.change(operation);
      case "label-namespace":
        return this.#namespace(operation.namespace).run(async () => this.#labelNamespace(operation));
      case "replace-namespace":
        return this.#replaceNamespace(operation);
      default: {
        const slot = this.#slots[operation.pod] as Slot;
        return slot.objects.run(async () => this.#changePod(slot, operation));
      }
    }
  }

  #namespace(name: string): WorkChain {
    return this.#namespaces.get(name) as WorkChain;
  }

  #createNamespace(name: string, mode: Mode): void {
    this.mesh.kubelet.createNamespace(name, mode === null ? {} : { [modeLabel]: mode });
  }

  #labelNamespace({ namespace, mode }: NamespaceOperation): void {
    this.mesh.kubelet.labelNamespace(namespace, { [modeLabel]: mode });
  }

  #replaceNamespace({ namespace, mode }: NamespaceOperation): Promise<void> {
    const chains = this.#slots
      .filter((_, slot) => namespaceOf(slot) === namespace)
      .map((slot) => slot.objects);
    const before = Promise.all(chains.map((chain) => chain.idle()));
    const done = this.#namespace(namespace).run(async () => {
      await before;
      this.mesh.api.delete("namespaces", namespace);
      this.#createNamespace(namespace, mode);
      for (const [index, slot] of this.#slots.entries()) {
        if (namespaceOf(index) !== namespace || slot.pod === undefined) continue;
        this.#track(slot.pod.end(true), `end of ${slot.pod.name} (${slot.pod.uid})`);
        slot.pod = undefined;
      }
    });
    for (const chain of chains) chain.join(done);
    return done;
  }

  #changePod(slot: Slot, operation: PodOperation): Promise<void> | void {
    if (operation.kind === "create") return this.#create(slot, operation);
    const { pod } = slot;
    if (pod === undefined) throw new Error(`There is no pod in slot ${operation.pod}`);
    switch (operation.kind) {
      case "delete":
      case "force-delete":
        slot.pod = undefined;
        return operation.kind === "delete"
          ? this.#delete(pod, operation.seen)
          : this.#forceDelete(pod, operation);
      case "finish":
        this.#track(pod.finish(operation), JSON.stringify(operation));
        return;
      case "rebuild":
        this.#track(pod.rebuild(operation), JSON.stringify(operation));
        return;
      case "alter":
        this.#track(pod.alter(operation.how, operation.family), JSON.stringify(operation));
        return;
      default:
        this.#edit(pod, ({ metadata }) => editMetadata(metadata, operation));
    }
  }

  async #delete(pod: KubeletPod, seen: boolean): Promise<void> {
    this.#edit(pod, ({ metadata }) => {
      metadata.deletionTimestamp = new Date().toISOString();
    });
    await pod.end(seen);
    this.mesh.api.delete("pods", pod.name, pod.namespace);
  }

  #forceDelete(pod: KubeletPod, { lingers }: PodOperation & { kind: "force-delete" }): void {
    this.mesh.api.delete("pods", pod.name, pod.namespace);
    if (lingers) this.#lingering.push(pod);
    else this.#track(pod.end(true), `end of ${pod.name} (${pod.uid})`);
  }

  #create(slot: Slot, operation: PodOperation & { kind: "create" }): void {
    const { mesh } = this;
    const { uid, seen, foreign, mode, overrides } = operation;
    const name = `pod-${operation.pod}`;
    const namespace = namespaceOf(operation.pod);
    const labels = withValue({ app: name }, modeLabel, mode);
    mesh.api.put("pods", {
      metadata: { name, namespace, uid, labels, annotations: withOverrides({}, overrides) },
      spec: {
        nodeName: "node-1",
        serviceAccountName: "default",
        containers: [{ name: "app", image: "app" }],
      },
      status: { phase: "Pending" },
    });
    const onSandbox = (inode: number): void => void this.sandboxes.set(String(inode), uid);
    slot.pod = new KubeletPod({ mesh, name, namespace, uid, limit: this.#limit, onSandbox });
    this.#track(slot.pod.start({ seen, foreign }), `start of ${name} (${uid})`);
  }

  #edit(pod: KubeletPod, change: Parameters<MeshNode["api"]["edit"]>[2]): void {
    this.mesh.api.edit("pods", { name: pod.name, namespace: pod.namespace }, change);
  }
}

function editMetadata(
  metadata: ObjectMeta,
  operation: Extract<PodOperation, { kind: "label" | "annotate" | "sidecar" }>,
): void {
  if (operation.kind === "label") metadata.labels = withValue(metadata.labels, modeLabel, operation.mode);
  else if (operation.kind === "annotate")
    metadata.annotations = withOverrides(metadata.annotations, operation.overrides);
  else {
    const value = operation.on ? "{}" : null;
    metadata.annotations = withValue(metadata.annotations, "sidecar.istio.io/status", value);
  }
}

function withValue(
  map: Readonly<Record<string, string>> | undefined,
  key: string,
  value: string | null,
): Record<string, string> {
  const { [key]: _, ...rest } = map ?? {};
  return value === null ? rest : { ...rest, [key]: value };
}

function withOverrides(
  annotations: Readonly<Record<string, string>> | undefined,
  { dnsCapture, ingress, interfaces }: Overrides,
): Record<string, string> {
  let all = withValue(annotations, "ambient.istio.io/dns-capture", dnsCapture);
  all = withValue(all, "ambient.istio.io/bypass-inbound-capture", ingress);
  return withValue(all, "istio.io/reroute-virtual-interfaces", interfaces);
}
