// SPDX-License-Identifier: Apache-2.0
// Whether a real Kubernetes can be had on this machine, and where its programs are; builds them when they are missing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { checkNodeMeans, NodeUnavailableError } from "../../support/node/namespaces.ts";

/** Where the programs of a cluster are, or the sentence that says why there is none. */
export type ClusterMeans =
  | { readonly binDir: string; readonly lacks: undefined }
  | { readonly binDir: undefined; readonly lacks: string };

const setupScript = join(import.meta.dirname, "../../../scripts/cluster-setup.sh");
/** What cluster-setup.sh exits with when the machine has not the means. */
const cannotBuild = 3;

/**
 * Gets the programs ready; the first time on a machine this takes minutes, and says so on stderr.
 *
 * @param options.apiServerOnly content with `KUBEBUILDER_ASSETS` (etcd, kube-apiserver), when that is set
 * @throws Error when the machine has the means and the build failed nevertheless
 */
export async function clusterMeans(options: {
  readonly apiServerOnly: boolean;
  /** Programs of the system that the tests need, besides those of a test node. */
  readonly tools?: readonly string[];
}): Promise<ClusterMeans> {
  const assets = process.env.KUBEBUILDER_ASSETS;
  const useAssets = options.apiServerOnly && assets !== undefined && assets !== "";
  try {
    const built = await runSetup(useAssets);
    if (built !== undefined) return { binDir: undefined, lacks: built };
    await checkNodeMeans(["openssl", ...(options.tools ?? [])]);
  } catch (error) {
    if (!(error instanceof NodeUnavailableError)) throw error;
    return { binDir: undefined, lacks: error.message };
  }
  const own = join(process.env.CLUSTER_DIR ?? "/var/tmp/ambient-cni-cluster", "bin");
  return { binDir: useAssets ? assets : own, lacks: undefined };
}

/** Says on stderr why a suite does not run: a skip must be seen. */
export function saySkipped(suite: string, means: ClusterMeans): void {
  if (means.lacks !== undefined) process.stderr.write(`SKIP ${suite}: ${means.lacks}\n`);
}

/** @returns why it cannot be built here; undefined when everything is there */
async function runSetup(useAssets: boolean): Promise<string | undefined> {
  const child = spawn("/bin/sh", [setupScript, ...(useAssets ? ["--api-server"] : [])], {
    stdio: ["ignore", "inherit", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text: string) => {
    said += text;
    process.stderr.write(text);
  });
  const [code] = (await once(child, "close")) as [number | null];
  if (code === 0) return undefined;
  const last = said.trim().split("\n").at(-1) ?? "";
  if (code === cannotBuild) return last.replace(/^cluster-setup: /, "");
  throw new Error(`Cannot get a Kubernetes for tests ready: ${last}`);
}
