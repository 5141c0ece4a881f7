// SPDX-License-Identifier: Apache-2.0
// A sidecar's rules in the real kernel: what a stand-in proxy is given and what goes past it, for each option. Root.
import { once } from "node:events";
import { createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isTouched } from "../../src/check/signs.ts";
import { SidecarRecords } from "../../src/enrolment/sidecar-records.ts";
import { Sidecars } from "../../src/enrolment/sidecars.ts";
import { NamespacePatterns } from "../../src/kube/namespace-patterns.ts";
import { type PodFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { socketInNetns } from "../../src/linux/native.ts";
import { Netns } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { silentLogger } from "../../src/log/logger.ts";
import type { RedirectBackend } from "../../src/netfilter/variant.ts";
import { renderNativeSidecarText } from "../../src/redirection/native-sidecar.ts";
import { defaultSidecarOptions, type SidecarOptions } from "../../src/redirection/sidecar-options.ts";
import { SidecarRedirection } from "../../src/redirection/sidecar-redirection.ts";
import { renderSidecarText } from "../../src/redirection/told-sidecar.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  redirection,
  saveTool,
} from "../redirection/installed-backends.ts";
import { SIDECAR_VARIANTS } from "../redirection/sidecar-variants.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { FAMILIES } from "../redirection/variants.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { ADDRESSES, APP_PORT, OUTSIDE_PORT, PROXY, SidecarNetwork } from "./sidecar-network.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
/** As on a host without a program of iptables. */
const native: RedirectBackend = { ...nft, variant: "native", installed: {} };
const BACKENDS = { nft, legacy, native };
await expectNothingLeftAfterwards();

const { pod: POD, outside: OUTSIDE } = ADDRESSES;
let host: Netns;

beforeAll(() => {
  host = Netns.open("/proc/self/ns/net");
});
afterAll(() => host.close());

/** Without what has been counted on built-in chains, tables in alphabetical order. */
function comparable(text: string): string {
  return text
    .replaceAll(/\[\d+:\d+\]/g, "[0:0]")
    .split(/^(?=\*|table )/m)
    .sort()
    .join("");
}

/** A new namespace's own packets are counted too. */
function withoutCounts(text: string): string {
  return text.replaceAll(/packets \d+ bytes \d+/g, "");
}

/** All rules of nf_tables as the kernel keeps them, without their handles. */
async function expressions(netns: TestNetns): Promise<string> {
  const text = await netns.run("nft --stateless --debug=netlink list ruleset");
  return text.replaceAll(/^(inet \S+ \S+) [\d ]+$/gm, "$1");
}

/** Some of what istio-cni tells nft. Source: istio/istio tools/istio-nftables/pkg/capture/testdata, inbound-ports-wildcard. */
const ISTIOS_NATIVE_RULES = `
table inet istio-proxy-nat {
  chain prerouting {
    type nat hook prerouting priority -100
    meta l4proto tcp counter jump istio-inbound
  }
  chain output {
    type nat hook output priority -100
    counter jump istio-output
  }
  chain istio-inbound {
    tcp dport 15008 counter return
    meta l4proto tcp counter jump istio-in-redirect
  }
  chain istio-redirect {
    meta l4proto tcp counter redirect to :15001
  }
  chain istio-in-redirect {
    meta l4proto tcp counter redirect to :15006
  }
  chain istio-output {
    oifname lo ip saddr 127.0.0.6/32 counter return
    meta l4proto tcp oifname lo ip daddr != 127.0.0.1/32 tcp dport != { 53, 15008 } skuid 1337 counter jump istio-in-redirect
  }
}
`;

const dual = (changes: Partial<SidecarOptions> = {}) =>
  defaultSidecarOptions({ dualStack: true, ...changes });

/** The rules of both families as the program shows them that people use. */
async function shown(network: SidecarNetwork, variant: RedirectBackend["variant"]): Promise<string> {
  if (variant === "native") return comparable(await network.pod.run("nft --stateless list ruleset"));
  const saved = await Promise.all(FAMILIES.map((family) => network.pod.save(saveTool(family, variant))));
  return saved.map(comparable).join("");
}

