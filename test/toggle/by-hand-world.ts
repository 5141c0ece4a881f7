// SPDX-License-Identifier: Apache-2.0
// A world without an agent: the agent's own building blocks (rules, ZDS server), put in an order of the test's choosing.
// With the order that takes the redirection away before ztunnel knows, the traffic must show what that costs: this is how
// the tests of the traffic are seen to be able to fail.
import { setTimeout as delay } from "node:timers/promises";
import { hostNetnsKeys } from "../../src/linux/host-netns.ts";
import { Netns } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { countThroughZtunnel } from "../../src/redirection/pod-connections.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { ZdsServer } from "../../src/ztunnel/zds-server.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type MeshPod, MeshView, tellStandIn } from "./mesh-view.ts";
import { hasCapture, type Place, type ToggleWorld } from "./toggle-world.ts";

/**
 * `rules-first`: in, rules, then ztunnel; out, rules away, then ztunnel, and peers hear of both afterwards.
 * `ztunnel-first`: in, ztunnel, then rules; out, peers hear of it, then the jumps go, ztunnel ends what it carries, and the
 * rest of the rules goes last.
 */
export type StepOrder = "rules-first" | "ztunnel-first";

interface Member {
  readonly netns: Netns;
  isInMesh: boolean;
  /** What is being done to it; the next change waits for it. */
  work: Promise<void>;
  isIdle: boolean;
}

const options: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};
const controlPlaneMs = 500;
const drainMs = 2000;
const closingMs = 50;

/** Pods that this process brings in and out by itself, with a stand-in of their own. */
export class ByHandWorld implements ToggleWorld {
  readonly #mesh: MeshNode;
  readonly #order: StepOrder;
  readonly #redirection: PodRedirection;
  readonly #zds: ZdsServer;
  readonly #members = new Map<Pod, Member>();
  readonly #view: MeshView;

  private constructor(
    mesh: MeshNode,
    parts: {
      order: StepOrder;
      redirection: PodRedirection;
      zds: ZdsServer;
      push: (pods: readonly MeshPod[]) => Promise<void>;
    },
  ) {
    this.#mesh = mesh;
    this.#order = parts.order;
    this.#redirection = parts.redirection;
    this.#zds = parts.zds;
    this.#view = new MeshView({ read: () => this.#read(), push: parts.push });
  }

  /**
   * Makes everything that an agent would; the node must have none.
   * @param options.push tells a ztunnel that somebody else starts; default a stand-in, which is started
   */
  static async start(
    mesh: MeshNode,
    options: { order: StepOrder; push?: (pods: readonly MeshPod[]) => Promise<void> },
  ): Promise<ByHandWorld> {
    const where = { runDir: mesh.node.scratch, hostProcess: "/proc/1" };
    const backend = await chooseBackend({ variant: "auto", ...where, log: silentLogger });
    const hostNetns = hostNetnsKeys({ hostRoot: "/" });
    const redirection = new PodRedirection({ backend, hostNetns, ipv6: true });
    const zds = new ZdsServer({ path: "/var/run/ztunnel/ztunnel.sock", log: silentLogger });
    zds.listen();
    const { order, push = (pods) => tellStandIn(mesh.ztunnel, pods) } = options;
    if (options.push === undefined) {
      await mesh.startZtunnel({ maxBackoffMs: 100 });
      await mesh.ztunnel.waitForReady();
    }
    return new ByHandWorld(mesh, { order, redirection, zds, push });
  }

  async runPod(name: string, place: Place): Promise<Pod> {
    const pod = await this.#mesh.plainPods.runPodSandbox({ namespace: "by-hand", name });
    const member = { netns: Netns.open(pod.netns), isInMesh: false, work: Promise.resolve(), isIdle: true };
    this.#members.set(pod, member);
    if (place === "outside") this.#view.changed();
    else this.#move(pod, true);
    return pod;
  }

  change(pods: readonly Pod[], _place: "pod" | "namespace", isInMesh: boolean): void {
    for (const pod of pods) this.#move(pod, isInMesh);
  }

  async isSettled(pod: Pod, isInMesh: boolean): Promise<boolean> {
    const member = this.#member(pod);
    if (!member.isIdle) return false;
    await member.work;
    return (await hasCapture(pod, isInMesh)) && (await this.#view.isSettled());
  }

  async deletePod(pod: Pod): Promise<void> {
    const member = this.#member(pod);
    await member.work;
    const isToldFirst = this.#order === "ztunnel-first";
    if (isToldFirst) await this.#zds.remove(pod.uid);
    await pod.delete();
    if (!isToldFirst) await this.#zds.remove(pod.uid);
    this.#members.delete(pod);
    member.netns.close();
    this.#view.changed();
  }

  #move(pod: Pod, isInMesh: boolean): void {
    const member = this.#member(pod);
    member.isIdle = false;
    member.work = member.work.then(async () => {
      await (isInMesh ? this.#enter(pod, member) : this.#leave(pod, member));
      member.isIdle = true;
    });
    // whoever asks whether it is settled hears of a failure
    member.work.catch(() => {
      member.isIdle = true;
    });
  }

  async #enter(pod: Pod, member: Member): Promise<void> {
    const { netns } = member;
    const workload = { name: pod.spec.name, namespace: pod.spec.namespace, serviceAccount: "default" };
    const entry = { uid: pod.uid, workload, netns };
    if (this.#order === "ztunnel-first") await this.#zds.add(entry);
    await this.#redirection.apply(netns, options);
    if (this.#order === "rules-first") await this.#zds.add(entry);
    this.#tell(member, true);
  }

  async #leave(pod: Pod, member: Member): Promise<void> {
    if (this.#order === "rules-first") {
      await this.#redirection.remove(member.netns);
      await this.#zds.remove(pod.uid);
      this.#tell(member, false);
      return;
    }
    this.#tell(member, false);
    await delay(controlPlaneMs);
    await this.#redirection.open(member.netns);
    const carriesNothing = async (): Promise<boolean> =>
      (await countThroughZtunnel(member.netns)).count === 0;
    const limits = { timeoutMs: drainMs, intervalMs: 50 };
    await waitFor("ztunnel to carry nothing", carriesNothing, limits).catch(() => {});
    await this.#zds.remove(pod.uid);
    await delay(closingMs);
    await this.#redirection.remove(member.netns);
  }

  #tell(member: Member, isInMesh: boolean): void {
    member.isInMesh = isInMesh;
    this.#view.changed();
  }

  #read(): MeshPod[] {
    return [...this.#members].map(([pod, { isInMesh }]) => {
      const { name, namespace } = pod.spec;
      return { uid: pod.uid, name, namespace, serviceAccount: "default", addresses: pod.ips, isInMesh };
    });
  }

  #member(pod: Pod): Member {
    const member = this.#members.get(pod);
    if (member === undefined) throw new Error(`Pod "${pod.spec.name}" does not belong to this world`);
    return member;
  }
}
