// SPDX-License-Identifier: Apache-2.0
// istio-cni's plugin event, so that a node whose chain still has istio-cni's plugin can be served. Pure.
// Source: istio/istio cni/pkg/nodeagent/cni-watcher.go, CNIPluginAddEvent.
import { CniError } from "./cni-error.ts";
import { type CniRequest, fallbackCniVersion } from "./cni-request.ts";

/** Reads the body of `POST /cmdadd` into the ADD it stands for. @throws CniError naming the missing fields */
export function parseIstioAddEvent(body: string): CniRequest {
  let event: unknown;
  try {
    event = JSON.parse(body);
  } catch (error) {
    throw new CniError("decoding", `cannot read the event: ${(error as Error).message}`);
  }
  const fields = typeof event === "object" && event !== null ? (event as Record<string, unknown>) : {};
  const text = (name: string): string => (typeof fields[name] === "string" ? fields[name] : "");
  const missing = ["Netns", "PodName", "PodNamespace"].filter((name) => text(name) === "");
  if (missing.length > 0) throw new CniError("decoding", `the event lacks: ${missing.join(", ")}`);
  return {
    verb: "ADD",
    network: "",
    containerId: "",
    netns: text("Netns"),
    ifname: "",
    pod: { namespace: text("PodNamespace"), name: text("PodName"), uid: "" },
    cniVersion: fallbackCniVersion,
    result: "",
    ips: eventIps(fields.IPs),
    validAttachments: undefined,
  };
}

function eventIps(ips: unknown): string[] {
  if (!Array.isArray(ips)) return [];
  const addresses: string[] = [];
  for (const item of ips as unknown[]) {
    const address = (item as { Address?: { IP?: unknown } } | null)?.Address?.IP;
    if (typeof address === "string" && address !== "") addresses.push(address);
  }
  return addresses;
}
