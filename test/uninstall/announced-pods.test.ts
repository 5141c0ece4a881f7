// SPDX-License-Identifier: Apache-2.0
// Which pods stay in the mesh when a node is left, because istiod cannot be told: those, whatever others do on the node. Root.
import { once } from "node:events";
import { mkdirSync, symlinkSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { concealPods } from "../../src/uninstall/announced-pods.ts";
import { type KubeFixture, startKube } from "../kube/kube-fixture.ts";
import { type HeldNetns, holdNetns } from "../linux/held-netns.ts";

const address = "10.97.77.7";
let kube: KubeFixture;
let pod: HeldNetns;
let hostRoot: string;

beforeEach(async () => {
  kube = await startKube();
  kube.server.put("namespaces", { metadata: { name: "shop" } });
  kube.server.put("pods", {
    metadata: {
      name: "web",
      namespace: "shop",
      uid: "u1",
      annotations: { "ambient.istio.io/redirection": "enabled" },
    },
    spec: { nodeName: "node1" },
    status: { podIP: address, podIPs: [{ ip: address }] },
  });
  pod = await holdNetns();
  await pod.run("ip", "address", "add", `${address}/32`, "dev", "lo");
  hostRoot = join(kube.folder, "host");
  mkdirSync(join(hostRoot, "run/netns"), { recursive: true });
  mkdirSync(join(hostRoot, "proc/1/ns"), { recursive: true });
  symlinkSync("/proc/self/ns/net", join(hostRoot, "proc/1/ns/net"));
  show(pod);
});
afterEach(async () => {
  await pod[Symbol.asyncDispose]();
  await kube[Symbol.asyncDispose]();
});

/** The host has no other processes: what runs beside the test is not in its /proc. */
function show({ pid }: HeldNetns): void {
  symlinkSync(`/proc/${pid}`, join(hostRoot, `proc/${pid}`));
}

const conceal = () =>
  concealPods({
    hostRoot,
    kubeconfigPath: join(kube.folder, "kubeconfig"),
    nodeName: "node1",
    leavePauseMs: 0,
  });

const annotationsLeft = () =>
  kube.server.store.list("pods").map(({ metadata }) => metadata.annotations ?? {});

function refusePatches(answer: { status: number; text?: string } = { status: 403 }): void {
  kube.server.faults.failures.push({ ...answer, verb: "patch" });
}

test("the annotation of a pod is taken away, and it need not stay", async () => {
  expect(await conceal()).toEqual({ spare: new Set(), failed: [], notes: [] });
  expect(annotationsLeft()).toEqual([{}]);
});

test.each([
  ["403", { status: 403 }],
  ["409 for somebody else's write", { status: 409 }],
  ["422 of a policy", { status: 422 }],
  ["404 of a balancer", { status: 404, text: "404 page not found\n" }],
])("a pod whose annotation cannot be taken away stays (%s)", async (_, answer) => {
  refusePatches(answer);
  const { spare, failed } = await conceal();
  expect(spare).toContain(netnsKeyAt(pod.path));
  expect(failed).toEqual([expect.stringMatching(/^shop\/web stays in the mesh/) as string]);
});

test("a pod that stays does so also where another namespace has given itself its address", async () => {
  refusePatches();
  await using before = await holdNetns();
  await using after = await holdNetns();
  for (const other of [before, after]) {
    await other.run("ip", "address", "add", `${address}/32`, "dev", "lo");
    show(other);
  }
  const { spare, failed } = await conceal();
  expect(spare).toContain(netnsKeyAt(pod.path));
  expect(failed).toEqual([expect.stringMatching(/^shop\/web stays in the mesh/) as string]);
});

test("what cannot be looked into keeps nothing else from being told, and stays", async () => {
  const path = join(hostRoot, "run/netns/odd");
  const odd: Server = createServer().listen(path);
  await once(odd, "listening");
  const { spare, failed } = await conceal();
  expect(annotationsLeft()).toEqual([{}]);
  expect([...spare]).toEqual([netnsKeyAt(path)]);
  expect(failed).toEqual([expect.stringMatching(/^odd stays as it is/) as string]);
  odd.close();
});
