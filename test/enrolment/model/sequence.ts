// SPDX-License-Identifier: Apache-2.0
// Random sequences of what can happen to a node, the claims that hold after each step, and the shortest sequence that breaks one.
import { type FakeSandbox, World, type WorldOptions } from "./world.ts";

/** One thing that happens; `which` chooses among what there is at that moment. */
export interface Action {
  readonly name: ActionName;
  readonly which: number;
}

const uids = ["a", "b"];
const eth0 = { network: "podnet", ifname: "eth0" };
const net1 = { network: "storage", ifname: "net1" };

type ActionName = keyof typeof actions;

/** Calls of the runtime that are not answered yet. */
class Runtime {
  readonly adds = new Set<Promise<unknown>>();
  /** Sandboxes that get a second interface. */
  readonly plugging = new Set<FakeSandbox>();

  start(add: Promise<unknown>): void {
    const done = add.finally(() => this.adds.delete(done));
    this.adds.add(done);
  }
}

interface Scene {
  readonly world: World;
  readonly runtime: Runtime;
  readonly which: number;
  readonly uid: string;
}

function addressOf({ key }: FakeSandbox): string {
  return `10.0.0.${key.slice(2)}`;
}

/** Kubelet tells what it sees of a pod. */
function report({ world }: Pick<Scene, "world">, uid: string): void {
  const sandbox = world.living(uid);
  if (!world.pods.has(uid)) return;
  world.change(uid, sandbox?.runs === true ? { phase: "Running", ips: [addressOf(sandbox)] } : { ips: [] });
}

/** The runtime ends a sandbox: DEL, then the other plugins take its interface. */
function endSandbox({ world }: Pick<Scene, "world">, sandbox: FakeSandbox): void {
  // its chain lacks us, so that there is no DEL
  if (sandbox.isTold && sandbox.attachments.length === 0) {
    world.enrolment.gone(world.placeOf(sandbox));
    sandbox.lives = false;
    return;
  }
  // a runtime sends the DEL of a sandbox whose ADD nobody heard as well
  const attached = sandbox.attachments.length > 0 ? sandbox.attachments.splice(0) : [eth0];
  for (const attachment of attached)
    void world.enrolment.remove({
      ...attachment,
      containerId: sandbox.containerId,
      uid: sandbox.uid,
      netnsKey: sandbox.key,
    });
  sandbox.lives = false;
}

