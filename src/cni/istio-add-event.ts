// SPDX-License-Identifier: Apache-2.0
// istio-cni's plugin event, so that a node whose chain still has istio-cni's plugin can be served. Pure.
// Source: istio/istio cni/pkg/nodeagent/cni-watcher.go, CNIPluginAddEvent.
import { bounds } from "../bounds/bounds.ts";
import { listOf, recordOf, textOf, wordOf } from "../kube/json-fields.ts";
import { CniError } from "./cni-error.ts";
import { type CniRequest, fallbackCniVersion, podNamed, strictWord } from "./cni-request.ts";

/** Reads the body of `POST /cmdadd` into the ADD it stands for. @throws CniError naming the fields that are missing or too long */
export function parseIstioAddEvent(body: string): CniRequest {
  let event: unknown;
  try {
    event = JSON.parse(body);
  } catch (error) {
    throw new CniError("decoding", `cannot read the event: ${(error as Error).message}`);
  }
  const fields = recordOf(event);
  const text = (name: string): string => textOf(fields[name]);
  const missing = ["Netns", "PodName", "PodNamespace"].filter((name) => text(name) === "");
  if (missing.length > 0) throw new CniError("decoding", `the event lacks: ${missing.join(", ")}`);
  return {
    verb: "ADD",
    network: "",
    containerId: "",
    netns: strictWord("Netns", text("Netns"), bounds.cniNetns),
    ifname: "",
    pod: podNamed({ namespace: text("PodNamespace"), name: text("PodName"), uid: "" }, strictWord),
    cniVersion: fallbackCniVersion,
    result: "",
    ips: eventIps(fields.IPs),
    validAttachments: undefined,
  };
}

function eventIps(ips: unknown): string[] {
  return listOf(ips)
    .slice(0, bounds.cniAddresses.count)
    .map((item) => wordOf(recordOf(recordOf(item).Address).IP, bounds.cniAddresses))
    .filter((address) => address !== "");
}
