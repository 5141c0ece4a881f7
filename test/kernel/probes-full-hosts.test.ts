// SPDX-License-Identifier: Apache-2.0
// The choice of the variant and the host's own rules where others keep very many, or such as iptables cannot print.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import type { Variant } from "../../src/netfilter/variant-tools.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";
import { HostState, type HostStateOptions } from "../../src/probes/host-state.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { kubeProxyRules, kubeProxyRuleset } from "../support/kube-proxy-rules.ts";

const SERVICES = 20_000;
/** A quiet machine takes 2 s, most of it in iptables-legacy-restore; this one may be busy. */
const DEADLINE_MS = 20_000;

let folder: string;
let host: TestNetns;
let running: HostProbes[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ambient-full-hosts-"));
  host = await TestNetns.make();
  running = [];
});
afterEach(async () => {
  for (const probes of running) await probes.stop();
  host[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

interface Begun {
  readonly probes: HostProbes;
  readonly options: HostStateOptions;
  readonly tookMs: number;
  readonly reason: string;
}

/** What an agent waits for at its start. */
async function begin(variant: Variant): Promise<Begun> {
  const start = performance.now();
  const runDir = mkdtempSync(join(folder, "run-"));
  const runner = new ToolRunner();
  const backend = await chooseBackend({ variant: "auto", runDir, hostProcess: `/proc/${host.pid}`, runner });
  expect(backend.variant).toBe(variant);
  const states: (string | undefined)[] = [];
  const options = {
    hostNetnsPath: `/proc/${host.pid}/ns/net`,
    backend,
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
    ipv6: true,
  };
  const probes = new HostProbes({
    ...options,
    log: silentLogger,
    onstate: (fault) => void states.push(fault),
    intervalMs: 60_000,
  });
  running.push(probes);
  await probes.start();
  expect(states).toEqual([undefined]);
  return { probes, options, tookMs: performance.now() - start, reason: backend.reason };
}

test.each([
  ["legacy", "iptables-legacy-restore --noflush", kubeProxyRules],
  ["nft", "nft -f -", kubeProxyRuleset],
] as const)(
  `${SERVICES} services in %s keep no agent from its start`,
  async (variant, load, rules) => {
    await host.run(load, rules(SERVICES));
    const { probes, tookMs } = await begin(variant);
    const start = performance.now();
    expect(await probes.verify()).toEqual([]);
    const lookMs = performance.now() - start;
    console.log(`${variant}: ready in ${tookMs.toFixed(0)} ms, a look in ${lookMs.toFixed(1)} ms`);
    expect(tookMs).toBeLessThan(DEADLINE_MS);
  },
  180_000,
);

const rulesOfOthers: readonly { name: string; variant: Variant; command: string; stdin?: string }[] = [
  ...(["nft", "legacy"] as const).flatMap((variant) => [
    {
      name: "a comment over two lines",
      variant,
      command: `iptables-${variant} -t nat -A POSTROUTING -m comment --comment office\nvpn -j MASQUERADE`,
    },
    {
      name: "a comment with a line that looks like ours",
      variant,
      command: `iptables-${variant} -t nat -A POSTROUTING -m comment --comment x\n-A\tISTIO_POSTRT -j MASQUERADE`,
    },
  ]),
  {
    name: "expressions of nft",
    variant: "nft",
    command: "nft -f -",
    stdin: `table ip nat {
      chain POSTROUTING { type nat hook postrouting priority 100; meta hour "05:00"-"06:00" accept; numgen random mod 5 > 2 accept; }
    }
    table ip6 nat { chain a { meta l4proto vmap { tcp : accept, udp : drop }; }; }
    `,
  },
];

test.each(rulesOfOthers)(
  "$name of others in $variant does not matter",
  async ({ variant, command, stdin }) => {
    await host.run(command, stdin);
    const { probes, options } = await begin(variant);
    expect(await probes.verify()).toEqual([]);
    await probes.stop();
    expect(await new HostState(options).remove(host.netns)).toBe(true);
  },
);

test.each(["nft", "legacy"] as const)(
  "an extension that the image lacks does not matter in %s",
  async (variant) => {
    await host.run(
      `iptables-${variant} -t nat -A POSTROUTING -m statistic --mode nth --every 2 --packet 0 -j RETURN`,
    );
    // in a mount namespace of its own, where the library is hidden
    const script = `for lib in /usr/lib/*/xtables/libxt_statistic.so; do mount --bind /dev/null "$lib"; done
    exec "${process.execPath}" "${join(import.meta.dirname, "probes-full-hosts.inside.ts")}" ${host.pid} ${variant} "${folder}"`;
    const printed = execFileSync("unshare", ["-m", "--propagation", "private", "sh", "-c", script], {
      encoding: "utf8",
    });
    expect(JSON.parse(printed)).toEqual({ variant, states: [null], isIntact: true });
  },
);
