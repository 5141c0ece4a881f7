// SPDX-License-Identifier: Apache-2.0
// The rules a captured pod must have, to the letter, as iptables-save prints them: written by hand, shared with nothing in the agent.
// Source: istio/istio cni/pkg/iptables/iptables.go, appendInpodRules; the agent's own is that two rules match SYN alone.
import type { Family } from "../support/node/kernel.ts";
import type { Overrides } from "./operations.ts";

const loopback = { 4: "127.0.0.1/32", 6: "::1/128" } as const;
const probes = { 4: "169.254.7.127/32", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128" } as const;

/** Rules of ISTIO_PRERT and ISTIO_OUTPUT by table, in their order; a table that is named has both chains, others have none. */
export function capturedRules(family: Family, overrides: Overrides): Record<string, string[]> {
  const dns = overrides.dnsCapture !== "false";
  const ingress = overrides.ingress === "true";
  const interfaces = overrides.interfaces?.split(",") ?? [];
  const local = loopback[family];
  const probe = probes[family];
  const nat = [
    ...interfaces.flatMap((name) => [
      `-A ISTIO_PRERT -i ${name} -p tcp -j REDIRECT --to-ports 15001`,
      `-A ISTIO_PRERT -i ${name} -p tcp -j RETURN`,
    ]),
    ...when(!ingress, [
      `-A ISTIO_PRERT -s ${probe} -p tcp -m tcp -j ACCEPT`,
      `-A ISTIO_PRERT ! -d ${local} -p tcp -m tcp ! --dport 15008 --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006`,
    ]),
    `-A ISTIO_OUTPUT -d ${probe} -p tcp -m tcp -j ACCEPT`,
    ...when(dns, [
      "-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053",
      `-A ISTIO_OUTPUT ! -d ${local} -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053`,
    ]),
    "-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
    `-A ISTIO_OUTPUT ! -d ${local} -o lo -j ACCEPT`,
    `-A ISTIO_OUTPUT ! -d ${local} -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001`,
  ];
  const mangle = [
    "-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff",
    "-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
  ];
  const raw = [
    "-A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1",
    "-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1",
  ];
  return { nat, mangle, ...(dns ? { raw } : {}) };
}

function when(condition: boolean, rules: readonly string[]): readonly string[] {
  return condition ? rules : [];
}

/** The part of one table of iptables-save that is about us, and what else is there. */
export interface TableRules {
  /** Rules of our two chains, ISTIO_PRERT first. */
  own: string[];
  /** Our chains, sorted. */
  chains: string[];
  /** Rules that enter one of our chains. */
  jumps: string[];
  others: string[];
}

/** Sorts the text of iptables-save by table. */
export function readTables(save: string): Map<string, TableRules> {
  const tables = new Map<string, TableRules>();
  let table: TableRules = { own: [], chains: [], jumps: [], others: [] };
  for (const line of save.split("\n")) {
    const name = /^\*(\S+)/.exec(line)?.[1];
    if (name !== undefined) {
      table = { own: [], chains: [], jumps: [], others: [] };
      tables.set(name, table);
    }
    const chain = /^:(ISTIO_\S+)/.exec(line)?.[1];
    if (chain !== undefined) table.chains.push(chain);
    if (!line.startsWith("-A ")) continue;
    if (line.startsWith("-A ISTIO_")) table.own.push(line);
    else if (/ -[jg] ISTIO_/.test(line)) table.jumps.push(line);
    else table.others.push(line);
  }
  for (const { own, chains } of tables.values()) {
    // which chain is printed first is the kernel's affair
    own.sort((a, b) => Number(b.startsWith("-A ISTIO_PRERT")) - Number(a.startsWith("-A ISTIO_PRERT")));
    chains.sort();
  }
  return tables;
}