const actions = {
  create: ({ world, uid }: Scene) => {
    if (!world.pods.has(uid)) world.createPod(uid);
  },
  sandbox: ({ world, runtime, uid }: Scene) => {
    if (!world.pods.has(uid)) world.createPod(uid);
    const former = world.living(uid);
    if (former !== undefined) {
      if (!former.runs) return;
      endSandbox({ world }, former);
    }
    const sandbox = world.makeSandbox(uid);
    runtime.start(
      world.add(sandbox, eth0).then((isMade) => {
        if (isMade) return;
        // the runtime takes down what it could not set up
        sandbox.attachments.push(eth0);
        endSandbox({ world }, sandbox);
      }),
    );
  },
  // the chain lacks us, and the runtime tells of the sandbox
  toldSandbox: ({ world, runtime, uid }: Scene) => {
    if (!world.pods.has(uid)) world.createPod(uid);
    const former = world.living(uid);
    if (former !== undefined) {
      if (!former.runs) return;
      endSandbox({ world }, former);
    }
    runtime.start(world.tell(world.makeSandbox(uid)));
  },
  // of every sandbox that is there, as to a plugin that has just registered
  synchronize: ({ world }: Scene) => {
    const unheard = world.sandboxes.filter(
      (sandbox) => sandbox.lives && sandbox.runs && sandbox.attachments.length === 0 && !sandbox.isTold,
    );
    for (const sandbox of unheard) {
      sandbox.isTold = true;
      world.enrolment.told([{ ...world.placeOf(sandbox), toldBy: "nri" }]);
    }
  },
  // one at a time, as a runtime does. Source: CNI spec 1.1, "Lifecycle & Ordering"
  secondInterface: ({ world, runtime, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox?.runs !== true || sandbox.attachments.length !== 1 || runtime.plugging.has(sandbox)) return;
    runtime.plugging.add(sandbox);
    runtime.start(
      world.add(sandbox, net1).then((isMade) => {
        runtime.plugging.delete(sandbox);
        if (isMade && !sandbox.lives) endSandbox({ world }, sandbox);
      }),
    );
  },
  unplug: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox === undefined || sandbox.attachments.length < 2) return;
    sandbox.attachments.pop();
    const { containerId, key } = sandbox;
    void world.enrolment.remove({ ...net1, containerId, uid, netnsKey: key });
  },
  status: (scene: Scene) => report(scene, scene.uid),
  end: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox?.runs === true) endSandbox({ world }, sandbox);
  },
  // the runtime was restored, or called no plugin of ours
  rebuildUnseen: ({ world, uid }: Scene) => {
    const former = world.living(uid);
    if (!world.pods.has(uid) || former?.runs === false) return;
    if (former !== undefined) {
      former.lives = false;
      former.endedUnseen = true;
    }
    world.makeSandbox(uid).runs = true;
    report({ world }, uid);
  },
  lateDel: ({ world, uid }: Scene) => {
    const gone = world.sandboxes.find((sandbox) => sandbox.uid === uid && !sandbox.lives);
    if (gone !== undefined)
      void world.enrolment.remove({ ...eth0, containerId: gone.containerId, uid, netnsKey: undefined });
  },
  strangeDel: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox === undefined) return;
    const { containerId, key } = sandbox;
    void world.enrolment.remove({ network: "podnet", ifname: "net7", containerId, uid, netnsKey: key });
  },
  falseDel: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox?.runs !== true) return;
    const { containerId, key } = sandbox;
    sandbox.isDisowned = true;
    for (const attachment of sandbox.attachments)
      void world.enrolment.remove({ ...attachment, containerId, uid, netnsKey: key });
  },
  collect: ({ world, which }: Scene) => {
    const network = which % 3 === 0 ? "podnet" : which % 3 === 1 ? "storage" : "elsewhere";
    const valid = world.sandboxes
      .filter(({ lives }) => lives)
      .flatMap(({ attachments, containerId }) =>
        attachments.filter((each) => each.network === network).map(({ ifname }) => ({ containerId, ifname })),
      );
    world.enrolment.keepOnly(network, valid);
  },
  check: ({ world, uid }: Scene) => {
    const { containerId = "", key } = world.living(uid) ?? {};
    world.enrolment.check({ ...eth0, containerId, uid, netnsKey: key });
  },
  labelPod: ({ world, uid, which }: Scene) => {
    const labels = [{}, { "istio.io/dataplane-mode": "none" }, { "istio.io/dataplane-mode": "ambient" }];
    if (world.pods.has(uid)) world.change(uid, { labels: labels[which % 3] as Record<string, string> });
  },
  labelNamespace: ({ world }: Scene) => world.labelNamespace(!world.isNamespaceLabelled),
  terminate: ({ world, uid }: Scene) => {
    if (world.pods.has(uid)) world.change(uid, { deletionTimestamp: true });
  },
  delete: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox !== undefined && !sandbox.runs) return;
    if (sandbox !== undefined) endSandbox({ world }, sandbox);
    world.deletePod(uid);
  },
  ztunnel: ({ world }: Scene) => (world.isZtunnelThere ? world.disconnectZtunnel() : world.connectZtunnel()),
  ztunnelComes: ({ world }: Scene) => world.connectZtunnel(),
  refuse: ({ world }: Scene) => {
    world.isZtunnelRefusing = !world.isZtunnelRefusing;
  },
  tamper: ({ world, uid }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox?.rules !== "full") return;
    sandbox.rules = "none";
    sandbox.isTampered = true;
  },
  unreadable: ({ world, uid, which }: Scene) => {
    const sandbox = world.living(uid);
    if (sandbox !== undefined) sandbox.isUnreadable = which % 3 !== 0;
  },
  go: ({ world, which }: Scene) => world.pending.splice(which % (world.pending.length || 1), 1)[0]?.go(),
  fail: ({ world, which }: Scene) => world.pending.splice(which % (world.pending.length || 1), 1)[0]?.fail(),
  soon: ({ world }: Scene) => world.clock.advance(60),
  later: ({ world }: Scene) => world.clock.advance(700),
  muchLater: ({ world }: Scene) => world.clock.advance(16_000),
  restart: ({ world }: Scene) => world.restart(),
} as const;

