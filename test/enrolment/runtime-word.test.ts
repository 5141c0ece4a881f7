// SPDX-License-Identifier: Apache-2.0
// What becomes of each sandbox that the runtime tells of: by what is known of it, with an enrolment that a test decides about.
import { beforeEach, describe, expect, test } from "vitest";
import { Attachments, type Place } from "../../src/enrolment/attachments.ts";
import type { AddedSandbox } from "../../src/enrolment/enrolment-options.ts";
import { EnrolmentError } from "../../src/enrolment/outcomes.ts";
import { type Beginning, RuntimeWord, type ToldSandbox } from "../../src/enrolment/runtime-word.ts";
import { NamespacePatterns } from "../../src/kube/namespace-patterns.ts";
import { type NamespaceFacts, type PodFacts, podAnnotations } from "../../src/kube/pod-facts.ts";
import { parseEnablementSelectors } from "../../src/kube/selectors.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";

const here = "/proc/self/ns/net";
const key = netnsKeyAt(here) as string;
const pod = {
  ...{ uid: "u1", namespace: "mesh", name: "web", phase: "Pending", hostNetwork: false },
  ...{ labels: {}, annotations: {}, resourceVersion: "1", ips: [], containerIds: [] },
} as unknown as PodFacts;
const sandbox: ToldSandbox = {
  ...{ id: "c1", uid: "u1", namespace: "mesh", name: "web" },
  ...{ netnsPath: here, ips: ["10.0.0.7"] },
};

/** What a test decides, and what it reads. */
interface World {
  pods: PodFacts[];
  isFresh: boolean;
  hostNetns: Set<string>;
  mayRefuse: boolean;
  connectionCount: number;
  stands: boolean;
  /** What an `add` comes to. */
  add: (added: AddedSandbox) => Promise<"enrolled" | "outside">;
  /** `Netns.key` of the namespace in which the pod is enrolled. */
  enrolledIn: string | undefined;
  /** The same of one in which rules stand that this agent has not told a ztunnel of. */
  rulesIn: string | undefined;
  readonly clock: FakeClock;
  readonly attachments: Attachments;
  readonly begun: Beginning[];
  readonly told: Place[];
  readonly gone: string[];
  readonly waits: (number | undefined)[];
  refusals: number;
}

let world: World;
let word: RuntimeWord;

beforeEach(() => {
  const log = recordingLogger();
  const attachments = new Attachments({ log });
  const made: World = {
    ...{
      pods: [pod],
      isFresh: true,
      hostNetns: new Set(),
      mayRefuse: true,
      connectionCount: 1,
      stands: true,
    },
    ...{
      add: async () => "enrolled",
      enrolledIn: undefined,
      rulesIn: undefined,
      clock: new FakeClock(),
      attachments,
    },
    ...{ begun: [], told: [], gone: [], waits: [], refusals: 0 },
  };
  world = made;
  const remember = (place: Place) => attachments.added(place, { network: "", ifname: "" });
  word = new RuntimeWord({
    node: {
      podByName: (ns, name) => made.pods.find((each) => each.namespace === ns && each.name === name),
      namespace: (name) =>
        ({
          name,
          labels: name === "mesh" ? { "istio.io/dataplane-mode": "ambient" } : {},
        }) as unknown as NamespaceFacts,
      isFresh: () => made.isFresh,
    },
    enrolment: {
      add: (added) => {
        remember(added.place);
        made.waits.push(added.patience?.waitMs);
        return made.add(added);
      },
      told: (places) => {
        for (const place of places) remember(place);
        made.told.push(...places);
      },
      gone: ({ containerId }) => void made.gone.push(containerId),
      record: (uid) => {
        const netnsKey = made.enrolledIn ?? made.rulesIn;
        const [state, hasRules] = [made.enrolledIn ? "enrolled" : "pending", netnsKey !== undefined];
        return hasRules
          ? ({ uid, state, hasRules, sandbox: { netns: { key: netnsKey } } } as never)
          : undefined;
      },
    },
    attachments,
    finder: { stands: () => made.stands },
    ztunnel: made,
    policy: {
      selectors: parseEnablementSelectors("").selectors,
      excludeNamespaces: new NamespacePatterns(["kube-system"]),
      ...{ systemNamespace: "istio-system", agentNamespace: "", dnsCapture: true },
      ...{ probeSnatV4: "", probeSnatV6: "", establishedConnections: "keep" },
    },
    mayRefuse: () => made.mayRefuse,
    hostNetns: made.hostNetns,
    hostRoot: "/",
    clock: made.clock,
    log,
    onbeginning: (beginning) => void made.begun.push(beginning),
    onrefusal: () => {
      made.refusals += 1;
    },
  });
});

