// SPDX-License-Identifier: Apache-2.0
// istiod is told first that pods of this node leave the mesh: where nobody can tell it, they stay in it.
import { setTimeout as delay } from "node:timers/promises";
import type { AgentConfig } from "../config.ts";
import { isPodGone } from "../kube/annotation-writer.ts";
import { ApiClient, podPath } from "../kube/api-client.ts";
import { type PodFacts, podAnnotations, toPodFacts } from "../kube/pod-facts.ts";
import { canonicalAddress } from "../linux/address.ts";
import { hostNetnsKeys } from "../linux/host-netns.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import { forEachLimited } from "../loop/limit.ts";
import { type FoundNetns, findNetns, openFound } from "./node-cleanup-netns.ts";

/** Without a name of the node pods are looked for in the whole cluster. */
type AnnouncedPodsOptions = Pick<AgentConfig, "hostRoot" | "kubeconfigPath" | "nodeName" | "leavePauseMs">;

/** What came of it. */
export interface Concealed {
  /** Namespaces that have to stay as they are, by their `Netns.key`. */
  readonly spare: ReadonlySet<string>;
  /** Why, a line each. */
  readonly failed: readonly string[];
  readonly notes: readonly string[];
}

const parallel = 4;
const requestMs = 5_000;

/**
 * Takes the annotation from the pods of this node that carry it. Without any credentials nobody can be told, which is said in
 * a note. @throws Error when /proc cannot be read
 */
export async function concealPods(options: AnnouncedPodsOptions): Promise<Concealed> {
  const { kubeconfigPath, leavePauseMs } = options;
  let client: ApiClient;
  try {
    client = ApiClient.load({ kubeconfigPath });
  } catch (error) {
    const why = (error as Error).message;
    const note = `istiod is not told: pods keep the annotation ${podAnnotations.redirection} until they are deleted (${why})`;
    return { spare: new Set(), failed: [], notes: [note] };
  }
  const { owners, unread } = await netnsByAddress(options);
  const unknown = [...unread].map(
    ([{ name }, why]) =>
      `${name} stays as it is, for nobody can say whether it is a pod's that istiod knows: ${why}`,
  );
  const withUnread = (keys: readonly string[]) =>
    new Set([...keys, ...[...unread.keys()].map(({ key }) => key)]);
  try {
    const announced = (await podsOf(client, options)).filter(({ ips }) => ips.some((ip) => owners.has(ip)));
    const failures = new Map<PodFacts, string>();
    await forEachLimited(
      announced,
      async (pod) => {
        const why = await conceal(client, pod);
        if (why !== undefined) failures.set(pod, why);
      },
      { places: parallel },
    );
    if (failures.size < announced.length) await delay(leavePauseMs);
    return {
      spare: withUnread([...failures.keys()].flatMap(({ ips }) => ips.flatMap((ip) => owners.get(ip) ?? []))),
      failed: [
        ...[...failures].map(
          ([{ namespace, name }, why]) =>
            `${namespace}/${name} stays in the mesh, for its annotation cannot be taken away: ${why}`,
        ),
        ...unknown,
      ],
      notes: [],
    };
  } catch (error) {
    // whoever may not be asked about may be announced
    const why = `all pods stay in the mesh, for nobody can say which of them istiod knows: ${(error as Error).message}`;
    return { spare: withUnread([...owners.values()].flat()), failed: [why, ...unknown], notes: [] };
  }
}

interface AddressesOfNode {
  /** By address: the keys of all that have it, for a pod can give itself another's. */
  readonly owners: ReadonlyMap<string, readonly string[]>;
  /** Whose addresses cannot be read, and why. */
  readonly unread: ReadonlyMap<FoundNetns, string>;
}

async function netnsByAddress({ hostRoot }: AnnouncedPodsOptions): Promise<AddressesOfNode> {
  const owners = new Map<string, string[]>();
  const unread = new Map<FoundNetns, string>();
  for (const found of await findNetns({ hostRoot, ignore: hostNetnsKeys({ hostRoot }) })) {
    try {
      using netns = openFound(found);
      if (netns === undefined) continue;
      const addresses = (await interfaceAddresses(netns)).map(({ address }) => canonicalAddress(address));
      for (const address of new Set(addresses)) {
        const sharing = owners.get(address);
        if (sharing === undefined) owners.set(address, [netns.key]);
        else sharing.push(netns.key);
      }
    } catch (error) {
      unread.set(found, (error as Error).message);
    }
  }
  return { owners, unread };
}

/** Those that istiod takes for the mesh's; their addresses are canonical. */
async function podsOf(client: ApiClient, { nodeName }: AnnouncedPodsOptions): Promise<PodFacts[]> {
  const query = nodeName === "" ? {} : { fieldSelector: `spec.nodeName=${nodeName}` };
  const convert = (raw: unknown): PodFacts | undefined => {
    const pod = toPodFacts(raw);
    const isAnnounced = pod?.annotations[podAnnotations.redirection] !== undefined && !pod.hostNetwork;
    return isAnnounced ? { ...pod, ips: pod.ips.map(canonicalAddress) } : undefined;
  };
  return (await client.list("/api/v1/pods", query, { convert })).items;
}

/** @returns why the annotation is still there; undefined when it is not, or the pod is gone */
async function conceal(client: ApiClient, { uid, namespace, name }: PodFacts): Promise<string | undefined> {
  try {
    const body = { metadata: { uid, annotations: { [podAnnotations.redirection]: null } } };
    await client.mergePatch(podPath(namespace, name, "status"), body, {
      signal: AbortSignal.timeout(requestMs),
    });
    return undefined;
  } catch (error) {
    return isPodGone(error) ? undefined : (error as Error).message;
  }
}
