// SPDX-License-Identifier: Apache-2.0
// The steps of the demo in which ztunnel and the agent are restarted while pods talk to each other.
import { claimCaptured } from "../support/node/capture-state.ts";
import { claim } from "../support/node/claim.ts";
import { patience } from "../support/node/patience.ts";
import { appPort, proxiedRequest } from "./proxied-request.ts";
import { watchRules } from "./rule-watch.ts";
import { echoPort, type Scene, ztunnelOptions } from "./scene.ts";

/** A new ztunnel gets the pods that the killed one had; nobody touches a rule. */
export async function ztunnelRestart(scene: Scene): Promise<string> {
  const { client, mesh, server } = scene;
  const held = (await scene.heldUids()).sort();
  const unchanged = await watchRules(mesh.pods.pods);
  await client.app.call.startTraffic({ host: server.pod.ip4, port: appPort, timeoutMs: 1000 * patience() });
  await scene.untilServed(20);
  await mesh.ztunnel.kill();
  const start = performance.now();
  await mesh.startZtunnel(ztunnelOptions);
  await mesh.ztunnel.waitForReady(20_000);
  const ms = Math.round(performance.now() - start);
  await scene.untilServed(20);
  const traffic = await client.app.call.stopTraffic();
  claim(
    (await scene.heldUids()).sort().join() === held.join(),
    "the new ztunnel holds other pods than the old one",
  );
  for (const { pod } of [client, server]) {
    await claimCaptured(pod);
    await scene.untilStatus(pod, "enabled");
  }
  await unchanged();
  const path = await proxiedRequest(mesh, { ...scene, family: 4, inboundPort: 15008 });
  const gap = `${traffic.sent} requests, longest gap ${Math.round(traffic.longestGapMs)} ms`;
  return `killed with SIGKILL, the next one had all ${held.length} pods after ${ms} ms; 0 rule writes; ${gap}\n       ${path}`;
}

/** The agent may come and go, in order or killed: no rule is written and no request lost. */
export async function agentRestart(scene: Scene): Promise<string> {
  const { client, mesh, server } = scene;
  const { app } = client;
  const target = { host: server.pod.ip4, port: appPort };
  const held = (await scene.heldUids()).sort();
  const { stream } = await app.call.openStream({ ...target, port: echoPort });
  const unchanged = await watchRules(mesh.pods.pods);
  await app.call.startTraffic(target);
  const times: string[] = [];
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await scene.untilServed(20);
    const connections = (await mesh.ztunnel.stats()).connections;
    if (signal === "SIGTERM") claim((await mesh.agent.stop()) === 0, "the agent did not end in order");
    else await mesh.agent.kill();
    // the node without an agent: traffic goes on
    await scene.untilServed(20);
    const start = performance.now();
    await mesh.startAgent();
    await mesh.ztunnel.waitForStats((stats) => stats.connections > connections && stats.ready, 20_000);
    times.push(`${Math.round(performance.now() - start)} ms after ${signal}`);
    const kept = await app.call.exchange(stream, "still there?");
    claim(kept === "still there?", "the connection that was open did not survive");
  }
  await scene.untilServed(20);
  const traffic = await app.call.stopTraffic();
  await app.call.closeStream(stream);
  claim(
    traffic.failed === 0,
    `${traffic.failed} of ${traffic.sent} requests failed: ${traffic.errors.join("; ")}`,
  );
  claim((await scene.heldUids()).sort().join() === held.join(), "ztunnel holds other pods than before");
  for (const { pod } of [client, server]) await claimCaptured(pod);
  await unchanged();
  return `back ${times.join(" and ")}; 0 rule writes, 0 of ${traffic.sent} requests failed, an open connection stayed`;
}