/** How often each happens, relative to the others. */
const weights: Readonly<Record<ActionName, number>> = {
  create: 2,
  sandbox: 8,
  toldSandbox: 0,
  synchronize: 0,
  secondInterface: 3,
  unplug: 3,
  status: 6,
  end: 2,
  rebuildUnseen: 4,
  lateDel: 2,
  strangeDel: 2,
  falseDel: 1,
  collect: 3,
  check: 2,
  labelPod: 5,
  labelNamespace: 3,
  terminate: 1,
  delete: 2,
  ztunnel: 3,
  ztunnelComes: 4,
  refuse: 1,
  tamper: 2,
  unreadable: 3,
  go: 16,
  fail: 2,
  soon: 3,
  later: 4,
  muchLater: 2,
  restart: 1,
};

/** A runtime that tells of its sandboxes, and whose chain may lack us. */
const weightsWithNri: typeof weights = { ...weights, toldSandbox: 6, synchronize: 3 };

const [lots, lotsWithNri] = [weights, weightsWithNri].map((table) =>
  Object.entries(table).flatMap(([name, count]) => Array<ActionName>(count).fill(name as ActionName)),
) as [ActionName[], ActionName[]];

/** Numbers that look random and are the same for the same seed. Source: Steele, Vigna, SplitMix64's 32-bit kin. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let value = state;
    value = Math.imul(value ^ (value >>> 16), 0x21f0aaad);
    value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
    return ((value ^ (value >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** The sequence of a seed. */
export function makeSequence(seed: number, { hasNri = false }: Pick<WorldOptions, "hasNri"> = {}): Action[] {
  const lot = hasNri ? lotsWithNri : lots;
  const random = seededRandom(seed);
  const length = 6 + Math.floor(random() * 22);
  return Array.from({ length }, () => ({
    name: lot[Math.floor(random() * lot.length)] as ActionName,
    which: Math.floor(random() * 1000),
  }));
}

/** How a sequence is played; other parts are those with a planted fault. */
export interface PlayOptions extends WorldOptions {
  readonly seed: number;
}

/** @returns the first claim that does not hold, with the step after which; `undefined` when all do to the end */
export async function play(sequence: readonly Action[], options: PlayOptions): Promise<string | undefined> {
  const world = new World(options);
  const runtime = new Runtime();
  const random = seededRandom(options.seed ^ 0x5bd1e995);
  world.waits = () => random() < 0.4;
  await world.enrolment.start();
  for (const [index, { name, which }] of sequence.entries()) {
    await actions[name]({ world, runtime, which, uid: uids[which % uids.length] as string });
    await world.settle();
    const broken = brokenClaim(world);
    if (broken !== undefined) return `after step ${index + 1} (${name}): ${broken}`;
  }
  return await atRest(world, runtime);
}

/** What holds at every moment. */
function brokenClaim(world: World): string | undefined {
  for (const { uid, state, sandbox } of world.enrolment.records()) {
    if (state === "enrolled" && sandbox !== undefined) {
      const { key } = sandbox.netns;
      const kernel = world.sandboxes.findLast((each) => each.key === key);
      if (kernel?.wasVerified !== true) return `${uid} counts as captured, and ${key} was never verified`;
      if (!world.everAcked.has(`${uid} ${key}`))
        return `${uid} counts as captured, and ${key} was never acknowledged`;
      if (kernel.isInDoubt) return `${uid} counts as captured, and ${key} could not be read`;
    }
    const isGoing = world.pods.get(uid)?.deletionTimestamp === true;
    if (world.letGo.has(uid) && world.annotations.get(uid) === "enabled" && !isGoing)
      return `${uid} was let go and is annotated enabled`;
  }
  return world.violations[0];
}

