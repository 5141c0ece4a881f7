// SPDX-License-Identifier: Apache-2.0
// Whose attachment ends what: DEL and GC as runtimes and meta-plugins send them.
import { describe, expect, test } from "vitest";
import {
  type Attachment,
  Attachments,
  type KeptSandbox,
  type Place,
} from "../../src/enrolment/attachments.ts";
import { silentLogger } from "../../src/log/logger.ts";

/** An ADD of `uid/container network/ifname`; its namespace is the container's unless it says `@dev:ino`. */
/** A namespace of its own for each sandbox. */
function keyOf(containerId: string): string {
  return `4:${Buffer.from(containerId).toString("hex").slice(-8).replaceAll(/[a-f]/g, "7")}`;
}

function added(attachments: Attachments, text: string): boolean {
  const [, uid = "", containerId = "", network = "", ifname = "", netnsKey = ""] =
    /^(.*?)\/(.*?) (.*?)\/(.*?)(?:@(.*))?$/.exec(text) ?? [];
  return attachments.added(place({ uid, containerId, netnsKey: netnsKey || keyOf(containerId) }), {
    network,
    ifname,
  });
}

function place(change: Partial<Place> = {}): Place {
  return {
    uid: "u1",
    namespace: "shop",
    name: "web-0",
    containerId: "c1",
    netnsPath: "/var/run/netns/cni-1",
    netnsKey: "4:1",
    ips: ["10.0.0.1"],
    ...change,
  };
}

/** A DEL of `container network/ifname`. */
function removed(attachments: Attachments, text: string): string {
  return attachments.removed(parseAttachment(text));
}

function parseAttachment(text: string): Attachment {
  const [, containerId = "", network = "", ifname = ""] = /^(.*?) (.*?)\/(.*)$/.exec(text) ?? [];
  return { network, containerId, ifname };
}

function create(...adds: string[]): Attachments {
  const attachments = new Attachments({ log: silentLogger });
  for (const add of adds) added(attachments, add);
  return attachments;
}

describe("removed", () => {
  const cases: readonly [string, readonly string[], readonly (readonly [string, string])[]][] = [
    [
      "the only attachment is the last, and unknown when it is said again",
      ["u1/c1 net/eth0"],
      [
        ["c1 net/eth0", "last"],
        ["c1 net/eth0", "unknown"],
      ],
    ],
    ["a DEL before any ADD is unknown", [], [["c1 net/eth0", "unknown"]]],
    ["a DEL that names nothing is unknown", ["u1/c1 net/eth0"], [[" /", "unknown"]]],
    ["a DEL of another container is unknown", ["u1/c1 net/eth0"], [["c2 net/eth0", "unknown"]]],
    [
      "a DEL of another interface or network of a known container is unknown and ends nothing",
      ["u1/c1 net/eth0"],
      [
        ["c1 net/net1", "unknown"],
        ["c1 other/eth0", "unknown"],
        ["c1 net/eth0", "last"],
      ],
    ],
    [
      "two interfaces of one network are two attachments",
      ["u1/c1 net/net1", "u1/c1 net/net2"],
      [
        ["c1 net/net1", "others-left"],
        ["c1 net/net1", "unknown"],
        ["c1 net/net2", "last"],
      ],
    ],
    [
      "two networks are two attachments, in whichever order they go",
      ["u1/c1 a/eth0", "u1/c1 b/eth0"],
      [
        ["c1 b/eth0", "others-left"],
        ["c1 a/eth0", "last"],
      ],
    ],
    ["an ADD that is repeated counts once", ["u1/c1 net/eth0", "u1/c1 net/eth0"], [["c1 net/eth0", "last"]]],
    [
      "a pod's newer sandbox leaves the older one's attachments to its DEL",
      ["u1/c1 net/eth0", "u1/c22 net/eth0"],
      [
        ["c1 net/eth0", "last"],
        ["c22 net/eth0", "last"],
      ],
    ],
    [
      "what was attached to another namespace under the same id does not count any more",
      ["u1/c1 net/eth0@4:1", "u1/c1 net/net1@4:2"],
      [
        ["c1 net/eth0", "unknown"],
        ["c1 net/net1", "last"],
      ],
    ],
  ];
  test("another sandbox in the namespace of one that nobody ended ends it", () => {
    const attachments = create("u1/c1 net/eth0@4:7", "u2/c2 net/eth0@4:7");
    expect(attachments.places().map(({ containerId }) => containerId)).toEqual(["c2"]);
    expect(removed(attachments, "c1 net/eth0")).toBe("unknown");
  });

  test.each(cases)("%s", (_name, adds, removals) => {
    const attachments = create(...adds);
    expect(removals.map(([text]) => [text, removed(attachments, text)])).toEqual(removals);
  });
});

