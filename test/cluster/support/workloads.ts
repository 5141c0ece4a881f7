// SPDX-License-Identifier: Apache-2.0
// What the tests on a real node run, and how they find it again: in the API and in the kernel.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { inNetns } from "../../support/node/kernel.ts";
import type { ManagedProcess } from "../../support/node/managed-process.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { boxImage } from "./box-image.ts";
import type { KubeAdmin, KubeJson } from "./kube-admin.ts";

/** The namespace that all of it is in. */
export const meshNamespace = "mesh";
/** Port of the applications. */
export const appPort = 8080;
/** Command of a container that answers HTTP requests. */
export const serve = `exec httpd -f -p ${appPort} -h /www`;
/** For what kubelet and controllers do. */
export const patience = { timeoutMs: 40_000, intervalMs: 50 };

/** Path of a pod in the API. */
export const podPath = (name: string): string => `/api/v1/namespaces/${meshNamespace}/pods/${name}`;
/** Path of a Deployment in the API. */
export const deploymentPath = (name: string): string =>
  `/apis/apps/v1/namespaces/${meshNamespace}/deployments/${name}`;

/** A container of the one image. @param more further fields, such as probes */
export function container(name: string, command: string, more: object = {}): object {
  return { name, image: boxImage, imagePullPolicy: "Never", command: ["/bin/sh", "-c", command], ...more };
}

/** Template of pods with one container, found again by `runningPods(app)`. */
export function workload(app: string, command: string, more: object = {}): object {
  return {
    metadata: { labels: { app } },
    spec: { terminationGracePeriodSeconds: 0, containers: [container("app", command, more)] },
  };
}

/** Creates a Deployment of such pods. */
export async function createDeployment(
  admin: KubeAdmin,
  name: string,
  options: { replicas: number; template: object },
): Promise<void> {
  const { replicas, template } = options;
  await admin.create(`/apis/apps/v1/namespaces/${meshNamespace}/deployments`, {
    metadata: { name },
    spec: { replicas, selector: { matchLabels: { app: name } }, template },
  });
}

/** Creates one such pod that belongs to nobody. */
export async function createPod(admin: KubeAdmin, name: string, template: object): Promise<void> {
  const { metadata, spec } = template as { metadata: object; spec: object };
  await admin.create(`/api/v1/namespaces/${meshNamespace}/pods`, { metadata: { ...metadata, name }, spec });
}

/** Running pods of an application, by name; waits until there are exactly so many. */
export async function runningPods(admin: KubeAdmin, app: string, count: number): Promise<KubeJson[]> {
  const path = `/api/v1/namespaces/${meshNamespace}/pods?labelSelector=app%3D${app}`;
  return waitFor(
    `${count} running pods of "${app}"`,
    async () => {
      const pods = (await admin.list(path)).filter(
        ({ status, metadata }) =>
          status.phase === "Running" && status.podIP && metadata.deletionTimestamp === undefined,
      );
      return pods.length === count ? pods : undefined;
    },
    patience,
  );
}

/** The namespace that holds an address, by its path as the runtime made it. */
export async function netnsOf(ip: string): Promise<string> {
  for (const name of await readdir("/run/netns")) {
    const path = join("/run/netns", name);
    const { stdout } = await inNetns(path, ["ip", "-o", "address", "show"], true);
    if (stdout.includes(` ${ip}/`)) return path;
  }
  throw new Error(`no namespace holds ${ip}`);
}

/** The last lines of processes, for a failure that needs them. */
export function lastLines(processes: readonly (ManagedProcess | undefined)[]): string {
  return processes
    .filter((each) => each !== undefined)
    .map(
      ({ name, lines }) =>
        `--- ${name}\n${lines
          .slice(-8)
          .map(({ text }) => text.slice(0, 600))
          .join("\n")}`,
    )
    .join("\n");
}