/** What holds once nothing is in the way any more and everything has had its time. */
async function atRest(world: World, runtime: Runtime): Promise<string | undefined> {
  world.waits = () => false;
  world.isZtunnelRefusing = false;
  for (const sandbox of world.sandboxes) sandbox.isUnreadable = false;
  world.connectZtunnel();
  for (let round = 0; round < 12; round++) {
    while (world.pending.length > 0) world.pending.shift()?.go();
    await world.settle();
    if (round === 2) for (const uid of uids) report({ world }, uid);
    world.clock.advance(round < 3 ? 1_000 : 10_000);
    await world.settle();
    const broken = brokenClaim(world);
    if (broken !== undefined) return `on the way to rest: ${broken}`;
  }
  await Promise.all(runtime.adds);
  await world.settle();
  for (const uid of uids) {
    const broken = brokenRest(world, uid);
    if (broken !== undefined) return `at rest: ${broken}`;
  }
  await world.enrolment.stop();
  if (world.openHandles !== 0) return `${world.openHandles} handles were never closed`;
  return world.violations[0];
}

function brokenRest(world: World, uid: string): string | undefined {
  const pod = world.pods.get(uid);
  const living = world.living(uid);
  const isGoing = pod?.deletionTimestamp === true;
  for (const sandbox of world.sandboxes) {
    // rules of a sandbox that has ended end with its namespace
    if (sandbox.uid !== uid || !sandbox.lives || isGoing) continue;
    const isHome = sandbox === living && sandbox.runs && world.isWanted(uid);
    if (isHome && sandbox.rules !== "full")
      return `wanted ${uid} has rules ${sandbox.rules} in ${sandbox.key}`;
    if (!isHome && sandbox.rules !== "none")
      return `${sandbox.key} of ${uid} still has rules (${sandbox.rules})`;
  }
  if (isGoing) return undefined;
  const isHome = living?.runs === true && world.isWanted(uid);
  const state = world.enrolment.record(uid)?.state;
  if (isHome && state !== "enrolled") return `wanted ${uid} is ${state}`;
  if (isHome && world.acked.get(uid) !== living.key)
    return `wanted ${uid} is not served by ztunnel in ${living.key}`;
  if (isHome && world.annotations.get(uid) !== "enabled") return `wanted ${uid} is not annotated`;
  // a sandbox that has lost its addresses without a word stays until there is a better one
  const lost = world.sandboxes.findLast(({ key }) => key === world.acked.get(uid))?.endedUnseen === true;
  if (!isHome && world.acked.has(uid) && !lost) return `ztunnel still serves ${uid}`;
  // a wanted pod that waits for its next sandbox has nothing that could be captured
  const isBetween = living === undefined && (world.isWanted(uid) || pod?.phase === "Running");
  if (!isHome && !isBetween && (world.annotations.get(uid) ?? null) !== null)
    return `${uid} is annotated ${world.annotations.get(uid)}`;
  return undefined;
}

/** The shortest part of a sequence that still breaks a claim. */
export async function shrink(sequence: readonly Action[], options: PlayOptions): Promise<readonly Action[]> {
  let shortest = sequence;
  for (let size = Math.ceil(shortest.length / 2); size >= 1; ) {
    let isShorter = false;
    for (let from = 0; from < shortest.length; from += size) {
      const candidate = [...shortest.slice(0, from), ...shortest.slice(from + size)];
      if ((await play(candidate, options)) === undefined) continue;
      shortest = candidate;
      isShorter = true;
      break;
    }
    if (!isShorter) size = size === 1 ? 0 : Math.ceil(size / 2);
  }
  return shortest;
}

/** The failure of a seed as people need it: the shortest sequence that shows it, and what it breaks. */
export async function explain(seed: number, options: WorldOptions = {}): Promise<string> {
  const shortest = await shrink(makeSequence(seed, options), { ...options, seed });
  const why = await play(shortest, { ...options, seed });
  const steps = shortest.map(({ name, which }) => `${name}(${which})`).join(" ");
  return `seed ${seed}: ${why}\n  shortest: ${steps}`;
}
