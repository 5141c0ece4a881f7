// SPDX-License-Identifier: Apache-2.0
// Probes of pods with a branch ENI, in namespaces that are cabled and ruled as the VPC CNI does it with security groups for pods.
// Source: aws/amazon-vpc-cni-k8s cmd/routed-eni-cni-plugin/driver/driver.go, SetupBranchENIPodNetwork, mode "strict".

import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { Socket, type SocketConstructorOpts } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { socketInNetns } from "../../src/linux/native.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { findBranchRules } from "../../src/probes/branch-eni.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";
import type { HostProbesOptions } from "../../src/probes/host-probes-options.ts";
import { HostState, type HostStateOptions } from "../../src/probes/host-state.ts";
import { TestNetns } from "../redirection/test-netns.ts";

let port = 8080;
const table = 101;
const wire = "vlaneth0abc";
const pod = { 4: "10.50.0.5", 6: "fd50::5" } as const;
const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;
const families = [4, 6] as const;
/** What the VPC CNI has, with the local table behind its rules. */
const foreign = {
  4: [
    "10: from all iif vlan.eth.1 lookup 101",
    `10: from all iif ${wire} lookup 101`,
    "20: from all lookup local",
  ],
  6: [
    "10: from all iif vlan.eth.1 lookup 101",
    `10: from all iif ${wire} lookup 101`,
    "20: from all lookup local",
  ],
} as const;
const ours = (family: 4 | 6) => [
  `9: from all iif ${wire} lookup local proto 111`,
  `512: from all to ${pod[family]} lookup 101 proto 111`,
];

let folder: string;
let host: TestNetns;
let app: TestNetns;
/** Takes every packet and answers none. */
let vpc: TestNetns;
let running: HostProbes[];
let warnings: string[];
let faults: (string | undefined)[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ambient-branch-"));
  host = await TestNetns.make();
  app = await TestNetns.make();
  vpc = await TestNetns.make();
  running = [];
  warnings = [];
  faults = [];
  await cable();
});
afterEach(async () => {
  for (const probes of running) await probes.stop();
  host[Symbol.dispose]();
  app[Symbol.dispose]();
  vpc[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

async function lines(netns: TestNetns, commands: string): Promise<void> {
  for (const command of commands.trim().split("\n")) await netns.run(command.trim());
}

/** The pod's wire, the trunk to the VPC (which answers nobody), the table of the pod's card, and the rules that lead there. */
async function cable(): Promise<void> {
  // addresses can be used at once
  for (const netns of [host, app]) await netns.run("sysctl -qw net.ipv6.conf.default.accept_dad=0");
  await lines(
    host,
    `sysctl -qw net.ipv4.tcp_early_demux=0 net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
     ip link add ${wire} type veth peer name eth0 netns ${app.pid}
     ip link set ${wire} up
     ip link add vlan.eth.1 type veth peer name card netns ${vpc.pid}
     ip addr add 10.50.0.1/24 dev vlan.eth.1 noprefixroute
     ip link set vlan.eth.1 up
     ip link add up0 type veth peer name trunk netns ${vpc.pid}
     ip addr add 10.40.0.9/24 dev up0
     ip -6 addr add fd40::9/64 dev up0 nodad
     ip link set up0 up
     ip route add default via 10.40.0.1 dev up0
     ip -6 route add default via fd40::1 dev up0
     ip route add ${pod[4]}/32 dev ${wire} table ${table}
     ip -6 route add ${pod[6]}/128 dev ${wire} table ${table}
     ip route add default dev vlan.eth.1 table ${table}
     ip -6 route add default dev vlan.eth.1 table ${table}`,
  );
  for (const ip of ["ip", "ip -6"])
    await lines(
      host,
      `${ip} rule add iif vlan.eth.1 lookup ${table} pref 10
       ${ip} rule add iif ${wire} lookup ${table} pref 10
       ${ip} rule add lookup local pref 20
       ${ip} rule del pref 0`,
    );
  await lines(
    app,
    `ip addr add ${pod[4]}/32 dev eth0
     ip -6 addr add ${pod[6]}/128 dev eth0 nodad
     ip link set eth0 up
     ip route add 169.254.1.1 dev eth0 scope link
     ip route add default via 169.254.1.1 dev eth0
     ip -6 route add default via fe80::1 dev eth0 onlink`,
  );
  await lines(vpc, "ip link set card up\nip link set trunk up");
  const address = /link\/ether (\S+)/.exec(await host.run(`ip link show ${wire}`))?.[1];
  await lines(
    app,
    `ip neigh add 169.254.1.1 lladdr ${address} dev eth0
     ip -6 neigh add fe80::1 lladdr ${address} dev eth0`,
  );
}

async function hostOptions(): Promise<HostStateOptions & Pick<HostProbesOptions, "hostNetnsPath">> {
  const runner = new ToolRunner();
  return {
    hostNetnsPath: `/proc/${host.pid}/ns/net`,
    backend: await chooseBackend({ variant: "nft", runDir: folder, hostProcess: "/proc/self", runner }),
    probeSnatV4: snat[4],
    probeSnatV6: snat[6],
    ipv6: true,
  };
}

async function probesOn(options: Partial<HostProbesOptions> = {}): Promise<HostProbes> {
  const probes = new HostProbes({
    ...(await hostOptions()),
    log: {
      debug() {},
      info() {},
      warn: (fields, message) => void warnings.push(`${message} ${JSON.stringify(fields)}`),
      error() {},
    },
    onstate: (fault) => void faults.push(fault),
    intervalMs: 60_000,
    ...options,
  });
  running.push(probes);
  await probes.start();
  return probes;
}

/** Rules of a family but the last, `main` and `default`. */
async function rules(family: 4 | 6): Promise<string[]> {
  const text = await host.run(family === 4 ? "ip rule" : "ip -6 rule");
  const all = text.split("\n").map((line) => line.trim().replace(/\s+/g, " "));
  return all
    .filter((line) => line !== "" && !/^3276[67]:/.test(line))
    .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10));
}

const withOurs = (family: 4 | 6) =>
  [...foreign[family], ...ours(family)].sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10));