const call = { timeoutMs: 2_000 };
const fails = async (): Promise<never> => {
  throw new EnrolmentError(pod, new Error("no ztunnel connection"));
};
const announce = () =>
  world.attachments.added(
    { ...sandbox, uid: "u1", containerId: "c1", netnsKey: key, ips: [] },
    { network: "podnet", ifname: "eth0" },
  );

describe("a sandbox that begins", () => {
  test("is captured where no ADD announced it", async () => {
    await word.begins(sandbox, call);
    expect(world.begun).toEqual(["captured"]);
    expect(world.attachments.ofContainer("c1")).toEqual({
      ...{ uid: "u1", namespace: "mesh", name: "web", containerId: "c1" },
      ...{ netnsPath: here, netnsKey: key, ips: ["10.0.0.7"], toldBy: "nri" },
    });
  });

  test("is nobody's business here where an ADD announced it", async () => {
    announce();
    await word.begins(sandbox, call);
    expect([world.begun, world.waits, world.told]).toEqual([["announced"], [], []]);
    expect(world.attachments.ofContainer("c1")?.toldBy).toBeUndefined();
  });

  test("neither is one that is captured already, by an ADD that named no sandbox", async () => {
    world.enrolledIn = key;
    await word.begins(sandbox, call);
    expect([world.begun, world.waits]).toEqual([["announced"], []]);
    expect(world.attachments.ofContainer("c1")?.toldBy).toBe("nri");
  });

  test("but one whose pod is captured in another sandbox is", async () => {
    world.enrolledIn = "1:2";
    await word.begins(sandbox, call);
    expect(world.begun).toEqual(["captured"]);
  });

  test.each<[string, Partial<ToldSandbox>, boolean]>([
    ["outside the mesh, which is remembered for a label that comes", { namespace: "plain" }, true],
    ["of an excluded namespace", { namespace: "kube-system" }, false],
    ["on the host's network", { netnsPath: "" }, false],
    ["in a namespace that cannot be seen", { netnsPath: "/nowhere/ns" }, false],
  ])("is left alone %s", async (_what, part, isRemembered) => {
    world.pods = [pod, { ...pod, namespace: "plain" }, { ...pod, namespace: "kube-system" }];
    await word.begins({ ...sandbox, ...part }, call);
    expect([world.begun, world.waits]).toEqual([["outside"], []]);
    expect(world.attachments.ofContainer("c1") !== undefined).toBe(isRemembered);
  });

  test("is left alone in the host's network namespace, whatever path leads there", async () => {
    world.hostNetns.add(key);
    await word.begins(sandbox, call);
    expect([world.begun, world.told]).toEqual([["outside"], []]);
  });

  test.each<[string, () => void]>([
    ["of whose pod nobody has told us", () => (world.pods = [])],
    ["of a predecessor's name", () => (world.pods = [{ ...pod, uid: "u0" }])],
  ])("is remembered %s, and not waited for", async (_what, arrange) => {
    arrange();
    await word.begins(sandbox, call);
    expect([world.begun, world.waits]).toEqual([["unknown"], []]);
    expect(world.told.map(({ uid }) => uid)).toEqual(["u1"]);
  });

  test("of a static pod is known by the hash that the runtime has for it", async () => {
    const annotations = { "kubernetes.io/config.hash": "abc", "kubernetes.io/config.mirror": "abc" };
    world.pods = [{ ...pod, annotations }];
    await word.begins({ ...sandbox, uid: "abc" }, call);
    expect(world.begun).toEqual(["captured"]);
    expect(world.attachments.ofContainer("c1")?.uid).toBe("u1");
  });

  test.each<[Beginning, string, () => void]>([
    ["held", "while we keep the chain", () => {}],
    ["passed", "where nothing is to be refused", () => (world.mayRefuse = false)],
    ["passed", "while our picture may be old", () => (world.isFresh = false)],
  ])("is %s when it cannot be captured %s", async (beginning, _when, arrange) => {
    arrange();
    world.add = fails;
    await word.begins(sandbox, call);
    expect(world.begun).toEqual([beginning]);
    expect(world.attachments.ofContainer("c1")).toBeDefined();
    expect(world.gone).toEqual([]);
  });

  test.each([
    [2_000, 1_000],
    [500, 250],
    [0, 1_000],
  ])(
    "waits for its capture half of the %d ms that the runtime grants, and %d ms at most",
    async (timeoutMs, ms) => {
      world.add = () => new Promise(() => {});
      const done = word.begins(sandbox, { timeoutMs });
      expect(world.waits).toEqual([ms]);
      world.clock.advance(ms - 1);
      await Promise.resolve();
      expect(world.begun).toEqual([]);
      world.clock.advance(1);
      await done;
      expect(world.begun).toEqual(["held"]);
    },
  );

  test("does not wait for a ztunnel that is not there", async () => {
    world.connectionCount = 0;
    world.add = fails;
    await word.begins(sandbox, call);
    expect(world.waits).toEqual([0]);
  });
});

