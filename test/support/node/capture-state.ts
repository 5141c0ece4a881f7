// SPDX-License-Identifier: Apache-2.0
// Whether a pod is captured, by what the kernel says: rules, policy routing and ztunnel's sockets.

import { claim } from "./claim.ts";
import { type Family, ipRoutes, ipRules, iptablesSave, listeningSockets } from "./kernel.ts";
import type { PodSpec } from "./pod.ts";
import { type WaitOptions, waitFor } from "./wait-for.ts";

const families: readonly Family[] = [4, 6];
const ztunnelPorts = ["tcp 15001", "tcp 15006", "tcp 15008", "tcp 15053", "udp 15053"];

/** What the claims look at: a pod of ours, or one that somebody else runs. */
export interface CaptureSubject {
  readonly netns: string;
  readonly spec: Pick<PodSpec, "name">;
}

/** Rules that each do an own part of the work, as iptables-save prints them; two of them with istio's own text, too. Source: istio/istio cni/pkg/iptables. */
const rulesOfCapture: readonly RegExp[] = [
  /^-A PREROUTING -j ISTIO_PRERT$/m,
  /^-A OUTPUT -j ISTIO_OUTPUT$/m,
  /^-A ISTIO_PRERT -m mark --mark 0x539\/0xfff -j CONNMARK --set-xmark 0x111\/0xfff$/m,
  /^-A ISTIO_OUTPUT -m connmark --mark 0x111\/0xfff -j CONNMARK --restore-mark/m,
  /^-A ISTIO_PRERT ! -d \S+ -p tcp -m tcp ! --dport 15008 (--tcp-flags FIN,SYN,RST,ACK SYN )?-m mark ! --mark 0x539\/0xfff -j REDIRECT --to-ports 15006$/m,
  /^-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539\/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053$/m,
  /^-A ISTIO_OUTPUT ! -d \S+ -p tcp -m tcp --dport 53 -m mark ! --mark 0x539\/0xfff -j REDIRECT --to-ports 15053$/m,
  /^-A ISTIO_OUTPUT -p udp -m mark --mark 0x539\/0xfff -m udp --dport 53 -j CT --zone 1$/m,
  /^-A ISTIO_PRERT -p udp -m mark ! --mark 0x539\/0xfff -m udp --sport 53 -j CT --zone 1$/m,
  /^-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111\/0xfff -j ACCEPT$/m,
  /^-A ISTIO_OUTPUT ! -d \S+ -p tcp (-m tcp --tcp-flags FIN,SYN,RST,ACK SYN )?-m mark ! --mark 0x539\/0xfff -j REDIRECT --to-ports 15001$/m,
];

/**
 * @param options.variant of iptables, in whose tables the rules stand; default nft
 * @throws ClaimError naming what is missing for the pod to be captured, in either family.
 */
export async function claimCaptured(
  pod: CaptureSubject,
  { variant = "nft" }: { readonly variant?: "nft" | "legacy" } = {},
): Promise<void> {
  const who = pod.spec.name;
  for (const family of families) {
    const save = await iptablesSave(pod.netns, family, { variant });
    const missing = rulesOfCapture.filter((rule) => !rule.test(save));
    claim(missing.length === 0, `IPv${family} rules of "${who}" lack ${missing.join(" and ")}:\n${save}`);
    const rules = await ipRules(pod.netns, family);
    const wanted = /^32764:\s+from all fwmark 0x111\/0xfff lookup 100$/;
    claim(
      rules.filter((rule) => wanted.test(rule.trim())).length === 1,
      `ip rules of "${who}": ${rules.join("; ")}`,
    );
    const routes = await ipRoutes(pod.netns, family, 100);
    claim(
      routes.length === 1 && /^local (default|0\.0\.0\.0\/0|::\/0) dev lo\b/.test(routes[0] ?? ""),
      `IPv${family} table 100 of "${who}": ${routes.join("; ") || "empty"}`,
    );
  }
  const open = await openPorts(pod);
  const closed = ztunnelPorts.filter((port) => !open.includes(port));
  claim(closed.length === 0, `nobody listens on ${closed.join(", ")} in "${who}"`);
}

/** @throws ClaimError naming what is left of a capture in the pod. */
export async function claimUntouched(pod: CaptureSubject): Promise<void> {
  const who = pod.spec.name;
  for (const family of families) {
    const save = await iptablesSave(pod.netns, family, { variant: "nft" });
    claim(!save.includes("ISTIO") && !save.includes("-A "), `IPv${family} rules in "${who}":\n${save}`);
    const rules = await ipRules(pod.netns, family);
    claim(!rules.some((rule) => rule.includes("0x111")), `ip rules of "${who}": ${rules.join("; ")}`);
    const routes = await ipRoutes(pod.netns, family, 100);
    claim(routes.length === 0, `IPv${family} table 100 of "${who}": ${routes.join("; ")}`);
  }
  const open = await openPorts(pod);
  const ours = ztunnelPorts.filter((port) => open.includes(port));
  claim(ours.length === 0, `ztunnel still listens on ${ours.join(", ")} in "${who}"`);
}

/** Waits until a running pod is captured: ztunnel has it before its rules stand. */
export async function untilCaptured(pod: CaptureSubject, options: WaitOptions = {}): Promise<void> {
  await waitFor(`"${pod.spec.name}" to be captured`, () => claimCaptured(pod).then(() => true), options);
}

/** Waits until nothing is left of a capture: the annotation goes first, the last rules go when ztunnel's packets are out. */
export async function untilUntouched(pod: CaptureSubject): Promise<void> {
  await waitFor(`"${pod.spec.name}" to be free`, () => claimUntouched(pod).then(() => true));
}

async function openPorts(pod: CaptureSubject): Promise<string[]> {
  return (await listeningSockets(pod.netns)).map((socket) => `${socket.protocol} ${socket.port}`);
}