/** What somebody does to the rules of a pod with TPROXY, DNS and a drop of what is invalid. */
function damages(variant: RedirectBackend["variant"]): string[] {
  if (variant === "native")
    return [
      "nft flush chain inet istio-proxy-nat istio-redirect",
      "nft flush chain inet istio-proxy-nat output",
      "nft insert rule inet istio-proxy-nat istio-output jump istio-in-redirect",
      "nft add rule inet istio-proxy-nat output meta nfproto ipv6 jump istio-output",
      "nft insert rule inet istio-proxy-mangle prerouting meta l4proto udp jump istio-divert",
      "nft insert rule inet istio-proxy-mangle istio-tproxy accept",
      "nft flush chain inet istio-proxy-raw istio-output-dns",
      "nft add chain inet istio-proxy-nat others",
      "nft add set inet istio-proxy-raw others { type ipv4_addr ; }",
      "nft delete table inet istio-proxy-mangle",
    ];
  const ipt = `iptables-${variant}`;
  return [
    `${ipt} -t nat -F ISTIO_REDIRECT`,
    `${ipt} -t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT`,
    `${ipt} -t nat -I ISTIO_OUTPUT -j ISTIO_IN_REDIRECT`,
    `${ipt} -t nat -D OUTPUT -j ISTIO_OUTPUT`,
    `${ipt} -t nat -A OUTPUT -j ISTIO_OUTPUT`,
    `${ipt} -t mangle -I PREROUTING -p udp -j ISTIO_DIVERT`,
    `${ipt} -t raw -F ISTIO_OUTPUT_DNS`,
    `ip6tables-${variant} -t mangle -F ISTIO_INBOUND`,
  ];
}

