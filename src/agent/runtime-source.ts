// SPDX-License-Identifier: Apache-2.0
// The container runtime as a second source of sandboxes beside CNI, where it has NRI.
import { RuntimeWord } from "../enrolment/runtime-word.ts";
import { systemClock } from "../loop/clock.ts";
import { NriPlugin } from "../nri/plugin.ts";
import type { SandboxListener } from "../nri/session.ts";
import type { Ground } from "./ground.ts";
import type { Capture, Front } from "./parts.ts";

/** `undefined`: nobody is to be heard. */
export function makeRuntimeSource(
  { config, loggers, metrics, hostNetns, node }: Ground,
  { capture, front }: { readonly capture: Capture; readonly front: Pick<Front, "installer"> },
): NriPlugin | undefined {
  const { nri, install, hostRoot, podNamespace } = config;
  if (nri.enabled === "false" || !config.ambient) return undefined;
  const log = loggers.scope("nri");
  let wasInstalled = false;
  const word = new RuntimeWord({
    ...capture,
    node,
    policy: { ...config, agentNamespace: podNamespace },
    mayRefuse: () => {
      // once it was in the chain, for this agent or one before it, a chain without it is no reason to start pods outside the mesh
      wasInstalled ||=
        front.installer.chain.wasThere ||
        capture.attachments.places().some(({ toldBy }) => toldBy === undefined);
      return nri.refuse && install.enabled && install.chained && wasInstalled;
    },
    hostNetns,
    hostRoot,
    clock: systemClock,
    log,
    onbeginning: (beginning, seconds) => metrics.sandboxBegan(beginning, seconds),
    onrefusal: () => metrics.containerRefused(),
  });
  const listener: SandboxListener = {
    synchronized: (sandboxes) => word.synchronized(sandboxes),
    begins: (sandbox, call) => word.begins(sandbox, call),
    // who refuses nothing is not asked about each container of the node
    ...(nri.refuse ? { creates: (sandbox, call) => word.creates(sandbox, call) } : {}),
    stopped: (sandbox) => word.stopped(sandbox),
    removed: (sandbox) => word.removed(sandbox),
  };
  return new NriPlugin({ path: nri.socketPath, listener, log });
}
