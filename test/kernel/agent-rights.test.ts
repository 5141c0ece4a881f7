// SPDX-License-Identifier: Apache-2.0
// The capabilities that the manifests give the agent are enough for a node's life, and each of them is needed: without it
// something fails, which is measured here.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { CAPABILITY, type Capability } from "../../src/linux/process-capabilities.ts";
import { NodeModule } from "../support/node/node-module.ts";
import { STEPS } from "./agent-life.ts";

type Inside = typeof import("./agent-rights.inside.ts");

interface Container {
  readonly securityContext: {
    readonly capabilities: { readonly drop: string[]; readonly add: Capability[] };
  };
}
interface DaemonSet {
  readonly kind: string;
  readonly spec: { readonly template: { readonly spec: { readonly containers: Container[] } } };
}

function capabilitiesOf(manifest: string): { drop: string[]; add: Capability[] } {
  const text = readFileSync(join(import.meta.dirname, "../../deploy/manifests", manifest), "utf8");
  const objects = parseAllDocuments(text).map((document) => document.toJS() as DaemonSet);
  const [container] = objects.find(({ kind }) => kind === "DaemonSet")?.spec.template.spec.containers ?? [];
  if (container === undefined) throw new Error(`${manifest} has no DaemonSet`);
  return container.securityContext.capabilities;
}

const { drop, add } = capabilitiesOf("ambient-cni.yaml");
const mask = maskOf(add);

/** As /proc/PID/status has it. */
function maskOf(names: readonly Capability[]): string {
  const set = names.reduce((sum, name) => sum | (1n << BigInt(CAPABILITY[name])), 0n);
  return set.toString(16).padStart(16, "0");
}

async function inNode<T>(visit: (node: NodeModule<Inside>) => Promise<T>): Promise<T> {
  await using node = await NodeModule.start<Inside>(join(import.meta.dirname, "agent-rights.inside.ts"));
  return await visit(node);
}

test("both manifests drop all and add the same", () => {
  expect(drop).toEqual(["ALL"]);
  expect(capabilitiesOf("ambient-cni-before-1.30.yaml")).toEqual({ drop, add });
});

describe("with the manifest's capabilities and no other", () => {
  test.each(["nft", "legacy", "native"] as const)("the agent does all it has to do (%s)", async (variant) => {
    const life = await inNode((node) => node.call.live(add, { variant }));
    expect(life).toEqual({ effective: mask, bounding: mask, done: STEPS, failed: null });
  });
});

/** What the kernel refuses then, or a program whose call it refuses: not what our own list of capabilities says is missing. */
const refusals: readonly (readonly [Capability, "nft" | "legacy", RegExp])[] = [
  ["NET_ADMIN", "nft", /^.*probes: .*Cannot look for tables and chains: EPERM/m],
  // sets are asked for through a raw socket
  ["NET_RAW", "nft", /probes: .*iptables-nft-restore .*Can't open socket to ipset/],
  ["NET_RAW", "legacy", /iptables-restore .*unable to initialize table 'nat'/],
  ["SYS_ADMIN", "nft", /start: Cannot open network namespace "\S+": EPERM/],
  ["SYS_PTRACE", "nft", /start: Cannot tell the host's network namespace at "\/proc\/1\/ns\/net": EACCES/],
  // the node's folders belong to a user here
  ["DAC_OVERRIDE", "nft", /install: Cannot install the launcher "\S+": permission denied/],
];

test("the failure of each is known", () => {
  expect([...new Set(refusals.map(([name]) => name))].sort()).toEqual([...add].sort());
});

describe("without one of them the agent does not start", () => {
  test.each(refusals)("%s (%s)", async (name, variant, refusal) => {
    const rest = add.filter((each) => each !== name);
    const life = await inNode((node) => node.call.live(rest, { variant, startMs: 3_000 }));
    expect([life.effective, life.bounding]).toEqual([maskOf(rest), maskOf(rest)]);
    expect(life.done).toEqual([]);
    expect(life.failed?.step).toBe("started");
    expect(life.failed?.why).toMatch(refusal);
  });
});
