// SPDX-License-Identifier: Apache-2.0
// The messages of NRI that a plugin needs which changes no container: who it is, what it wants to hear, and sandboxes. Pure, no I/O.
// Source: containerd/nri pkg/api/api.proto, v1alpha1.
import { cutText, fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { fieldsOf, numberField, textField } from "../protobuf/wire.ts";

/** Names of the two services. */
export const services = {
  runtime: "nri.pkg.api.v1alpha1.Runtime",
  plugin: "nri.pkg.api.v1alpha1.Plugin",
} as const;

/** A pod's sandbox as the runtime tells of it. */
export interface RuntimeSandbox {
  /** As in CNI_CONTAINERID. */
  readonly id: string;
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** Of its network namespace, as the runtime sees it; empty: it has none of its own. */
  readonly netnsPath: string;
  /** Addresses without prefix length, as CNI gave them. */
  readonly ips: readonly string[];
}

/** Who asks, and what it grants. */
export interface RuntimeGreeting {
  /** "containerd" or "cri-o", as it says. */
  readonly name: string;
  readonly version: string;
  /** How long a plugin may take; 0: it does not say. */
  readonly requestTimeoutMs: number;
}

/** Events that a plugin can hear. Source: api.proto, enum Event. */
const events = { run: 1, stop: 2, remove: 3, create: 4 } as const;

/** RegisterPluginRequest. @param index two digits: plugins are asked in their order */
export function encodeRegistration(plugin: { readonly name: string; readonly index: string }): Uint8Array {
  return Buffer.concat([textField(1, plugin.name), textField(2, plugin.index)]);
}

/** Reads a ConfigureRequest. @throws RangeError */
export function decodeGreeting(bytes: Uint8Array): RuntimeGreeting {
  let [name, version, requestTimeoutMs] = ["", "", 0];
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === 2 && value instanceof Uint8Array) name = shown(value);
    else if (number === 3 && value instanceof Uint8Array) version = shown(value);
    else if (number === 5 && typeof value === "number") requestTimeoutMs = value;
  }
  return { name, version, requestTimeoutMs };
}

/** ConfigureResponse: a bit for each event, its number less one. Source: pkg/api/event.go, EventMask.Set. */
export function encodeSubscription(wanted: readonly SandboxEvent[]): Uint8Array {
  return numberField(
    2,
    wanted.reduce((mask, event) => mask | (1 << (events[event] - 1)), 0),
  );
}

/** SynchronizeResponse: nothing is to be changed. @param more as in the request that it answers */
export function encodeSynchronized(more: boolean): Uint8Array {
  return numberField(2, more ? 1 : 0);
}

/** Reads a SynchronizeRequest; containers in it are not looked at. @throws RangeError */
export function decodeSynchronization(bytes: Uint8Array): {
  readonly sandboxes: readonly RuntimeSandbox[];
  /** The rest comes in further requests. */
  readonly more: boolean;
} {
  const sandboxes: RuntimeSandbox[] = [];
  let more = false;
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === 3 && typeof value === "number") more = value !== 0;
    if (number !== 1 || !(value instanceof Uint8Array)) continue;
    const sandbox = decodeSandbox(value);
    if (sandbox !== undefined && sandboxes.length < bounds.nriSandboxes.count) sandboxes.push(sandbox);
  }
  return { sandboxes, more };
}

/**
 * What became of a sandbox: all its networks are there and no container of it is yet; a container of it is about to be made; its containers have
 * ended; it is gone.
 */
export type SandboxEvent = keyof typeof events;

/** Reads the sandbox of a request that is about one, or about a container of one; `undefined`: it names none that can be one. @throws RangeError */
export function decodeSandboxRequest(bytes: Uint8Array): RuntimeSandbox | undefined {
  return decodeStateChange(bytes, 1).sandbox;
}

/**
 * Reads a StateChangeEvent, by which runtimes tell of sandboxes until NRI 0.9. @param sandboxField where the sandbox is
 * @throws RangeError
 */
export function decodeStateChange(
  bytes: Uint8Array,
  sandboxField = 2,
): { readonly event: SandboxEvent | undefined; readonly sandbox: RuntimeSandbox | undefined } {
  let [event, sandbox]: [number, RuntimeSandbox | undefined] = [0, undefined];
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === 1 && typeof value === "number") event = value;
    if (number === sandboxField && value instanceof Uint8Array) sandbox = decodeSandbox(value);
  }
  const known = (Object.keys(events) as SandboxEvent[]).find((each) => events[each] === event);
  return { event: known, sandbox };
}

/** `undefined` where one of its words is longer than any such word can be. */
function decodeSandbox(bytes: Uint8Array): RuntimeSandbox | undefined {
  const words: Record<"id" | "name" | "uid" | "namespace" | "netnsPath", string | undefined> = {
    ...{ id: "", name: "", uid: "", namespace: "", netnsPath: "" },
  };
  const ips: string[] = [];
  for (const { number, value } of fieldsOf(bytes)) {
    if (!(value instanceof Uint8Array)) continue;
    if (number === 1) words.id = word(value, bounds.nriId);
    else if (number === 2) words.name = word(value, bounds.nriName);
    else if (number === 3) words.uid = word(value, bounds.nriName);
    else if (number === 4) words.namespace = word(value, bounds.nriName);
    else if (number === 8) words.netnsPath = decodeNetnsPath(value);
    else if (number === 10) addAddress(ips, value);
  }
  const { id, name, uid, namespace, netnsPath } = words;
  const isWhole = id !== undefined && name !== undefined && uid !== undefined && namespace !== undefined;
  return isWhole && netnsPath !== undefined ? { id, uid, namespace, name, netnsPath, ips } : undefined;
}

function addAddress(ips: string[], value: Uint8Array): void {
  const ip = word(value, bounds.nriAddresses);
  if (ip !== undefined && ip !== "" && ips.length < bounds.nriAddresses.count) ips.push(ip);
}

/** LinuxPodSandbox, of which LinuxNamespace is field 5. */
function decodeNetnsPath(bytes: Uint8Array): string | undefined {
  for (const { number, value } of fieldsOf(bytes)) {
    if (number !== 5 || !(value instanceof Uint8Array)) continue;
    let [type, path]: (string | undefined)[] = ["", ""];
    for (const { number: inner, value: text } of fieldsOf(value)) {
      if (!(text instanceof Uint8Array)) continue;
      if (inner === 1) type = word(text, bounds.nriName);
      if (inner === 2) path = word(text, bounds.nriPath);
    }
    if (type === "network") return path;
  }
  return "";
}

/** `undefined` for what is too long to be one: a name that is cut off would be another's. */
function word(bytes: Uint8Array, bound: { readonly bytes: number }): string | undefined {
  if (bytes.length > bound.bytes) return undefined;
  const text = Buffer.from(bytes).toString();
  return fits(text, bound) ? text : undefined;
}

function shown(bytes: Uint8Array): string {
  return cutText(Buffer.from(bytes.subarray(0, bounds.nriRuntime.bytes + 4)).toString(), bounds.nriRuntime);
}