describe("collected", () => {
  const two = ["u1/c1 net/eth0", "u1/c1 other/net1", "u2/c2 net/eth0", "u3/c3 other/eth0"];
  const cases: readonly [string, string, readonly string[], readonly string[], readonly string[]][] = [
    // what it does; network; valid; ended; containers that are known afterwards
    ["all that the list names stays", "net", ["c1 eth0", "c2 eth0"], [], ["c1", "c2", "c3"]],
    [
      "a list of all pods of the node, whatever network they came by, ends nothing",
      "net",
      ["c1 eth0", "c2 eth0", "c3 eth0"],
      [],
      ["c1", "c2", "c3"],
    ],
    ["an empty list ends those of its network alone", "net", [], ["c2"], ["c1", "c3"]],
    ["another network's list, its attachments apart, ends nothing", "third", [], [], ["c1", "c2", "c3"]],
    [
      "of two attachments of one sandbox the other one keeps it",
      "other",
      ["c3 eth0"],
      [],
      ["c1", "c2", "c3"],
    ],
    ["the interface counts, not the container alone", "net", ["c1 eth0", "c2 net7"], ["c2"], ["c1", "c3"]],
    [
      "containers that nobody told of are passed over",
      "net",
      ["c9 eth0", "c1 eth0", "c2 eth0"],
      [],
      ["c1", "c2", "c3"],
    ],
  ];
  test.each(cases)("%s", (_name, network, valid, ended, known) => {
    const attachments = create(...two);
    const list = valid.map((text) => {
      const [containerId = "", ifname = ""] = text.split(" ");
      return { containerId, ifname };
    });
    expect(attachments.collected(network, list)).toEqual(ended);
    expect(attachments.places().map(({ containerId }) => containerId)).toEqual(known);
  });

  test("what went by a GC is not ended once more by its DEL, and what is left goes with its own", () => {
    const attachments = create(...two);
    expect(attachments.collected("net", [])).toEqual(["c2"]);
    expect(removed(attachments, "c2 net/eth0")).toBe("unknown");
    expect(removed(attachments, "c1 net/eth0")).toBe("unknown");
    expect(removed(attachments, "c1 other/net1")).toBe("last");
  });

  test("a sandbox whose ADD is under way is spared, and its attachments with it", () => {
    const attachments = create(...two);
    expect(attachments.collected("net", [], { spare: (id) => id === "c2" })).toEqual([]);
    expect(removed(attachments, "c2 net/eth0")).toBe("last");
  });
});

describe("places", () => {
  test("a pod's place is its newest sandbox, and the older one again once the newer has ended", () => {
    const attachments = create("u1/c1 net/eth0", "u2/c2 net/eth0", "u1/c3 net/eth0", "u1/c1 net/net1");
    expect(attachments.placeOf("u1")?.containerId).toBe("c3");
    attachments.ended("c3");
    expect(attachments.placeOf("u1")?.containerId).toBe("c1");
    expect(attachments.placeOf("u9")).toBeUndefined();
  });

  test("a namespace is the newest sandbox's that was told to be in it, and none of a pod that has a newer one", () => {
    const attachments = create("u1/c1 net/eth0@4:1", "u2/c2 net/eth0@4:2", "u3/c3 net/eth0@4:1");
    expect(attachments.ownerOf("4:1", () => true)).toBe("u3");
    expect(attachments.ownerOf("4:2", () => true)).toBe("u2");
    expect(attachments.ownerOf("4:9", () => true)).toBeUndefined();
    added(attachments, "u2/c4 net/eth0@4:4");
    expect(attachments.ownerOf("4:2", () => true)).toBeUndefined();
    expect(attachments.ownerOf("4:4", () => true)).toBe("u2");
    // the one that was told of before it in this namespace was gone by then
    attachments.ended("c3");
    expect(attachments.ownerOf("4:1", () => true)).toBeUndefined();
  });

  test("a namespace is nobody's where no sandbox of its number stands any more, and the older one's that does", () => {
    const attachments = create("u1/c1 net/eth0@4:1");
    expect(attachments.ownerOf("4:1", () => false)).toBeUndefined();
    expect(attachments.ownerOf("4:1", ({ containerId }) => containerId === "c1")).toBe("u1");
  });

  test("a place has the addresses of the attachments that there still are", () => {
    const attachments = new Attachments({ log: silentLogger });
    attachments.added(place({ ips: ["10.0.0.1", "fd00::1"] }), { network: "net", ifname: "eth0" });
    attachments.added(place({ ips: ["10.9.0.1"] }), { network: "nad", ifname: "net1" });
    attachments.added(place({ ips: [] }), { network: "aux", ifname: "net2" });
    expect(attachments.ofContainer("c1")?.ips).toEqual(["10.0.0.1", "fd00::1", "10.9.0.1"]);
    expect(removed(attachments, "c1 net/eth0")).toBe("others-left");
    expect(attachments.ofContainer("c1")?.ips).toEqual(["10.9.0.1"]);
    attachments.added(place({ ips: ["10.9.0.2"] }), { network: "nad", ifname: "net1" });
    expect(attachments.ofContainer("c1")?.ips).toEqual(["10.9.0.2"]);
  });

  test("a pod that is forgotten leaves nothing, and others alone", () => {
    const attachments = create("u1/c1 net/eth0", "u2/c2 net/eth0", "u1/c3 net/eth0");
    attachments.forgetPod("u1");
    attachments.forgetPod("u1");
    expect(attachments.places().map(({ uid }) => uid)).toEqual(["u2"]);
    expect(removed(attachments, "c1 net/eth0")).toBe("unknown");
  });
});

