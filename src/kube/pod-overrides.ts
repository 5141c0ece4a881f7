// SPDX-License-Identifier: Apache-2.0
// What a pod's own annotations change about its redirection.
import { parseGoBool } from "./go-bool.ts";
import { podAnnotations } from "./pod-facts.ts";

/** The choices of one pod; `warnings` has one sentence for each value that was ignored. */
export interface PodOverrides {
  /** Inbound traffic is left alone. */
  readonly ingressMode: boolean;
  /** Absent: the agent's setting holds. */
  readonly dnsCapture?: boolean;
  /** Interfaces whose TCP counts as outbound, in the order given, each once. */
  readonly virtualInterfaces: readonly string[];
  readonly warnings: readonly string[];
}

/** Reads the three per-pod annotations; a value that cannot be read is as good as absent, and is warned about. */
export function readPodOverrides(annotations: Readonly<Record<string, string>>): PodOverrides {
  const warnings: string[] = [];
  const readBool = (name: string): boolean | undefined => {
    const text = annotations[name];
    if (text === undefined) return undefined;
    const value = parseGoBool(text);
    if (value === undefined) {
      warnings.push(
        `Cannot use annotation ${name}="${printable(text)}": not a boolean; use "true" or "false"`,
      );
    }
    return value;
  };
  const ingressMode = readBool(podAnnotations.bypassInboundCapture) ?? false;
  const dnsCapture = readBool(podAnnotations.dnsCapture);
  const virtualInterfaces = readInterfaces(
    annotations[podAnnotations.rerouteVirtualInterfaces] ?? "",
    warnings,
  );
  return { ingressMode, ...(dnsCapture === undefined ? {} : { dnsCapture }), virtualInterfaces, warnings };
}

/** Whoever may write a pod could otherwise keep the whole node's agent busy with it: each is four rules. */
const maxInterfaces = 64;

function readInterfaces(list: string, warnings: string[]): string[] {
  const names = list.split(",").map((name) => name.trim());
  const usable = names.filter((name) => {
    if (name === "") return false;
    const fault = interfaceNameFault(name);
    if (fault !== undefined) {
      const annotation = podAnnotations.rerouteVirtualInterfaces;
      warnings.push(`Cannot use interface "${printable(name)}" of annotation ${annotation}: ${fault}`);
    }
    return fault === undefined;
  });
  const distinct = [...new Set(usable)];
  if (distinct.length > maxInterfaces) {
    warnings.push(
      `Cannot use all ${distinct.length} interfaces of annotation ${podAnnotations.rerouteVirtualInterfaces}: only the first ${maxInterfaces} count`,
    );
  }
  return distinct.slice(0, maxInterfaces);
}

/**
 * Says why a name cannot stand in a rule, or undefined when it can.
 * Narrower than the kernel, which only forbids "/", ":", white space, "." and ".." and more than 15 bytes:
 * the name is set into rule text, where quotes, backslashes and a leading dash mean something else.
 * Source: Linux net/core/dev.c, dev_valid_name; IFNAMSIZ in linux/if.h.
 */
export function interfaceNameFault(name: string): string | undefined {
  if (Buffer.byteLength(name) > 15) return "longer than 15 bytes";
  if (name === "" || name === "." || name === "..") return "not a name an interface can have";
  if (!/^[A-Za-z0-9_.@-]+\+?$/.test(name))
    return 'only letters, digits, "_.@-" and a "+" at the end can stand in a rule';
  if (!/^[A-Za-z0-9_]/.test(name)) return `cannot begin with "${name[0]}"`;
  return undefined;
}

function printable(text: string): string {
  const escaped = JSON.stringify(text).slice(1, -1);
  return escaped.length > 60 ? `${escaped.slice(0, 60)}…` : escaped;
}
