// SPDX-License-Identifier: Apache-2.0
// The rules of table mangle for a pod with a sidecar: packets that belong to no connection, and the proxy that keeps addresses.
import type { Family } from "../netfilter/family.ts";
import type { SidecarOptions } from "./sidecar-options.ts";
import {
  capturesInbound,
  dport,
  excludedInterfaces,
  hex,
  LO,
  LOOPBACK,
  MARKED,
  OWN_ADDRESS_MARK,
  ownersOf,
  PASSTHROUGH,
  PROXY_INBOUND,
  RETURN,
  returnPorts,
  ruleOf,
  type SidecarRule,
  TCP,
  TPROXY_MARK,
} from "./sidecar-rule.ts";

/** In their order; none where nothing of it is asked for. */
export function mangleRules(options: SidecarOptions, family: Family): SidecarRule[] {
  const isTproxy = capturesInbound(options) && options.mode === "TPROXY";
  return [
    ...(isTproxy ? excludedInterfaces(options, { table: "mangle", inbound: true }) : []),
    ...(options.dropInvalid ? dropRules() : []),
    ...(isTproxy ? [...tproxyInbound(options, family), ...tproxyOutbound(options, family)] : []),
  ];
}

function dropRules(): SidecarRule[] {
  const rule = ruleOf("mangle");
  return [
    rule("ISTIO_INBOUND", ["-m", "conntrack", "--ctstate", "INVALID", "-j", "ISTIO_DROP"], {
      comment:
        "what belongs to no connection, such as a packet outside of its window, is not answered with a reset",
    }),
    rule("ISTIO_DROP", ["-j", "DROP"], { comment: "but goes nowhere" }),
  ];
}

/** Inbound connections reach the proxy with both of their addresses. */
function tproxyInbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("mangle");
  const { includeInboundPorts, excludeInboundPorts } = options;
  const lead = (match: readonly string[]) => [
    rule(
      "ISTIO_INBOUND",
      [...TCP, ...match, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ISTIO_DIVERT"],
      { comment: "packets of connections that are open find the proxy's socket by their mark" },
    ),
    rule("ISTIO_INBOUND", [...TCP, ...match, "-j", "ISTIO_TPROXY"], {
      comment: "new connections are given to the proxy as they are",
    }),
  ];
  return [
    rule("ISTIO_INBOUND", [...TCP, ...MARKED, "-j", "CONNMARK", "--save-mark", ...fullMasks()], {
      comment:
        "a connection that the proxy opens in a client's name is marked, so that answers find the proxy",
    }),
    rule("ISTIO_INBOUND", [...TCP, ...MARKED, ...RETURN], { comment: "and is not led to the proxy again" }),
    rule("ISTIO_INBOUND", ["-s", PASSTHROUGH[family], "-i", "lo", ...TCP, ...RETURN], {
      comment: "connections of the proxy to the app",
    }),
    rule(
      "ISTIO_INBOUND",
      ["-i", "lo", ...TCP, "-m", "mark", "!", "--mark", hex(OWN_ADDRESS_MARK), ...RETURN],
      { comment: "an app that calls itself by the pod's address, unless the proxy does it in its place" },
    ),
    ...(includeInboundPorts === "*"
      ? [...returnPorts("mangle", excludeInboundPorts), ...lead([])]
      : includeInboundPorts.flatMap((port) => lead(dport("tcp", port)))),
    rule("ISTIO_DIVERT", ["-j", "MARK", "--set-xmark", `${hex(TPROXY_MARK)}/0xffffffff`], {
      comment: "the mark's route leads to this namespace's own sockets",
    }),
    rule("ISTIO_DIVERT", ["-j", "ACCEPT"], { comment: "whatever else is asked behind" }),
    rule(
      "ISTIO_TPROXY",
      [
        ...["!", "-d", LOOPBACK[family], ...TCP, "-j", "TPROXY"],
        ...["--on-port", PROXY_INBOUND, "--tproxy-mark", `${hex(TPROXY_MARK)}/0xffffffff`],
      ],
      { comment: "the proxy listens for all addresses" },
    ),
  ];
}

function tproxyOutbound(options: SidecarOptions, family: Family): SidecarRule[] {
  const rule = ruleOf("mangle");
  const setMark = ["-j", "MARK", "--set-xmark", `${hex(OWN_ADDRESS_MARK)}/0xffffffff`];
  return [
    ...excludedInterfaces(options, { table: "mangle", inbound: false }),
    rule("ISTIO_OUTPUT_TPROXY", [...LO, ...TCP, ...MARKED, ...RETURN], {
      comment: "the proxy's connections to the app keep the mark that they have",
    }),
    ...ownersOf(options).map((owner) =>
      rule("ISTIO_OUTPUT_TPROXY", ["!", "-d", LOOPBACK[family], ...LO, ...TCP, ...owner.is, ...setMark], {
        comment: "an app that calls itself through the proxy is inbound once more",
      }),
    ),
    rule(
      "ISTIO_OUTPUT_TPROXY",
      [
        ...[...TCP, "-m", "connmark", "--mark", hex(TPROXY_MARK)],
        ...["-j", "CONNMARK", "--restore-mark", ...fullMasks()],
      ],
      { comment: "answers of the app on such connections are led to the proxy's socket" },
    ),
  ];
}

function fullMasks(): string[] {
  return ["--nfmask", "0xffffffff", "--ctmask", "0xffffffff"];
}
