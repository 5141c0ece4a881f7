// SPDX-License-Identifier: Apache-2.0
// What a pod's own annotations change about its redirection.
import { cutText, firstFew, fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { parseGoBool } from "./json-fields.ts";
import { type PodFacts, podAnnotations } from "./pod-facts.ts";

/** The choices of one pod; `warnings` has a sentence for each of the first values that were ignored, and one for the others. */
export interface PodOverrides {
  /** Inbound traffic is left alone. */
  readonly ingressMode: boolean;
  /** Absent: the agent's setting holds. */
  readonly dnsCapture?: boolean;
  /** Interfaces whose TCP counts as outbound, in the order given, each once. */
  readonly virtualInterfaces: readonly string[];
  readonly warnings: readonly string[];
}

/** Of each version's annotations: every run of the pod asks, and so do reports. */
const known = new WeakMap<Readonly<Record<string, string>>, PodOverrides>();

/**
 * Reads the three per-pod annotations, once for each object that holds them; a value that cannot be read is as good as absent,
 * and is warned about.
 */
export function podOverridesOf({
  annotations,
  excess,
}: Pick<PodFacts, "annotations" | "excess">): PodOverrides {
  const earlier = known.get(annotations);
  if (earlier !== undefined) return earlier;
  const overrides = readPodOverrides(annotations, excess);
  known.set(annotations, overrides);
  return overrides;
}

/** @param excess what of the pod does not count for other reasons, to be warned about first */
export function readPodOverrides(
  annotations: Readonly<Record<string, string>>,
  excess: readonly string[] = [],
): PodOverrides {
  const warnings: string[] = [...excess];
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
  const told = firstFew(warnings, {
    ...bounds.podWarnings,
    more: (rest) => `Cannot use ${rest} more of the words in this pod's annotations`,
  });
  return {
    ingressMode,
    ...(dnsCapture === undefined ? {} : { dnsCapture }),
    virtualInterfaces,
    warnings: told,
  };
}

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
  const { count: maxInterfaces } = bounds.reroutedInterfaces;
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
  const { bytes } = bounds.reroutedInterfaces;
  if (!fits(name, { bytes })) return `longer than ${bytes} bytes`;
  if (name === "" || name === "." || name === "..") return "not a name an interface can have";
  if (!/^[A-Za-z0-9_.@-]+\+?$/.test(name))
    return 'only letters, digits, "_.@-" and a "+" at the end can stand in a rule';
  if (!/^[A-Za-z0-9_]/.test(name)) return `cannot begin with "${name[0]}"`;
  return undefined;
}

const shown = { bytes: 63 };

/** Without what a terminal would obey: JSON escapes the control characters before the blank, and none of the others. */
function printable(text: string): string {
  const escaped = JSON.stringify(cutText(text, shown))
    .slice(1, -1)
    .replace(/[\u007f-\u009f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
  return cutText(escaped, shown);
}