describe("bounds", () => {
  function warned(): { attachments: Attachments; warnings: string[]; gone: string[] } {
    const warnings: string[] = [];
    const gone: string[] = [];
    const log = { ...silentLogger, warn: (_: object, message: string) => void warnings.push(message) };
    const keeper = { save: () => {}, remove: (containerId: string) => void gone.push(containerId) };
    return { attachments: new Attachments({ log, keeper }), warnings, gone };
  }

  test("of more than 1,024 sandboxes the oldest are forgotten, said once", () => {
    const { attachments, warnings, gone } = warned();
    for (let index = 0; index < 1030; index++) added(attachments, `u${index}/c${index} net/eth0`);
    expect(attachments.size).toBe(1024);
    expect(gone).toEqual(["c0", "c1", "c2", "c3", "c4", "c5"]);
    expect(attachments.placeOf("u1029")?.containerId).toBe("c1029");
    expect(warnings).toHaveLength(1);
  });

  test("the 33rd attachment of a sandbox is not remembered, the others are", () => {
    const { attachments, warnings } = warned();
    const answers = Array.from({ length: 34 }, (_, index) => added(attachments, `u1/c1 net/net${index}`));
    expect(answers.filter((isKnown) => isKnown)).toHaveLength(32);
    expect(removed(attachments, "c1 net/net33")).toBe("unknown");
    expect(attachments.attachmentsOf("c1")).toHaveLength(32);
    expect(warnings).toHaveLength(1);
  });

  const unusable: readonly [string, Partial<Place>, Partial<Attachment>][] = [
    ["an endless container id", { containerId: "c".repeat(257) }, {}],
    ["no pod", { uid: "" }, {}],
    ["an endless name", { name: "n".repeat(254) }, {}],
    ["no namespace path", { netnsPath: "" }, {}],
    ["a key that is none", { netnsKey: "net:[1]" }, {}],
    ["an endless network", {}, { network: "n".repeat(254) }],
    ["an endless interface", {}, { ifname: "n".repeat(65) }],
    ["too many addresses", { ips: Array.from({ length: 17 }, (_, index) => `10.0.0.${index}`) }, {}],
    ["an endless address", { ips: ["1".repeat(65)] }, {}],
  ];
  test.each(unusable)("an ADD with %s is not remembered", (_name, change, attachment) => {
    const { attachments, warnings } = warned();
    expect(attachments.added(place(change), { network: "net", ifname: "eth0", ...attachment })).toBe(false);
    expect([attachments.size, warnings.length]).toEqual([0, 1]);
  });
});

test("an ADD without a container, as istio-cni's plugin tells of it, is not remembered and no fault", () => {
  const warnings: string[] = [];
  const log = { ...silentLogger, warn: (_: object, message: string) => void warnings.push(message) };
  const attachments = new Attachments({ log });
  expect(attachments.added(place({ containerId: "" }), { network: "", ifname: "" })).toBe(false);
  expect([attachments.size, warnings]).toEqual([0, []]);
  expect(removed(attachments, " /")).toBe("unknown");
});

test("everything that changes is kept, and what was kept is known to the next agent", () => {
  const disk = new Map<string, KeptSandbox>();
  const keeper = {
    save: (sandbox: KeptSandbox) => void disk.set(sandbox.place.containerId, sandbox),
    remove: (containerId: string) => void disk.delete(containerId),
  };
  const first = new Attachments({ log: silentLogger, keeper });
  for (const add of [
    "u1/c1 net/eth0",
    "u1/c1 net/net1",
    "u2/c2 net/eth0",
    "u1/c3 net/eth0",
    "u4/c4 net/eth0",
  ])
    added(first, add);
  removed(first, "c1 net/eth0");
  first.collected("net", [
    { containerId: "c1", ifname: "net1" },
    { containerId: "c3", ifname: "eth0" },
    { containerId: "c4", ifname: "eth0" },
  ]);
  first.ended("c4");
  const second = new Attachments({ log: silentLogger, keeper, kept: [...disk.values()].reverse() });
  expect(second.places()).toEqual(first.places());
  expect(second.placeOf("u1")?.containerId).toBe("c3");
  expect(removed(second, "c1 net/eth0")).toBe("unknown");
  expect(removed(second, "c1 net/net1")).toBe("last");
  added(second, "u1/c5 net/eth0");
  expect(disk.get("c5")?.order).toBeGreaterThan(disk.get("c3")?.order ?? Number.POSITIVE_INFINITY);
});
