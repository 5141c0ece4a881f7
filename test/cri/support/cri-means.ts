// SPDX-License-Identifier: Apache-2.0
// Whether this machine can run sandboxes of a real container runtime in a node of its own.
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { nodeTools } from "../../cluster/support/real-node.ts";
import { AGENT_BUNDLE } from "../../support/node/agent-process.ts";
import { PLUGIN_DIR } from "../../support/node/mesh-node.ts";
import { checkNodeMeans, NodeUnavailableError } from "../../support/node/namespaces.ts";
import { run } from "../../support/node/run.ts";

const plugins = ["bridge", "host-local", "portmap", "loopback"].map((name) => join("/usr/lib/cni", name));
const built = [join(PLUGIN_DIR, "ambient-cni"), AGENT_BUNDLE];

/** What is missing, as one sentence that is also said on stderr; undefined when the suite can run. */
export async function whatCriLacks(): Promise<string | undefined> {
  const lack = await firstLack();
  if (lack !== undefined) process.stderr.write(`SKIP test/cri: ${lack}\n`);
  return lack;
}

async function firstLack(): Promise<string | undefined> {
  try {
    await checkNodeMeans([...nodeTools, "ipset", "tar"]);
  } catch (error) {
    if (error instanceof NodeUnavailableError) return error.message;
    throw error;
  }
  for (const path of [...plugins, ...built]) {
    const found = await access(path, constants.R_OK).then(
      () => true,
      () => false,
    );
    if (!found)
      return `Cannot run sandboxes: "${path}" is missing; run "sh scripts/setup.sh --test" as root, which brings it`;
  }
  const unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "true"];
  const tried = await run(unshare, { mayFail: true });
  return tried.code === 0
    ? undefined
    : `Cannot make namespaces: ${tried.stderr.trim()}; in a container, it must be privileged`;
}