/** What the pod saw as the source of a connection from the host; "nothing" if none came about. */
async function probe(family: 4 | 6): Promise<string> {
  port += 1;
  const listener = socketInNetns(app.netns.fd, {
    family,
    type: "stream",
    address: pod[family],
    port,
    backlog: 4,
  });
  const server = createServer((request, response) => response.end(request.socket.remoteAddress));
  await new Promise<void>((resolve) => void server.listen({ fd: listener }, resolve));
  const fd = socketInNetns(host.netns.fd, { family, type: "stream" });
  const client = new Socket({ fd, manualStart: true } as SocketConstructorOpts);
  try {
    return await new Promise<string>((resolve) => {
      const timer = setTimeout(() => resolve("nothing"), 700);
      let text = "";
      client.on("data", (part: Buffer) => {
        text += part.toString();
      });
      client.on("close", () => {
        clearTimeout(timer);
        resolve(text.split("\r\n\r\n")[1] ?? "nothing");
      });
      client.on("error", () => resolve("nothing"));
      client.connect({ host: pod[family], port }, () => {
        client.resume();
        client.write("GET / HTTP/1.0\r\n\r\n");
      });
    });
  } finally {
    client.destroy();
    server.close();
  }
}

const both = [pod[4], pod[6]];

describe("on a node with security groups for pods", () => {
  test.each(families)(
    "an IPv%i probe reaches the pod with the probes' address, and none does before",
    async (family) => {
      const probes = await probesOn();
      expect(await probe(family)).toBe("nothing");
      await probes.set("a", both);
      expect(await probe(family)).toBe(snat[family]);
      await probes.remove("a");
      expect(await probe(family)).toBe("nothing");
      expect(await rules(family)).toEqual(foreign[family]);
      expect([warnings, faults]).toEqual([[], [undefined]]);
    },
  );

  test("each pod has two rules in each family, which go with it and are nobody else's", async () => {
    const probes = await probesOn();
    await probes.set("other", ["10.60.0.7"]);
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
    await probes.set("a", both);
    for (const family of families) expect(await rules(family)).toEqual(withOurs(family));
    expect(await probes.verify()).toEqual([]);
    await probes.remove("a");
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
  });

  test("a rule that somebody took is back, and said", async () => {
    const probes = await probesOn({ intervalMs: 50 });
    await probes.set("a", both);
    await host.run(`ip rule del pref 512`);
    expect(await probes.verify()).toMatchObject([
      {
        kind: "missing-policy-rule",
        uid: "a",
        detail: 'ip rule "512: from all to 10.50.0.5 lookup 101" is not there',
      },
    ]);
    await expect.poll(() => rules(4)).toEqual(withOurs(4));
    expect(warnings).toEqual([expect.stringContaining("from all to 10.50.0.5 lookup 101")]);
  });

  test("rules follow the VPC CNI, which takes its own away before we hear that the pod ended", async () => {
    const probes = await probesOn({ intervalMs: 50 });
    await probes.set("a", both);
    for (const ip of ["ip", "ip -6"]) await host.run(`${ip} rule del iif ${wire} lookup ${table} pref 10`);
    await host.run(`ip link del ${wire}`);
    const rest = foreign[4].filter((line) => !line.includes(wire));
    await expect.poll(() => rules(4)).toEqual(rest);
    await expect.poll(() => rules(6)).toEqual(rest);
    expect([warnings, faults]).toEqual([[], [undefined]]);
  });

  test("the next agent writes nothing, keeps the rules until it knows the pod, and takes them away with it", async () => {
    const first = await probesOn();
    await first.set("a", both);
    await first.stop();
    const second = await probesOn();
    for (const family of families) expect(await rules(family)).toEqual(withOurs(family));
    await second.restore(new Map([["a", both]]));
    await second.remove("a");
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
  });

  test("of a pod that ended while no agent was there the next one leaves nothing", async () => {
    const first = await probesOn();
    await first.set("a", both);
    await first.stop();
    const second = await probesOn({ isOutside: (uid) => uid === "a" });
    await second.restore(new Map());
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
  });

  test("istio-cni's rules are taken over as they are, and go with the pod", async () => {
    await host.run(`ip rule add to ${pod[4]} lookup ${table} pref 512`);
    await host.run(`ip rule add iif ${wire} lookup local pref 9`);
    const before = await rules(4);
    const probes = await probesOn();
    await probes.set("a", [pod[4]]);
    expect(await rules(4)).toEqual(before);
    expect(await probe(4)).toBe(snat[4]);
    await probes.remove("a");
    expect(await rules(4)).toEqual(foreign[4]);
  });

  test("uninstalling leaves what is not ours", async () => {
    const probes = await probesOn();
    await probes.set("a", both);
    expect(await findBranchRules(host.netns)).toHaveLength(4);
    await probes.stop();
    expect(await new HostState(await hostOptions()).remove(host.netns)).toBe(true);
    expect(await findBranchRules(host.netns)).toEqual([]);
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
  });

  test("the switch takes the rules away", async () => {
    const first = await probesOn();
    await first.set("a", both);
    await first.stop();
    const second = await probesOn({ branchEniProbes: false });
    await second.set("a", both);
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
    expect(await probe(4)).toBe("nothing");
  });
});

describe("where nothing is to be done", () => {
  test("with early demux on, which AWS has such nodes switch off, nothing is written", async () => {
    await host.run("sysctl -qw net.ipv4.tcp_early_demux=1");
    const probes = await probesOn();
    await probes.set("a", both);
    for (const family of families) expect(await rules(family)).toEqual(foreign[family]);
    expect(await probes.verify()).toEqual([]);
  });

  test.each([
    [
      "its route is in the main table",
      `ip route add ${pod[4]}/32 dev ${wire}`,
      `ip route del ${pod[4]} table ${table}`,
    ],
    [
      "the rule is for another interface",
      `ip rule add iif lo lookup ${table} pref 11`,
      `ip rule del iif ${wire} pref 10`,
    ],
    [
      "the rule is narrower",
      `ip rule add iif ${wire} fwmark 1 lookup ${table} pref 11`,
      `ip rule del iif ${wire} pref 10`,
    ],
  ])("a pod has no rules when %s", async (_what, add, remove) => {
    await host.run(add);
    await host.run(remove);
    const before = await rules(4);
    const probes = await probesOn();
    await probes.set("a", [pod[4]]);
    expect(await rules(4)).toEqual(before);
  });
});
