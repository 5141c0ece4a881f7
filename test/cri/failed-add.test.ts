// SPDX-License-Identifier: Apache-2.0
// ADD that fails at each of its steps under a real containerd: what users read, what is left, and the second try.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";
import { restoreFailure } from "./support/rule-tools.ts";

type Inside = typeof import("./failed-add.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)(
  "an ADD that fails leaves nothing, is told, and succeeds later",
  {
    timeout: 60_000 * patience(),
  },
  () => {
    let real: RealNode<Inside> | undefined;
    const inside = () => (real as RealNode<Inside>).module.call;
    /** As containerd puts the plugin's words into its own. */
    const told = (words: string) =>
      new RegExp(
        `^failed to setup network for sandbox "SANDBOX": plugin type="ambient-cni"(?: name="podnet")? failed \\(add\\): ${words}`,
      );
    const ztunnelRemedy = /check the ztunnel pod of this node: kubectl get pods -A -l app=ztunnel -o wide/;
    const agentRemedy = /the log of this node's CNI agent has the details/;
    const daemonSetRemedy = /istio-cni-node or ambient-cni-node: kubectl -n istio-system get pods -o wide/;

    beforeAll(async () => {
      real = await RealNode.start<Inside>(join(import.meta.dirname, "failed-add.inside.ts"));
      await inside().start();
    });
    afterEach(async (context) => {
      if (context.task.result?.state !== "fail") return;
      say(await inside().logs());
      await inside().reset();
    });
    afterAll(async () => {
      await expectNothingLeft(real);
    });

    test("when the kernel refuses a rule", async () => {
      const { message } = await inside().rulesRefused();
      expect(message).toMatch(told('Cannot capture pod "mesh/POD" for the ambient mesh: '));
      expect(message).toContain(restoreFailure);
      expect(message).toMatch(agentRemedy);
    });

    test("when the kernel refuses a rule of a sidecar", async () => {
      const { message, rules } = await inside().sidecarRulesRefused();
      expect(message).toMatch(told('Cannot redirect pod "plain/POD" to its sidecar: '));
      expect(message).toContain(restoreFailure);
      expect(rules).toMatch(/^-A ISTIO_OUTPUT -p tcp -m tcp --dport PORT -j RETURN$/m);
    });

    test("when ztunnel refuses the pod", async () => {
      const { message } = await inside().ztunnelRefuses();
      expect(message).toMatch(told('Cannot capture pod "mesh/POD" for the ambient mesh: ztunnel refused'));
      expect(message).toMatch(/failure to start proxy : address in use/);
      expect(message).toMatch(ztunnelRemedy);
    });

    test("when ztunnel does not answer", async () => {
      const { message } = await inside().ztunnelSilent();
      expect(message).toMatch(told('Cannot capture pod "mesh/POD" for the ambient mesh: ztunnel .* within '));
      expect(message).toMatch(ztunnelRemedy);
    });

    test("when there is no ztunnel", async () => {
      const { message, ms } = await inside().ztunnelAway();
      expect(message).toMatch(
        told('Cannot capture pod "mesh/POD" for the ambient mesh: no ztunnel connection for 2 s'),
      );
      expect(message).toMatch(ztunnelRemedy);
      expect(ms).toBeGreaterThan(2000);
    });

    test("when the API server is away", async () => {
      const { message } = await inside().apiAway();
      expect(message).toMatch(told('cannot know whether pod "mesh/POD" belongs to the ambient mesh: '));
      expect(message).toMatch(/it is held until the API server answers, kubelet tries again/);
    });

    test("when the kubelet gives up and containerd kills the plugin", async () => {
      const { code, ms } = await inside().kubeletGivesUp();
      // both sides know the deadline: containerd's end of the stream may come before our own clock
      expect(["DEADLINE_EXCEEDED", "CANCELLED"]).toContain(code);
      expect(ms).toBeLessThan(4000);
    });

    test.each(["rules", "ack"] as const)(
      "when the agent is killed at its %s and stays away",
      async (point) => {
        const { message } = await inside().killedAndAway(point);
        expect(message).toMatch(told("Cannot get an answer from the ambient-cni agent of this node at "));
        expect(message).toMatch(
          /\(ADD of pod mesh\/POD\): nothing listens on the socket \(connection refused\), so the agent stopped or restarts; waited 4(\.\d+)? s/,
        );
        expect(message).toMatch(daemonSetRemedy);
      },
    );

    test.each(["rules", "ack"] as const)(
      "not when the agent is killed at its %s and comes back",
      async (point) => {
        await inside().killedAndBack(point);
      },
    );

    // the agent does not wait for it
    test("not when the loopback plugin, which the runtime runs beside the chain, is slower than ours", async () => {
      await inside().slowLoopback();
    });

    // the agent takes a pod out of its roster only when the ADD that still waits has ended
    test("is not handed to a ztunnel that connects after its DEL", async () => {
      expect(await inside().ztunnelConnectsAfterDel()).toBe(0);
    });
  },
);