describe("a container", () => {
  const begin = async () => {
    world.add = fails;
    await word.begins(sandbox, call);
  };

  test("is refused with the sentence while its pod is not captured, and made once it is", async () => {
    await begin();
    const sentence =
      'Cannot capture pod "mesh/web" for the ambient mesh: no ztunnel connection; the log of this node\'s CNI agent has the details. The pod is tried again by kubelet';
    await expect(word.creates(sandbox, call)).rejects.toThrow(sentence);
    expect(world.refusals).toBe(1);
    world.add = async () => "enrolled";
    await word.creates(sandbox, call);
    expect(world.refusals).toBe(1);
  });

  test("of a pod that was unknown when its sandbox began is captured then", async () => {
    world.pods = [];
    await word.begins(sandbox, call);
    await word.creates(sandbox, call);
    expect(world.waits).toEqual([]);
    world.pods = [pod];
    await word.creates(sandbox, call);
    expect(world.waits).toEqual([1_000]);
    expect(world.refusals).toBe(0);
  });

  test.each<[string, () => void]>([
    ["of a pod that runs already", () => (world.pods = [{ ...pod, phase: "Running" }])],
    ["of a pod that is captured", () => (world.enrolledIn = key)],
    [
      "of a pod outside the mesh",
      () => (world.pods = [{ ...pod, annotations: { "sidecar.istio.io/status": "" } }]),
    ],
    ["of a pod that is gone", () => (world.pods = [])],
    ["where nothing is to be refused", () => (world.mayRefuse = false)],
    ["while our picture may be old", () => (world.isFresh = false)],
  ])("is made %s", async (_what, arrange) => {
    await begin();
    arrange();
    await word.creates(sandbox, call);
    expect(world.refusals).toBe(0);
  });

  // between the start of an agent and the next word of its ztunnel, which takes up to 15 s
  test.each<[string, string | undefined, Readonly<Record<string, string>>, number]>([
    ["made where its rules stand and it was announced", key, { [podAnnotations.redirection]: "enabled" }, 0],
    ["refused where nobody announced it: it was not captured", key, {}, 1],
    ["refused where they stand elsewhere", "1:2", { [podAnnotations.redirection]: "enabled" }, 1],
    ["refused where none stand", undefined, { [podAnnotations.redirection]: "enabled" }, 1],
  ])("of a pod that an agent before captured is %s", async (_what, rulesIn, annotations, refusals) => {
    await begin();
    world.rulesIn = rulesIn;
    world.pods = [{ ...pod, annotations }];
    await word.creates(sandbox, call).catch(() => {});
    expect(world.refusals).toBe(refusals);
  });

  test("in a sandbox that an ADD announced is not ours to refuse", async () => {
    world.add = fails;
    announce();
    await word.creates(sandbox, call);
    expect([world.waits, world.refusals]).toEqual([[], 0]);
  });

  // Source: CRI-O 1.37.0: a sandbox that begins while we register is neither in Synchronize, for it is not listed before it is made, nor
  // told of by RunPodSandbox, for we are not among the plugins before Synchronize has been answered (server/nri-api.go,
  // ListPodSandboxes; containerd/nri 0.12.0 pkg/adaptation, acceptPluginConnections)
  describe("in a sandbox that nobody told of", () => {
    test("is made once its pod is captured", async () => {
      await word.creates(sandbox, call);
      expect([world.waits, world.refusals]).toEqual([[1_000], 0]);
      // processes of a container before it may have been there
      expect(world.told.map(({ containerId, toldBy }) => [containerId, toldBy])).toEqual([["c1", "nri"]]);
    });

    test("is refused while it is not", async () => {
      world.add = fails;
      await expect(word.creates(sandbox, call)).rejects.toThrow("Cannot capture pod");
      expect(world.refusals).toBe(1);
    });

    test.each<[string, Partial<ToldSandbox>]>([
      ["outside the mesh", { namespace: "plain" }],
      ["of an excluded namespace", { namespace: "kube-system" }],
      ["on the host's network", { netnsPath: "" }],
      ["in a namespace that cannot be seen", { netnsPath: "/nowhere/ns" }],
      ["of whose pod nobody has told us", { name: "other" }],
    ])("is made %s", async (_what, part) => {
      world.add = fails;
      world.pods = [pod, { ...pod, namespace: "plain" }, { ...pod, namespace: "kube-system" }];
      await word.creates({ ...sandbox, ...part }, call);
      expect([world.waits, world.refusals]).toEqual([[], 0]);
    });
  });
});

