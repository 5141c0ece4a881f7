// SPDX-License-Identifier: Apache-2.0
// `--keep`: pods to look at, a little traffic between them, and the words that tell how to look.
import { DASHBOARD_PORT } from "../../src/cli/dashboard-command.ts";
import { DashboardRelay } from "./dashboard-relay.ts";
import { dashboardSocket, markAsKept } from "./kept-demo.ts";
import { appPort } from "./proxied-request.ts";
import { modeLabel, runPod, type Scene } from "./scene.ts";

/** Holds the node until `until` is settled. @param options.port where the machine outside offers the dashboard */
export async function keepUp(
  scene: Scene,
  options: { readonly port: number; readonly until: Promise<void> },
): Promise<void> {
  const { client, mesh, server } = scene;
  await populate(scene);
  await client.app.call.startTraffic({ host: server.pod.ip4, port: appPort, pauseMs: 1000 });
  await using _relay = await DashboardRelay.inside(dashboardSocket, DASHBOARD_PORT);
  await markAsKept(mesh.agent.pid);
  process.stdout.write(howToLook(mesh.node.cgroupFolder, pageOutside(scene, options.port)));
  const alive = setInterval(() => {}, 60_000);
  await options.until;
  clearInterval(alive);
  await client.app.call.stopTraffic();
}

/** Two captured pods and one that opted out. */
export async function populate(scene: Scene): Promise<void> {
  const { mesh, client, server } = scene;
  mesh.kubelet.labelNamespace("shop", { [modeLabel]: "ambient" });
  await scene.untilHeld([client.pod, server.pod]);
  for (const { pod } of [client, server]) await scene.untilStatus(pod, "enabled");
  await runPod(mesh, "loner", { [modeLabel]: "none" });
}

/** The page's address on the machine outside, with its key. */
function pageOutside({ dashboard }: Scene, port: number): string {
  return `http://127.0.0.1:${port}/${new URL(dashboard.url).search}`;
}

function howToLook(cgroupFolder: string, url: string): string {
  return `
The node stays up until Ctrl-C: client and server are captured and talk, loner opted out.
In a browser on this machine:
  ${url}
In a second terminal, in this folder:
  npm run -s demo -- --exec status
  npm run -s demo -- --exec debug client shop
A shell in the node:
  nsenter --mount --net --pid --target "$(head -n 1 ${cgroupFolder}/node/cgroup.procs)"
`;
}
