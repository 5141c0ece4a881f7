// SPDX-License-Identifier: Apache-2.0
// One CNI call as a plain value: parsed and checked from what the launcher relays. Pure, no I/O.
// Source: CNI spec 1.1.0, "Parameters" and "Operations", https://www.cni.dev/docs/spec/
import { cutText, fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import {
  defaultCniVersion,
  hasListResult,
  isSupportedVersion,
  supportedCniVersions,
} from "../conflist/cni-versions.ts";
import { memberText } from "../conflist/json-spans.ts";
import type { Attachment } from "../enrolment/attachments.ts";
import { isRecord, recordOf, textOf } from "../kube/json-fields.ts";
import type { PodIdentity } from "../kube/pod-facts.ts";
import { CniError } from "./cni-error.ts";

export const cniVerbs = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] as const;
export type CniVerb = (typeof cniVerbs)[number];

/** A checked CNI call. Strings are empty where the verb does not need them and the runtime did not give them. */
export interface CniRequest {
  readonly verb: CniVerb;
  /** `name` of the network configuration; with container and interface it names an attachment. */
  readonly network: string;
  readonly containerId: string;
  readonly netns: string;
  readonly ifname: string;
  /** From CNI_ARGS, as containerd and CRI-O have it, with an empty `uid` when they do not say; `undefined`: the sandbox is no Kubernetes pod. */
  readonly pod: PodIdentity | undefined;
  readonly cniVersion: string;
  /** The result to answer with on success, as text: prevResult unchanged, or a minimal one. */
  readonly result: string;
  /** Addresses of prevResult without their prefix length. */
  readonly ips: readonly string[];
  /**
   * GC only: what the runtime still has of this network; `undefined` when it did not say, or in a way that cannot be read:
   * whoever is missing from a list that is not understood may still be there.
   */
  readonly validAttachments: readonly Pick<Attachment, "containerId" | "ifname">[] | undefined;
}

