// SPDX-License-Identifier: Apache-2.0
// Choosing the iptables variant on hosts whose rules are many, or of a kind that iptables cannot print.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { chooseBackend, type RedirectBackend } from "../../src/netfilter/variant.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { kubeProxyRules, kubeProxyRuleset } from "../support/kube-proxy-rules.ts";

const SERVICES = 20_000;
/** A quiet machine takes 20 ms for iptables-legacy and 150 ms for iptables-nft; printing the rules takes seconds. */
const DEADLINE_MS = 1_500;

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-variant-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** The best of three: what is measured is the work, not who else works. */
async function choose(host: TestNetns): Promise<RedirectBackend & { readonly tookMs: number }> {
  const tookMs: number[] = [];
  for (;;) {
    const runner = new ToolRunner();
    const runDir = mkdtempSync(join(folder, "run-"));
    const start = performance.now();
    const backend = await chooseBackend({
      variant: "auto",
      runDir,
      hostProcess: `/proc/${host.pid}`,
      runner,
    });
    tookMs.push(performance.now() - start);
    expect(runner.startedCount).toBe(0);
    if (tookMs.length === 3) return { ...backend, tookMs: Math.min(...tookMs) };
  }
}

test.each([
  ["legacy", "iptables-legacy-restore --noflush", kubeProxyRules],
  ["nft", "nft -f -", kubeProxyRuleset],
] as const)(
  `${SERVICES} services in %s are counted without a process`,
  async (variant, load, rules) => {
    using host = await TestNetns.make();
    await host.run(load, rules(SERVICES));
    const backend = await choose(host);
    expect(backend.variant).toBe(variant);
    expect(backend.reason).toMatch(
      variant === "nft"
        ? /^the host has about \d{6} iptables rules in nf_tables and 0 in x_tables$/
        : /^the host has 0 iptables rules in nf_tables and about \d{6} in x_tables$/,
    );
    expect(backend.tookMs).toBeLessThan(DEADLINE_MS);
  },
  120_000,
);

test.each([
  [20, "nft"],
  [20, "legacy"],
  [300, "nft"],
  [300, "legacy"],
  [3_000, "nft"],
  [3_000, "legacy"],
])(
  "of %d services in both variants, more in %s, that one is found",
  async (services, more) => {
    using host = await TestNetns.make();
    const extra = (variant: string) => (variant === more ? Math.floor(services / 10) : 0);
    await host.run("iptables-legacy-restore --noflush", kubeProxyRules(services + extra("legacy")));
    await host.run("nft -f -", kubeProxyRuleset(services + extra("nft")));
    const { variant, reason } = await choose(host);
    expect(`${variant}: ${reason}`).toMatch(new RegExp(`^${more}: `));
  },
  60_000,
);

const rulesOfOthers: readonly {
  name: string;
  variant: "nft" | "legacy";
  command: string;
  stdin?: string;
  counts: string;
}[] = [
  {
    name: "expressions of nft in a table of iptables",
    variant: "nft",
    command: "nft -f -",
    stdin: "table ip nat {\nchain zz {\nnumgen random mod 5 > 2 accept\n}\n}\n",
    counts: "1 iptables rules in nf_tables and 0",
  },
  {
    name: "verdicts in a map",
    variant: "nft",
    command: "nft -f -",
    stdin:
      "table ip nat {\nchain yy {\n}\nchain zz {\nmeta l4proto vmap { tcp : accept, udp : jump yy }\n}\n}\n",
    counts: "about 4 iptables rules in nf_tables and 0",
  },
  {
    name: "comments over two lines",
    variant: "legacy",
    command: "iptables-legacy -t nat -A POSTROUTING -m comment --comment office\nvpn -j MASQUERADE",
    counts: "0 iptables rules in nf_tables and 1",
  },
];

test.each(rulesOfOthers)("$name are counted like others", async ({ variant, command, stdin, counts }) => {
  using host = await TestNetns.make();
  await host.run(command, stdin);
  expect(await choose(host)).toMatchObject({ variant, reason: `the host has ${counts} in x_tables` });
});