describe("all sandboxes at once", () => {
  test("are remembered, but for those that are known, and those that cannot be seen", () => {
    announce();
    const other = { ...sandbox, id: "c2", uid: "u2", name: "api" };
    word.synchronized([sandbox, other, { ...other, id: "c3", netnsPath: "/nowhere/ns" }]);
    expect(world.told.map(({ containerId, toldBy }) => [containerId, toldBy])).toEqual([["c2", "nri"]]);
  });

  test.each([
    [true, []],
    [false, ["c2"]],
  ])("an ADD's sandbox of the same pod stays while it stands: %s", (stands, expected) => {
    announce();
    world.stands = stands;
    word.synchronized([{ ...sandbox, id: "c2" }]);
    expect(world.told.map(({ containerId }) => containerId)).toEqual(expected);
  });
});

describe("of several sandboxes of a pod", () => {
  test.each([
    ["10.0.0.7", "c1"],
    ["10.0.0.8", "c2"],
  ])("the one with the status' address %s is the newest", (ip, newest) => {
    world.pods = [{ ...pod, ips: [ip] }];
    const [old, young] = [sandbox, { ...sandbox, id: "c2", ips: ["10.0.0.8"] }];
    for (const all of [
      [old, young],
      [young, old],
    ]) {
      word.synchronized(all);
      expect(world.told.at(-1)?.containerId).toBe(newest);
    }
  });
});

describe("the end of a sandbox", () => {
  test("that the runtime alone told of is its stop", async () => {
    await word.begins(sandbox, call);
    word.stopped(sandbox);
    expect(world.gone).toEqual(["c1"]);
  });

  test("that an ADD announced is its DEL, or at last its removal", () => {
    announce();
    word.stopped(sandbox);
    expect(world.gone).toEqual([]);
    word.removed(sandbox);
    expect(world.gone).toEqual(["c1"]);
  });

  test("that nobody told of is nothing", () => {
    word.stopped(sandbox);
    word.removed(sandbox);
    expect(world.gone).toEqual([]);
  });
});