/** What the launcher relays. */
export interface RelayedCall {
  /** `CNI_*` variables by their name. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdin: string;
}

const requiredVariables: Readonly<Record<CniVerb, readonly string[]>> = {
  ADD: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
  CHECK: ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
  DEL: ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
  GC: ["CNI_PATH"],
  STATUS: [],
  VERSION: [],
};

/** The version to answer an unreadable call in. */
export const fallbackCniVersion = "1.0.0";

/** Checks a relayed call. @throws CniError naming everything that is missing, with the remedy */
export function parseCniRequest(call: RelayedCall): CniRequest {
  const verb = parseVerb(call.env);
  const config = parseConfig(call.stdin);
  const cniVersion = parseVersion(config);
  const args = parseArgs(call.env.CNI_ARGS ?? "");
  const { K8S_POD_NAMESPACE: namespace = "", K8S_POD_NAME: name = "", K8S_POD_UID: uid = "" } = args;
  const word = verb === "ADD" ? strictWord : forgivingWord;
  const prevResult = config.prevResult === null ? undefined : memberText(call.stdin, "prevResult");
  return {
    verb,
    network: word("name", textOf(config.name), bounds.cniNetwork),
    containerId: word("CNI_CONTAINERID", call.env.CNI_CONTAINERID ?? "", bounds.cniContainerId),
    netns: word("CNI_NETNS", call.env.CNI_NETNS ?? "", bounds.cniNetns),
    ifname: word("CNI_IFNAME", call.env.CNI_IFNAME ?? "", bounds.cniIfname),
    pod: namespace === "" || name === "" ? undefined : podNamed({ namespace, name, uid }, word),
    cniVersion,
    result: prevResult ?? minimalResult(cniVersion),
    ips: resultIps(config.prevResult),
    validAttachments: parseAttachments(config["cni.dev/valid-attachments"] ?? config["cni.dev/attachments"]),
  };
}

/** The configuration's version, as far as it can be read: errors are answered in it. */
export function answerVersion(stdin: string): string {
  try {
    return parseVersion(parseConfig(stdin));
  } catch {
    return fallbackCniVersion;
  }
}

function parseVerb(env: RelayedCall["env"]): CniVerb {
  const command = env.CNI_COMMAND ?? "";
  const verb = cniVerbs.find((candidate) => candidate === command);
  if (command !== "" && verb === undefined) {
    throw new CniError(
      "invalidEnvironment",
      `unknown CNI_COMMAND "${cutText(command, bounds.cniEcho)}": expected one of ${cniVerbs.join(", ")}`,
    );
  }
  const required = verb === undefined ? ["CNI_COMMAND"] : requiredVariables[verb];
  const missing = required.filter((variable) => (env[variable] ?? "") === "");
  if (verb === undefined || missing.length > 0) {
    throw new CniError(
      "invalidEnvironment",
      `required CNI variables are missing or empty: ${missing.join(", ")}`,
    );
  }
  return verb;
}

function parseConfig(stdin: string): Readonly<Record<string, unknown>> {
  let config: unknown;
  try {
    config = JSON.parse(stdin);
  } catch (error) {
    throw new CniError(
      "decoding",
      `cannot read the network configuration on stdin: ${(error as Error).message}`,
    );
  }
  if (!isRecord(config))
    throw new CniError("decoding", "the network configuration on stdin is not a JSON object");
  return config;
}

function parseVersion(config: Readonly<Record<string, unknown>>): string {
  const version = config.cniVersion ?? "";
  if (typeof version !== "string")
    throw new CniError("decoding", "cniVersion in the network configuration is not a string");
  // a chain without one works without us, so it does with us. Source: containernetworking/cni pkg/version/conf.go, Decode
  if (version === "") return defaultCniVersion;
  if (!isSupportedVersion(version)) {
    throw new CniError(
      "incompatibleVersion",
      `network configuration has cniVersion "${cutText(version, bounds.cniEcho)}", supported are ${supportedCniVersions.join(", ")}`,
      "set cniVersion in the conflist under the node's CNI configuration folder",
    );
  }
  return version;
}

/** Takes a word of a call. @throws CniError when it is longer than can be, where the verb may fail */
export type WordReader = (name: string, text: string, bound: { readonly bytes: number }) => string;

/** ADD: what is longer than can be names nothing. */
export const strictWord: WordReader = (name, text, { bytes }) => {
  if (fits(text, { bytes })) return text;
  throw new CniError(
    "invalidEnvironment",
    `${name} is longer than ${bytes} bytes: "${cutText(text, bounds.cniEcho)}"`,
  );
};

/** Everything else succeeds whatever it is about: a word that was cut is nobody's. */
const forgivingWord: WordReader = (_name, text, bound) => cutText(text, bound);

/** The pod that a call names. @throws CniError as the reader does */
export function podNamed({ namespace, name, uid }: PodIdentity, word: WordReader): PodIdentity {
  return {
    namespace: word("K8S_POD_NAMESPACE", namespace, bounds.namespaceName),
    name: word("K8S_POD_NAME", name, bounds.objectName),
    uid: word("K8S_POD_UID", uid, bounds.uid),
  };
}

function parseArgs(text: string): Record<string, string> {
  const args: Record<string, string> = {};
  for (const pair of text.split(";")) {
    const at = pair.indexOf("=");
    if (at > 0) args[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return args;
}

/** The result of a chain that had none before us; the launcher answers the same for exempt pods. */
function minimalResult(cniVersion: string): string {
  const lists = hasListResult(cniVersion) ? { interfaces: [], ips: [], routes: [] } : {};
  return JSON.stringify({ cniVersion, ...lists, dns: {} });
}

function resultIps(prevResult: unknown): string[] {
  const { ips: list, ip4, ip6 } = recordOf(prevResult);
  // before 0.3.0 a result has one address of each family, in a field called "ip"
  const ips = Array.isArray(list) ? (list as unknown[]) : [ip4, ip6];
  const addresses: string[] = [];
  for (const ip of ips.slice(0, bounds.cniAddresses.count)) {
    const { address: text, ip: plain } = recordOf(ip);
    const [address] = textOf(text ?? plain).split("/", 1);
    if (address && fits(address, bounds.cniAddresses)) addresses.push(address);
  }
  return addresses;
}

/** CRI-O says `null` for each network but the one that its pods use. */
function parseAttachments(value: unknown): Pick<Attachment, "containerId" | "ifname">[] | undefined {
  if (!Array.isArray(value) || value.length > bounds.cniAttachments.count) return undefined;
  const attachments: Pick<Attachment, "containerId" | "ifname">[] = [];
  for (const item of value as unknown[]) {
    if (!isRecord(item) || typeof item.containerID !== "string" || typeof item.ifname !== "string")
      return undefined;
    if (!fits(item.containerID, bounds.cniContainerId) || !fits(item.ifname, bounds.cniIfname))
      return undefined;
    attachments.push({ containerId: item.containerID, ifname: item.ifname });
  }
  return attachments;
}
