// SPDX-License-Identifier: Apache-2.0
// NetworkPolicies that drop kubelet probes: in a captured pod they come from a link-local address that no policy expects.
import { BlockList } from "node:net";
import { parseDocument } from "yaml";
import type { ApiClient } from "../kube/api-client.ts";
import { ApiError } from "../kube/api-error.ts";
import { listOf, recordOf, textOf, textsOf } from "../kube/json-fields.ts";
import {
  type LabelSelector,
  type Labels,
  matchLabelSelector,
  parseLabelSelector,
} from "../kube/label-selector.ts";
import { familyOf } from "../probes/probe-address.ts";
import { type Finding, fine, warning } from "./finding.ts";

/** A pod with probes over the network. */
export interface ProbedPod {
  readonly ns: string;
  readonly name: string;
  readonly labels: Labels;
  readonly ips: readonly string[];
}

/** What matters of a NetworkPolicy. */
export interface IngressPolicy {
  readonly ns: string;
  readonly name: string;
  readonly selector: LabelSelector;
  /** Blocks of addresses that may come in; `"all"`: everybody, on some port at least. */
  readonly sources: "all" | readonly { readonly cidr: string; readonly except: readonly string[] }[];
}

const FIX =
  "add an ingress rule for the probes' address to the policy: from: [{ipBlock: {cidr: 169.254.7.127/32}}] " +
  "(IPv6: fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128)";

/**
 * One finding. @param options.wanted `namespace/name` of the pods of the mesh on this node
 * @param options.probeAddresses where probes come from
 */
export async function checkNetworkPolicies(
  client: Pick<ApiClient, "list">,
  options: {
    readonly wanted: ReadonlySet<string>;
    readonly nodeName: string;
    readonly probeAddresses: readonly string[];
    readonly timeoutMs: number;
  },
): Promise<Finding> {
  const { wanted, nodeName, probeAddresses, timeoutMs } = options;
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const { items: policies } = await client.list(
      "/apis/networking.k8s.io/v1/networkpolicies",
      { resourceVersion: "0" },
      { convert: readPolicy, signal },
    );
    if (policies.length === 0) return fine("network-policies", "no policy restricts what comes into pods");
    const ofNode = nodeName === "" ? {} : { fieldSelector: `spec.nodeName=${nodeName}` };
    const { items } = await client.list(
      "/api/v1/pods",
      { resourceVersion: "0", ...ofNode },
      { convert: readPod, signal },
    );
    const pods = items.filter(({ ns, name }) => wanted.has(`${ns}/${name}`));
    const dropped = droppedProbes(pods, policies, probeAddresses);
    const [first] = dropped;
    if (first === undefined)
      return fine("network-policies", `${policies.length} policies, none drops probes of this node's pods`);
    const what = `${dropped.length} captured pods have policies that do not let kubelet probes in, for example ${first.pod}: ${first.policies.join(", ")}`;
    return warning("network-policies", what, FIX);
  } catch (error) {
    const isDenied = error instanceof ApiError && (error.status === 403 || error.status === 401);
    const why = isDenied ? "the agent's own role may not list NetworkPolicies" : (error as Error).message;
    const fix = "run it with KUBECONFIG of somebody who may: kubectl get networkpolicies -A";
    return warning("network-policies", `not looked at: ${why}`, fix);
  }
}

/** Pods whose probes no policy lets in although one selects them, with those policies. Pure. */
export function droppedProbes(
  pods: readonly ProbedPod[],
  policies: readonly IngressPolicy[],
  probeAddresses: readonly string[],
): { pod: string; policies: string[] }[] {
  return pods.flatMap(({ ns, name, labels, ips }) => {
    const selecting = policies.filter(
      (policy) => policy.ns === ns && matchLabelSelector(policy.selector, labels),
    );
    if (selecting.length === 0) return [];
    const families = new Set(ips.map(familyOf));
    const sources = probeAddresses.filter(
      (address) => families.size === 0 || families.has(familyOf(address)),
    );
    const isDropped = sources.some((address) => !selecting.some((policy) => allows(policy, address)));
    return isDropped ? [{ pod: `${ns}/${name}`, policies: selecting.map((policy) => policy.name) }] : [];
  });
}

function allows({ sources }: IngressPolicy, address: string): boolean {
  if (sources === "all") return true;
  return sources.some(
    ({ cidr, except }) => isIn(address, cidr) && !except.some((each) => isIn(address, each)),
  );
}

function isIn(address: string, cidr: string): boolean {
  const [network = "", prefix = ""] = cidr.split("/");
  if (familyOf(network) !== familyOf(address)) return false;
  const family = familyOf(network) === 4 ? "ipv4" : "ipv6";
  try {
    const block = new BlockList();
    block.addSubnet(network, Number(prefix), family);
    return block.check(address, family);
  } catch {
    return false; // not an address block; the API server would have refused it
  }
}

/** Source: Kubernetes API reference, NetworkPolicySpec: without policyTypes, ingress is meant. */
function readPolicy(raw: unknown): IngressPolicy | undefined {
  const { metadata, spec } = recordOf(raw);
  const { podSelector, policyTypes, ingress } = recordOf(spec);
  const types = listOf(policyTypes);
  if (types.length > 0 && !types.includes("Ingress")) return undefined;
  const peers = listOf(ingress).map((rule) => listOf(recordOf(rule).from));
  const isOpen = peers.some((from) => from.length === 0);
  const blocks = peers.flat().flatMap((peer) => {
    const { cidr, except } = recordOf(recordOf(peer).ipBlock);
    return textOf(cidr) === "" ? [] : [{ cidr: textOf(cidr), except: listOf(except).map(textOf) }];
  });
  const { name, namespace } = recordOf(metadata);
  return {
    ns: textOf(namespace),
    name: textOf(name),
    selector: parseLabelSelector(parseDocument(JSON.stringify(podSelector ?? {})).contents, "podSelector", {
      fault() {},
      warn() {},
    }),
    sources: isOpen ? "all" : blocks,
  };
}

/** Only pods with a probe that goes over the network. */
function readPod(raw: unknown): ProbedPod | undefined {
  const { metadata, spec, status } = recordOf(raw);
  const probes = listOf(recordOf(spec).containers).flatMap((container) => {
    const { livenessProbe, readinessProbe, startupProbe } = recordOf(container);
    return [livenessProbe, readinessProbe, startupProbe].map(recordOf);
  });
  const isProbed = probes.some(
    ({ httpGet, tcpSocket, grpc }) => (httpGet ?? tcpSocket ?? grpc) !== undefined,
  );
  if (!isProbed) return undefined;
  const { name, namespace, labels } = recordOf(metadata);
  const ips = listOf(recordOf(status).podIPs).map((each) => textOf(recordOf(each).ip));
  return {
    ns: textOf(namespace),
    name: textOf(name),
    labels: textsOf(labels),
    ips: ips.filter((ip) => ip !== ""),
  };
}