describe.each(["nft", "legacy", "native"] as const)("with %s", (variant) => {
  const sidecars = () =>
    new SidecarRedirection({ backend: BACKENDS[variant], hostNetns: new Set([host.key]) });

  async function pod(options: SidecarOptions): Promise<SidecarNetwork> {
    const network = await SidecarNetwork.make();
    const report = await sidecars().apply(network.pod.netns, options, { isNew: true });
    expect(report.families).toEqual([4, 6]);
    await network.listen();
    return network;
  }

  test.each(Object.entries(SIDECAR_VARIANTS))(
    "a namespace gets the rules that the variant's program makes of %s, and a second look finds them right",
    async (_, options) => {
      using network = await SidecarNetwork.make();
      using restored = await TestNetns.make();
      const asked = { ...options, dualStack: true };
      const redirect = sidecars();
      const { repaired } = await redirect.apply(network.pod.netns, asked, { isNew: true });
      expect(repaired.length).toBeGreaterThan(0);
      if (variant === "native") {
        const text = await network.pod.run("nft --stateless list ruleset");
        expect(text).toBe(renderNativeSidecarText(asked, FAMILIES));
        await restored.run("nft -f -", text);
        expect(await expressions(network.pod)).toBe(await expressions(restored));
      } else {
        for (const family of FAMILIES) {
          const save = saveTool(family, variant);
          await restored.run(
            `${save.replace("save", "restore")} --noflush`,
            renderSidecarText(asked, family),
          );
          const [ours, theirs] = [await network.pod.save(save), await restored.save(save)];
          expect(comparable(ours)).toBe(comparable(theirs));
        }
      }
      expect(await redirect.verify(network.pod.netns, asked)).toEqual([]);
      const handles = withoutCounts(await network.pod.handles());
      expect((await redirect.apply(network.pod.netns, asked)).repaired).toEqual([]);
      expect(withoutCounts(await network.pod.handles())).toBe(handles);
    },
  );

  test.each(FAMILIES)(
    "IPv%d of a pod without options goes through its proxy, and the proxy's own past it",
    async (family) => {
      using network = await pod(dual());
      const [own, far] = [POD[family], OUTSIDE[family]];
      // inbound
      expect(await network.ask("outside", { host: own, port: APP_PORT })).toBe(`proxy 15006 ${far}`);
      expect(await network.ask("outside", { host: own, port: 7 })).toBe(`proxy 15006 ${far}`);
      expect(await network.ask("outside", { host: own, port: 15021 })).toBe(`proxy 15021 ${far}`);
      expect(await network.ask("outside", { host: own, port: 15008 })).toBe(`proxy 15008 ${far}`);
      // outbound
      expect(await network.ask("pod", { host: far, port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
      expect(
        await network.ask("pod", { host: far, port: OUTSIDE_PORT }, { user: { uid: 0, gid: 0 } }),
      ).toMatch(/^proxy 15001 /);
      expect(await network.ask("pod", { host: far, port: 15020 })).toBe("refused");
      // the proxy's own, by either of its identities
      for (const user of [PROXY, { uid: 1337, gid: 5 }, { uid: 5, gid: 1337 }])
        expect(await network.ask("pod", { host: far, port: OUTSIDE_PORT }, { user })).toBe(
          `outside ${OUTSIDE_PORT} ${own}`,
        );
      // an app that calls itself: directly, and through the proxy
      const loopback = family === 4 ? "127.0.0.1" : "::1";
      expect(await network.ask("pod", { host: loopback, port: APP_PORT })).toBe(
        `app ${APP_PORT} ${loopback}`,
      );
      expect(await network.ask("pod", { host: own, port: APP_PORT })).toBe(`app ${APP_PORT} ${own}`);
      expect(await network.ask("pod", { host: own, port: APP_PORT }, { user: PROXY })).toMatch(
        /^proxy 15006 /,
      );
      expect(await network.ask("pod", { host: loopback, port: APP_PORT }, { user: PROXY })).toBe(
        `app ${APP_PORT} ${loopback}`,
      );
      // DNS is not asked for
      expect(await network.ask("pod", { host: far, port: 53 }, { protocol: "udp" })).toBe(
        `outside 53 ${own}`,
      );
    },
  );

  test.each(["REDIRECT", "TPROXY"] as const)(
    "istio-validation finds its own listener with %s",
    async (mode) => {
      using network = await pod(dual({ mode }));
      expect(await network.validate(4)).toBe("proxy 15006 127.0.0.1");
      expect(await network.validate(6)).toBe("proxy 15006 ::1");
      using without = await SidecarNetwork.make();
      await without.listen();
      expect(await without.validate(4)).toBe("ECONNREFUSED");
    },
  );

  test("ports, ranges and interfaces that are left out go past the proxy", async () => {
    using network = await pod(
      dual({
        excludeInboundPorts: [APP_PORT, 15020, 15021, 15090],
        excludeOutboundPorts: [OUTSIDE_PORT],
        excludeOutboundCidrs: ["10.80.0.0/24", "fd80::/64"],
        excludeInterfaces: ["eth1"],
      }),
    );
    for (const family of FAMILIES) {
      const [own, far] = [POD[family], OUTSIDE[family]];
      const [second, farSecond] = [ADDRESSES.second[family], ADDRESSES.outsideSecond[family]];
      expect(await network.ask("outside", { host: own, port: APP_PORT })).toBe(`app ${APP_PORT} ${far}`);
      expect(await network.ask("outside", { host: own, port: 8081 })).toBe(`proxy 15006 ${far}`);
      expect(await network.ask("outside", { host: second, port: 8081 })).toBe(`app 8081 ${farSecond}`);
      // by range
      expect(await network.ask("pod", { host: far, port: 9001 })).toBe(`outside 9001 ${own}`);
      // by interface
      expect(await network.ask("pod", { host: farSecond, port: 9001 })).toBe(`outside 9001 ${second}`);
    }
    using byPort = await pod(dual({ excludeOutboundPorts: [OUTSIDE_PORT] }));
    expect(await byPort.ask("pod", { host: OUTSIDE[4], port: OUTSIDE_PORT })).toBe(
      `outside ${OUTSIDE_PORT} ${POD[4]}`,
    );
    expect(await byPort.ask("pod", { host: OUTSIDE[6], port: 9001 })).toMatch(/^proxy 15001 /);
  });

  test("only ports and ranges that are named go to the proxy", async () => {
    using network = await pod(
      dual({
        includeInboundPorts: [APP_PORT],
        includeOutboundCidrs: ["10.81.0.0/16", "fd81::/16"],
        includeOutboundPorts: [9001],
      }),
    );
    for (const family of FAMILIES) {
      const [own, far] = [POD[family], OUTSIDE[family]];
      expect(await network.ask("outside", { host: own, port: APP_PORT })).toBe(`proxy 15006 ${far}`);
      expect(await network.ask("outside", { host: own, port: 8081 })).toBe(`app 8081 ${far}`);
      expect(await network.ask("pod", { host: far, port: OUTSIDE_PORT })).toBe(
        `outside ${OUTSIDE_PORT} ${own}`,
      );
      expect(await network.ask("pod", { host: far, port: 9001 })).toMatch(/^proxy 15001 /);
      const { [family]: farSecond } = ADDRESSES.outsideSecond;
      expect(await network.ask("pod", { host: farSecond, port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
    }
    using none = await pod(dual({ includeInboundPorts: [], includeOutboundCidrs: ["127.0.0.0/8"] }));
    expect(await none.ask("outside", { host: POD[4], port: APP_PORT })).toBe(`app ${APP_PORT} ${OUTSIDE[4]}`);
    // Istio takes 127.0.0.1 itself out of any range
    expect(await none.ask("pod", { host: "127.0.0.2", port: APP_PORT })).toMatch(/^proxy 15001 /);
    expect(await none.ask("pod", { host: "127.0.0.1", port: APP_PORT })).toBe(`app ${APP_PORT} 127.0.0.1`);
  });

  test("a proxy of other identities is known by them, and nobody by Istio's", async () => {
    using network = await pod(dual({ proxyUid: 4242, proxyGid: 4243 }));
    const far = { host: OUTSIDE[4], port: OUTSIDE_PORT };
    for (const user of [
      { uid: 4242, gid: 1 },
      { uid: 1, gid: 4243 },
    ])
      expect(await network.ask("pod", far, { user })).toBe(`outside ${OUTSIDE_PORT} ${POD[4]}`);
    expect(await network.ask("pod", far, { user: PROXY })).toMatch(/^proxy 15001 /);
  });

  test("what arrives from a virtual machine is outbound", async () => {
    using network = await pod(dual({ virtualInterfaces: ["eth1"] }));
    for (const family of FAMILIES) {
      const own = ADDRESSES.second[family];
      // by an address that the pod routes on, as a machine behind it would
      expect(await network.ask("outside", { host: own, port: 4000 })).toMatch(/^proxy 15001 /);
      expect(await network.ask("outside", { host: POD[family], port: 4000 })).toMatch(/^proxy 15006 /);
    }
  });

  test.each(FAMILIES)(
    "DNS over IPv%d is answered by the agent, whose own questions go out",
    async (family) => {
      using network = await pod(dual({ dnsCapture: true }));
      const [own, far] = [POD[family], OUTSIDE[family]];
      const resolver = { host: far, port: 53 };
      for (const protocol of ["udp", "tcp"] as const) {
        for (let round = 0; round < 3; round++) {
          expect(await network.ask("pod", resolver, { protocol })).toMatch(/^proxy 15053 /);
          expect(await network.ask("pod", resolver, { protocol, user: PROXY })).toBe(`outside 53 ${own}`);
        }
      }
      // a resolver on the loopback address as well
      const loopback = family === 4 ? "127.0.0.53" : "::1";
      expect(await network.ask("pod", { host: loopback, port: 53 }, { protocol: "udp" })).toMatch(
        /^proxy 15053 /,
      );
      expect(await network.ask("pod", { host: far, port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
    },
  );

  test.each(FAMILIES)(
    "with TPROXY the proxy is given IPv%d connections with both of their addresses",
    async (family) => {
      using network = await SidecarNetwork.make();
      await sidecars().apply(network.pod.netns, dual({ mode: "TPROXY" }), { isNew: true });
      await network.listen({ proxy: false });
      const fd = socketInNetns(network.pod.netns.fd, {
        family,
        type: "stream",
        address: family === 4 ? "0.0.0.0" : "::",
        port: 15006,
        transparent: true,
        backlog: 8,
      });
      const seen: string[] = [];
      const proxy = createServer((socket) => {
        seen.push(`${socket.remoteAddress} to ${socket.localAddress} ${socket.localPort}`);
        // more than one packet each way: those of a connection that is open find the socket too
        socket.once("data", () => socket.end("proxy with the client's address\n"));
        socket.on("error", () => {});
      }).listen({ fd });
      await once(proxy, "listening");
      try {
        const [own, far] = [POD[family], OUTSIDE[family]];
        expect(await network.ask("outside", { host: own, port: APP_PORT })).toBe(
          "proxy with the client's address",
        );
        expect(seen).toEqual([`${far} to ${own} ${APP_PORT}`]);
        // excluded ports, the app's calls to itself, and the way out are as without it
        expect(await network.ask("outside", { host: own, port: 15021 })).toBe("refused");
        expect(await network.ask("pod", { host: own, port: APP_PORT })).toBe(`app ${APP_PORT} ${own}`);
        expect(await network.ask("pod", { host: far, port: OUTSIDE_PORT }, { user: PROXY })).toBe(
          `outside ${OUTSIDE_PORT} ${own}`,
        );
        expect(seen).toHaveLength(1);
      } finally {
        proxy.close();
      }
    },
  );

  test("whatever is taken away or added is put right, and only that", async () => {
    using network = await SidecarNetwork.make();
    const { netns } = network.pod;
    const redirect = sidecars();
    const options = dual({ mode: "TPROXY", dnsCapture: true, dropInvalid: true });
    await redirect.apply(netns, options, { isNew: true });
    const right = await shown(network, variant);
    for (const damage of [
      ...damages(variant),
      "ip rule del fwmark 1337 lookup 133",
      "ip -6 route del local default dev lo table 133",
      "ip address del ::6/128 dev lo",
    ]) {
      await network.pod.run(damage);
      expect((await redirect.verify(netns, options)).length, damage).toBeGreaterThan(0);
      const { repaired } = await redirect.apply(netns, options);
      expect(repaired.length, damage).toBeGreaterThan(0);
      expect(await redirect.verify(netns, options), damage).toEqual([]);
      expect(await shown(network, variant), damage).toBe(right);
    }
    expect(await network.pod.run("ip rule show pref 32765")).toBe(
      "32765:\tfrom all fwmark 0x539 lookup 133\n",
    );
  });

  test("rules that istio-cni or an istio-init wrote become ours in place, and an ADD that is told twice ends the same", async () => {
    using network = await SidecarNetwork.make();
    const { netns } = network.pod;
    const redirect = sidecars();
    const options = dual({ dnsCapture: true });
    if (variant === "native") await network.pod.run("nft -f -", ISTIOS_NATIVE_RULES);
    // Istio's jump from PREROUTING of nat takes TCP alone
    else
      for (const family of FAMILIES) {
        const text = renderSidecarText(options, family).replace(
          "-A PREROUTING -j ISTIO_INBOUND\n-A OUTPUT -j ISTIO_OUTPUT\n",
          "-A PREROUTING -p tcp -j ISTIO_INBOUND\n-A OUTPUT -j ISTIO_OUTPUT\n",
        );
        expect(text).toContain("PREROUTING -p tcp");
        await network.pod.run(`${saveTool(family, variant).replace("save", "restore")} --noflush`, text);
      }
    await redirect.apply(netns, options);
    expect(await redirect.verify(netns, options)).toEqual([]);
    expect(await shown(network, variant)).not.toMatch(/PREROUTING -p tcp|tcp counter jump istio-inbound/);
    await redirect.apply(netns, options, { isNew: true });
    expect(await redirect.verify(netns, options)).toEqual([]);
    await network.listen();
    expect(await network.ask("outside", { host: POD[4], port: APP_PORT })).toBe(`proxy 15006 ${OUTSIDE[4]}`);
  });

  test("options that change are followed, and nothing of the former ones leads anywhere", async () => {
    using network = await SidecarNetwork.make();
    const { netns } = network.pod;
    await network.listen();
    const redirect = sidecars();
    const inbound = () => network.ask("outside", { host: POD[4], port: APP_PORT });
    const all = dual({ mode: "TPROXY", dropInvalid: true, dnsCapture: true });
    for (const [options, answer] of [
      [all, /refused|silent/],
      [dual({ dropInvalid: true }), /^proxy 15006/],
      [dual({ includeInboundPorts: [] }), /^app/],
      [all, /refused|silent/],
      [dual(), /^proxy 15006/],
    ] as const) {
      await redirect.apply(netns, options);
      expect(await redirect.verify(netns, options)).toEqual([]);
      // nobody listens for TPROXY here
      expect(await inbound()).toMatch(answer);
    }
    const rules = await shown(network, variant);
    for (const chain of ["DIVERT", "DROP", "TPROXY"])
      expect(rules).not.toMatch(new RegExp(`istio.${chain}`, "i"));
  });

  // the loopback plugin runs beside the chain and refuses a device with such an address
  test("the proxy's IPv6 address is given to a loopback device that is up, and to none before", async () => {
    using network = await SidecarNetwork.make();
    const { pod } = network;
    const addresses = () => pod.run("ip -6 address show dev lo");
    await pod.run("ip link set lo down");
    const applying = sidecars().apply(pod.netns, dual(), { isNew: true });
    await expect.poll(() => shown(network, variant)).toMatch(/istio.output/i);
    expect(await addresses()).not.toContain("::6/128");
    await pod.run("ip link set lo up");
    await applying;
    expect(await addresses()).toContain("::6/128");
    expect(await sidecars().verify(pod.netns, dual())).toEqual([]);
  });

  test("ambient mode's code sees nothing of its own in it, and takes nothing away", async () => {
    for (const options of Object.values(SIDECAR_VARIANTS)) {
      using network = await SidecarNetwork.make();
      const redirect = sidecars();
      await redirect.apply(network.pod.netns, { ...options, dualStack: true }, { isNew: true });
      expect(await isTouched(network.pod.netns)).toBe(false);
      for (const each of Object.values(BACKENDS)) {
        const ambient = redirection(each);
        expect(await ambient.remove(network.pod.netns)).toEqual({ changed: false });
        expect(await ambient.open(network.pod.netns)).toEqual({ changed: false });
        expect((await ambient.rules(network.pod.netns, undefined)).chains).toEqual([]);
      }
      expect(await redirect.verify(network.pod.netns, { ...options, dualStack: true })).toEqual([]);
    }
  });

  test("IPv6 is left alone where the proxy is not of both families, unless the pod has nothing else", async () => {
    using both = await SidecarNetwork.make();
    const redirect = sidecars();
    expect((await redirect.apply(both.pod.netns, defaultSidecarOptions())).families).toEqual([4]);
    await both.listen();
    expect(await both.ask("pod", { host: OUTSIDE[4], port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
    expect(await both.ask("outside", { host: POD[4], port: APP_PORT })).toBe(`proxy 15006 ${OUTSIDE[4]}`);
    expect(await both.ask("pod", { host: OUTSIDE[6], port: OUTSIDE_PORT })).toBe(
      `outside ${OUTSIDE_PORT} ${POD[6]}`,
    );
    expect(await both.ask("outside", { host: POD[6], port: APP_PORT })).toBe(`app ${APP_PORT} ${OUTSIDE[6]}`);
    expect(await redirect.verify(both.pod.netns, defaultSidecarOptions())).toEqual([]);
    using six = await SidecarNetwork.make({ families: [6] });
    expect((await redirect.apply(six.pod.netns, defaultSidecarOptions())).families).toEqual([4, 6]);
    using four = await SidecarNetwork.make({ families: [4] });
    expect((await redirect.apply(four.pod.netns, dual())).families).toEqual([4]);
    expect(await redirect.verify(four.pod.netns, dual())).toEqual([]);
  });

  test("as many rules as a chain can have of both families are written, read and found right", async () => {
    using network = await SidecarNetwork.make();
    const numbers = Array.from({ length: 100 }, (_, index) => index);
    const options = dual({
      mode: "TPROXY",
      includeInboundPorts: numbers.map((number) => 10_000 + number),
      includeOutboundCidrs: numbers.flatMap((number) => [`10.${number}.0.0/16`, `fd00:${number}::/47`]),
      excludeOutboundCidrs: numbers.flatMap((number) => [`172.${number}.0.0/17`, `fd01:${number}::/47`]),
      virtualInterfaces: ["vm0", "vm1"],
    });
    const redirect = sidecars();
    await redirect.apply(network.pod.netns, options, { isNew: true });
    expect(await redirect.verify(network.pod.netns, options)).toEqual([]);
    await network.listen();
    expect(await network.ask("pod", { host: OUTSIDE[4], port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
  });

  test("the host's namespace is never written", async () => {
    await expect(sidecars().apply(host, dual())).rejects.toMatchObject({ code: "HOST_NETNS" });
  });
});

test.each(Object.entries(SIDECAR_VARIANTS))(
  "what stands natively in a pod without IPv6 is what nft makes of the same text, %s",
  async (_, options) => {
    using network = await SidecarNetwork.make({ families: [4] });
    using other = await TestNetns.make();
    const redirect = new SidecarRedirection({ backend: native, hostNetns: new Set([host.key]) });
    await redirect.apply(network.pod.netns, options, { isNew: true });
    const text = await network.pod.run("nft --stateless list ruleset");
    expect(text).toBe(renderNativeSidecarText(options, [4]));
    await other.run("nft -f -", text);
    expect(await expressions(network.pod)).toBe(await expressions(other));
    // a route is not among the rules
    const drift = await redirect.verify(other.netns, options);
    expect(drift.filter(({ kind }) => kind !== "missing-routing")).toEqual([]);
  },
);

test.each(["REDIRECT", "TPROXY"] as const)(
  "natively, a pod with users of its own is redirected by them, with %s",
  async (mode) => {
    using network = await SidecarNetwork.make({ ownUsers: true });
    const { netns } = network.pod;
    const redirect = new SidecarRedirection({ backend: native, hostNetns: new Set([host.key]) });
    expect(redirect.takesOwnUsers).toBe(true);
    await redirect.apply(netns, dual({ mode, dnsCapture: true }), { isNew: true });
    await network.listen();
    for (const family of FAMILIES) {
      const [own, far] = [POD[family], OUTSIDE[family]];
      const to = { host: far, port: OUTSIDE_PORT };
      expect(await network.ask("pod", to)).toMatch(/^proxy 15001 /);
      // by either of the proxy's identities, as they are in the pod
      for (const user of [PROXY, { uid: 1337, gid: 5 }, { uid: 5, gid: 1337 }])
        expect(await network.ask("pod", to, { user })).toBe(`outside ${OUTSIDE_PORT} ${own}`);
      const resolver = { host: far, port: 53 };
      expect(await network.ask("pod", resolver, { protocol: "udp" })).toMatch(/^proxy 15053 /);
      expect(await network.ask("pod", resolver, { protocol: "udp", user: PROXY })).toBe(`outside 53 ${own}`);
      expect(await network.validate(family)).toMatch(/^proxy 15006 /);
    }
    expect(await redirect.verify(netns, dual({ mode, dnsCapture: true }))).toEqual([]);
  },
);

test("a pod with users of its own whose network is not theirs is refused, as one is where iptables writes", async () => {
  const { annotations, objectSpec } = injectedPod();
  const metadata = { uid: "u", namespace: "shop", name: "p", annotations };
  const pod = toPodFacts({ metadata, spec: { ...objectSpec, hostUsers: false } }) as PodFacts;
  const sidecarsBy = (backend: RedirectBackend) =>
    new Sidecars({
      redirection: new SidecarRedirection({ backend, hostNetns: new Set([host.key]) }),
      attachments: { placeOf: () => undefined },
      records: new SidecarRecords(),
      excludeNamespaces: new NamespacePatterns([]),
      log: silentLogger,
    });
  using theirs = await SidecarNetwork.make({ ownUsers: true });
  using nodes = await SidecarNetwork.make();
  await expect(sidecarsBy(native).apply(pod, nodes.pod.netns)).rejects.toThrow(
    /network belongs to the node's: .*; use a container runtime/,
  );
  await expect(sidecarsBy(nft).apply(pod, theirs.pod.netns)).rejects.toThrow(/set NATIVE_NFTABLES=true/);
  for (const { pod: each } of [theirs, nodes])
    expect(await each.run("nft list ruleset")).not.toMatch(/istio/i);
  expect((await sidecarsBy(native).apply(pod, theirs.pod.netns)).families).toEqual([4]);
  expect(await theirs.pod.run("nft list tables")).toContain("istio-proxy-nat");
});

test("natively, a chain that other options have is found, and taken away with its table", async () => {
  using network = await SidecarNetwork.make();
  const { netns } = network.pod;
  const redirect = new SidecarRedirection({ backend: native, hostNetns: new Set([host.key]) });
  await redirect.apply(netns, dual(), { isNew: true });
  await network.pod.run("nft add chain inet istio-proxy-nat istio-output-dns");
  const drift = await redirect.verify(netns, dual());
  expect(drift).toMatchObject([{ kind: "extra-rule", table: "istio-proxy-nat", chain: "istio-output-dns" }]);
  expect((await redirect.apply(netns, dual())).repaired).toEqual(drift);
  expect(await shown(network, "native")).toBe(comparable(renderNativeSidecarText(dual(), FAMILIES)));
});

test.each([
  ["nft", "native"],
  ["legacy", "native"],
  ["native", "nft"],
  ["native", "legacy"],
  ["legacy", "nft"],
] as const)(
  "rules that an agent with %s left are taken away by one with %s, once its own stand",
  async (from, to) => {
    using network = await SidecarNetwork.make();
    const { netns } = network.pod;
    const options = dual({ dnsCapture: true, dropInvalid: true });
    const by = (variant: typeof from) =>
      new SidecarRedirection({ backend: { ...nft, variant }, hostNetns: new Set([host.key]) });
    await by(from).apply(netns, options, { isNew: true });
    await network.listen();
    const redirect = by(to);
    const { repaired, leftoverFault } = await redirect.apply(netns, options);
    expect(leftoverFault).toBe(undefined);
    expect(repaired.map(({ kind }) => kind)).toContain("unexpected-table");
    expect(await shown(network, from)).not.toMatch(from === "native" ? /istio-proxy/ : /ISTIO/);
    expect(await shown(network, to)).toMatch(/istio.output/i);
    expect(await network.ask("outside", { host: POD[4], port: APP_PORT })).toBe(`proxy 15006 ${OUTSIDE[4]}`);
    expect(await network.ask("pod", { host: OUTSIDE[6], port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
    expect((await redirect.apply(netns, options)).repaired).toEqual([]);
    expect((await by(to).apply(netns, options)).repaired).toEqual([]);
  },
);

test("a variant that is not installed writes nothing, and the reason names its programs", async () => {
  using network = await SidecarNetwork.make();
  const redirect = new SidecarRedirection({
    backend: { ...nft, installed: {} },
    hostNetns: new Set([host.key]),
  });
  await expect(redirect.apply(network.pod.netns, dual(), { isNew: true })).rejects.toThrow(/not in PATH/);
  expect(await network.pod.save()).not.toContain("ISTIO");
});
