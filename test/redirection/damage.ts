// SPDX-License-Identifier: Apache-2.0
// Random blows at a rule set, as iptables-restore texts; each may land or be refused.

const TABLES = ["mangle", "nat", "raw"];
const CHAINS = ["ISTIO_PRERT", "ISTIO_OUTPUT"];
const HOOKS = ["PREROUTING", "OUTPUT"];

/** One to six blows. */
export function damage(random: () => number): string[] {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const blow = (): string => {
    const table = pick(TABLES);
    const index = random() < 0.5 ? 0 : 1;
    const chain = CHAINS[index]!;
    const hook = HOOKS[index]!;
    const body = pick([
      `-A ${chain} -p tcp -j ACCEPT`,
      `-A ${chain} -p udp -m udp --dport 5${Math.floor(random() * 10)} -j RETURN`,
      `-F ${chain}`,
      `-D ${hook} -j ${chain}`,
      `-A ${hook} -j ${chain}`,
      `-A ${hook} -p tcp -j ${chain}`,
      `-A ${hook} -g ${chain}`,
      `-D ${hook} -j ${chain}\n-F ${chain}\n-X ${chain}`,
      `:${chain} - [0:0]`,
      `-A ${hook} -s 10.1.2.0/24 -j ACCEPT`,
      `-D ${chain} -p tcp -m mark --mark 0x111/0xfff -j ACCEPT`,
      `-D ${chain} ! -d 127.0.0.1/32 -o lo -j ACCEPT\n-A ${chain} ! -d 127.0.0.1/32 -o lo -j ACCEPT`,
    ]);
    return `*${table}\n${body}\nCOMMIT\n`;
  };
  return Array.from({ length: 1 + Math.floor(random() * 6) }, blow);
}
