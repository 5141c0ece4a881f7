// SPDX-License-Identifier: Apache-2.0
// Makes the operations of a churn from a seed. A longer plan of the same seed begins with the shorter one.
import { NodeModel, namespaceModes, podSlots } from "./node-model.ts";
import {
  type AlterationName,
  alterations,
  apiFaults,
  type Mode,
  type Operation,
  type Overrides,
} from "./operations.ts";
import { SeededRandom } from "./random.ts";

const weights: Readonly<Record<Operation["kind"], number>> = {
  create: 16,
  delete: 7,
  "force-delete": 3,
  finish: 2,
  rebuild: 8,
  label: 18,
  annotate: 6,
  sidecar: 2,
  alter: 16,
  "label-namespace": 3,
  "replace-namespace": 1,
  agent: 4,
  ztunnel: 4,
  api: 10,
};

/** A fuller node while there is room: deletions come in bursts with their namespaces. */
const createWhenEmpty = 40;

/** The first `count` operations of a seed. */
export function planChurn(seed: number, count: number): Operation[] {
  const random = new SeededRandom(seed);
  const model = new NodeModel();
  const operations: Operation[] = [];
  while (operations.length < count) {
    const operation = nextOperation(random, model, `${seed}-${operations.length}`);
    if (operation === undefined) continue;
    model.apply(operation);
    operations.push(operation);
  }
  return operations;
}

/** @returns undefined when there is nothing the drawn kind could happen to */
function nextOperation(random: SeededRandom, model: NodeModel, id: string): Operation | undefined {
  const absent = Array.from({ length: podSlots }, (_, slot) => slot).filter((slot) => !model.pods.has(slot));
  const kind = random.weighted({
    ...weights,
    create: absent.length > podSlots / 2 ? createWhenEmpty : weights.create,
  });
  switch (kind) {
    case "agent":
      return {
        kind,
        signal: random.chance(50) ? "SIGTERM" : "SIGKILL",
        awayMs: random.pick([0, 0, 50, 300]),
      };
    case "ztunnel":
      return {
        kind,
        how: random.pick(["kill", "terminate", "overlap-new-stays", "overlap-old-stays", "reconnect"]),
        ms: random.pick([0, 50, 300, 800]),
      };
    case "api":
      return { kind, how: random.pick(apiFaults), ms: random.pick([50, 150, 400]) };
    case "label-namespace":
    case "replace-namespace":
      return { kind, namespace: random.pick([...namespaceModes.keys()]), mode: mode(random) };
    case "create":
      if (absent.length === 0) return undefined;
      return {
        kind,
        pod: random.pick(absent),
        uid: uidOf(id),
        mode: mode(random),
        overrides: random.chance(25) ? overrides(random) : noOverrides,
        seen: random.chance(80),
        foreign: random.chance(20),
      };
    default:
      return podOperation(kind, random, model);
  }
}

type ExistingPodKind = Exclude<
  Operation["kind"],
  "create" | "agent" | "ztunnel" | "api" | "label-namespace" | "replace-namespace"
>;

function podOperation(kind: ExistingPodKind, random: SeededRandom, model: NodeModel): Operation | undefined {
  const running = [...model.pods.values()].filter((pod) => !pod.finished);
  // those that have finished can only be deleted, or change their labels
  const eligible = ["delete", "force-delete", "label"].includes(kind) ? [...model.pods.values()] : running;
  if (eligible.length === 0) return undefined;
  const pod = random.pick(eligible).slot;
  switch (kind) {
    case "delete":
      return { kind, pod, seen: random.chance(75) };
    case "force-delete":
      return { kind, pod, lingers: random.chance(40) };
    case "finish":
      return { kind, pod, sandboxStays: random.chance(50) };
    case "rebuild":
      return {
        kind,
        pod,
        delSeen: random.chance(60),
        addSeen: random.chance(60),
        newFirst: random.chance(30),
      };
    case "label":
      return { kind, pod, mode: mode(random) };
    case "annotate":
      return { kind, pod, overrides: overrides(random) };
    case "sidecar":
      return { kind, pod, on: !(model.pods.get(pod)?.sidecar ?? false) };
    case "alter":
      return {
        kind,
        pod,
        how: random.pick(Object.keys(alterations) as AlterationName[]),
        family: random.chance(50) ? 4 : 6,
      };
  }
}

const noOverrides: Overrides = { dnsCapture: null, ingress: null, interfaces: null };

function overrides(random: SeededRandom): Overrides {
  return {
    dnsCapture: random.pick([null, "true", "false"]),
    ingress: random.pick([null, null, "true"]),
    interfaces: random.pick([null, null, "tap0", "tap0,tap1"]),
  };
}

function mode(random: SeededRandom): Mode {
  return random.pick(["ambient", "ambient", "none", null]);
}

/** A UID that tells where it comes from: `…-seed-operation`. */
function uidOf(id: string): string {
  const [seed = "", index = ""] = id.split("-");
  return `c0de0000-0000-4000-8${seed.padStart(3, "0").slice(-3)}-${index.padStart(12, "0")}`;
}
