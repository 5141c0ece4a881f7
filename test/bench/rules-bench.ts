// SPDX-License-Identifier: Apache-2.0
// What the rules of one fresh pod cost: ours, the floor, and the way not to go.
import { Netns } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { defaultSidecarOptions } from "../../src/redirection/sidecar-options.ts";
import { SidecarRedirection } from "../../src/redirection/sidecar-redirection.ts";
import { renderRedirectText } from "../../src/redirection/told-redirection.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { run } from "../support/node/run.ts";
import { p50, timed } from "./samples.ts";

const options: RedirectOptions = {
  dnsCapture: true,
  ingressMode: false,
  virtualInterfaces: [],
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
};

const sidecarOptions = defaultSidecarOptions({ dnsCapture: true, dualStack: true });
/** A pod's interface with an address of each family: which ones it has says which rules a sidecar gets. */
const dualStackLink = [
  "ip link add eth0 type veth peer name eth1",
  "ip address add 192.0.2.1/24 dev eth0",
  "ip address add 2001:db8::1/64 dev eth0 nodad",
].join(" && ");

/** Medians in milliseconds, and the number of processes that our way starts. */
export interface RuleCosts {
  readonly replay: number;
  /** Natively. */
  readonly native: number;
  /** Of a sidecar that answers DNS, in both families. */
  readonly sidecar: number;
  /** The agent's look at a pod that is right, and that nobody has touched since the look before. */
  readonly check: number;
  /** The same with everything read and compared. */
  readonly fullCheck: number;
  readonly processes: number;
  readonly floor: number;
  readonly checks25: number;
}

/** Measures them in turn, each time in a namespace that never held a rule. */
export async function measureRules(samples: number): Promise<RuleCosts> {
  const runner = new ToolRunner();
  const backend = await chooseBackend({
    variant: "nft",
    runDir: "/run/node",
    hostProcess: "/proc/1",
    runner,
  });
  using host = Netns.open("/proc/1/ns/net");
  const hostNetns = new Set([host.key]);
  const redirection = new PodRedirection({ backend, hostNetns, ipv6: true });
  const native = new PodRedirection({ backend: { ...backend, variant: "native" }, hostNetns, ipv6: true });
  // what an agent does at its start
  for (const each of [redirection, native]) await each.prepare(options);
  const sidecars = new SidecarRedirection({ backend, hostNetns });
  await sidecars.prepare(sidecarOptions);
  const replays: number[] = [];
  const natives: number[] = [];
  const sidecarTimes: number[] = [];
  const looks: number[] = [];
  const fullLooks: number[] = [];
  const floor: number[] = [];
  const checks: number[] = [];
  let processes = 0;
  for (let i = 0; i < samples; i++) {
    await inFreshNetns(async (path) => {
      using netns = Netns.open(path);
      const before = runner.startedCount;
      replays.push(await timed(() => redirection.apply(netns, options, { isNew: true })));
      fullLooks.push(await timed(() => redirection.verify(netns, options)));
      // the first look also searches for what earlier agents left
      await lookAt(redirection, netns);
      looks.push(await timed(() => lookAt(redirection, netns)));
      processes = Math.max(processes, runner.startedCount - before);
      await assertRules(path);
      // each check is slow, and every one of them the same
      if (i % 3 === 0) checks.push(await checkOneByOne(path));
    });
    await inFreshNetns(async (path) => {
      using netns = Netns.open(path);
      natives.push(await timed(() => native.apply(netns, options, { isNew: true })));
      const { intact } = await native.verify(netns, options);
      if (!intact) throw new Error("Cannot count this sample: native rules are missing");
    });
    await inFreshNetns(async (path) => {
      using netns = Netns.open(path);
      await run(["nsenter", `--net=${path}`, "sh", "-c", dualStackLink]);
      sidecarTimes.push(await timed(() => sidecars.apply(netns, sidecarOptions, { isNew: true })));
      const drift = await sidecars.verify(netns, sidecarOptions);
      const { families } = await sidecars.apply(netns, sidecarOptions);
      if (drift.length > 0 || families.length !== 2)
        throw new Error("Cannot count this sample: a sidecar's rules are missing");
    });
    await inFreshNetns(async (path) => {
      floor.push(await timed(() => Promise.all([restore(path, 4), restore(path, 6)])));
      await assertRules(path);
    });
  }
  return {
    replay: p50(replays),
    native: p50(natives),
    sidecar: p50(sidecarTimes),
    check: p50(looks),
    fullCheck: p50(fullLooks),
    processes,
    floor: p50(floor),
    checks25: p50(checks),
  };
}

/** As the agent looks now and then. */
async function lookAt(redirection: PodRedirection, netns: Netns): Promise<void> {
  const { changed } = await redirection.apply(netns, options);
  if (changed) throw new Error("Cannot count this sample: the pod was not right");
}

async function inFreshNetns(action: (path: string) => Promise<void>): Promise<void> {
  const cni = new CniRuntime();
  const path = await cni.createNetns();
  await run(["nsenter", `--net=${path}`, "ip", "link", "set", "lo", "up"]);
  await action(path);
  await cni.removeNetns(path);
}

async function restore(netns: string, family: 4 | 6): Promise<void> {
  const tool = family === 4 ? "iptables-nft-restore" : "ip6tables-nft-restore";
  await run(["nsenter", `--net=${netns}`, tool, "--noflush"], { stdin: renderRedirectText(options, family) });
}

async function checkOneByOne(netns: string): Promise<number> {
  const checks: string[][] = [];
  for (const family of [4, 6] as const) {
    const tool = family === 4 ? "iptables-nft" : "ip6tables-nft";
    let table = "";
    for (const line of (await iptablesSave(netns, family, { variant: "nft" })).split("\n")) {
      if (line.startsWith("*")) table = line.slice(1);
      if (line.startsWith("-A ")) checks.push([tool, "-t", table, "-C", ...line.slice(3).split(" ")]);
    }
  }
  const count = 25;
  if (checks.length < count) throw new Error(`Cannot check ${count} rules: the pod has ${checks.length}`);
  return await timed(async () => {
    for (const argv of checks.slice(0, count)) await run(["nsenter", `--net=${netns}`, ...argv]);
  });
}

async function assertRules(netns: string): Promise<void> {
  for (const family of [4, 6] as const) {
    const save = await iptablesSave(netns, family, { variant: "nft" });
    const complete = ["--to-ports 15001", "--to-ports 15006", "--to-ports 15053"].every((part) =>
      save.includes(part),
    );
    if (!complete) throw new Error(`Cannot count this sample: IPv${family} rules are missing:\n${save}`);
  }
}
