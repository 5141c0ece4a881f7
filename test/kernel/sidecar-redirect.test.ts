// SPDX-License-Identifier: Apache-2.0
// A sidecar's rules in the real kernel: what a stand-in proxy is given and what goes past it, for each option. Root.
import { once } from "node:events";
import { createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isTouched } from "../../src/check/signs.ts";
import { socketInNetns } from "../../src/linux/native.ts";
import { Netns } from "../../src/linux/netns.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
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
import { ADDRESSES, APP_PORT, OUTSIDE_PORT, PROXY, SidecarNetwork } from "./sidecar-network.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

const { pod: POD, outside: OUTSIDE } = ADDRESSES;
let host: Netns;

beforeAll(() => {
  host = Netns.open("/proc/self/ns/net");
});
afterAll(() => host.close());

/** Without what has been counted on built-in chains, tables in alphabetical order. */
function comparable(saved: string): string {
  return saved
    .replaceAll(/\[\d+:\d+\]/g, "[0:0]")
    .split(/^(?=\*)/m)
    .sort()
    .join("");
}

const dual = (changes: Partial<SidecarOptions> = {}) =>
  defaultSidecarOptions({ dualStack: true, ...changes });

describe.each(["nft", "legacy"] as const)("with iptables-%s", (variant) => {
  const backend = () => (variant === "nft" ? nft : legacy);
  const sidecars = () => new SidecarRedirection({ backend: backend(), hostNetns: new Set([host.key]) });

  async function pod(options: SidecarOptions): Promise<SidecarNetwork> {
    const network = await SidecarNetwork.make();
    const report = await sidecars().apply(network.pod.netns, options, { isNew: true });
    expect(report.families).toEqual([4, 6]);
    await network.listen();
    return network;
  }

  test.each(Object.entries(SIDECAR_VARIANTS))(
    "a namespace gets the rules that iptables-restore makes of %s, and a second look finds them right",
    async (_, options) => {
      using network = await SidecarNetwork.make();
      using restored = await TestNetns.make();
      const asked = { ...options, dualStack: true };
      const redirect = sidecars();
      const { repaired } = await redirect.apply(network.pod.netns, asked, { isNew: true });
      expect(repaired.length).toBeGreaterThan(0);
      for (const family of FAMILIES) {
        const save = saveTool(family, variant);
        await restored.run(`${save.replace("save", "restore")} --noflush`, renderSidecarText(asked, family));
        const [ours, theirs] = [await network.pod.save(save), await restored.save(save)];
        expect(comparable(ours)).toBe(comparable(theirs));
      }
      expect(await redirect.verify(network.pod.netns, asked)).toEqual([]);
      // the kernel's own packets, such as MLD reports, are counted meanwhile
      const handles = async () => (await network.pod.handles()).replaceAll(/packets \d+ bytes \d+/g, "");
      const before = await handles();
      expect((await redirect.apply(network.pod.netns, asked)).repaired).toEqual([]);
      expect(await handles()).toBe(before);
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
    const saves = async () => {
      const saved = await Promise.all(FAMILIES.map((family) => network.pod.save(saveTool(family, variant))));
      return saved.map(comparable).join("");
    };
    const right = await saves();
    const ipt = `iptables-${variant}`;
    for (const damage of [
      `${ipt} -t nat -F ISTIO_REDIRECT`,
      `${ipt} -t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT`,
      `${ipt} -t nat -I ISTIO_OUTPUT -j ISTIO_IN_REDIRECT`,
      `${ipt} -t nat -D OUTPUT -j ISTIO_OUTPUT`,
      `${ipt} -t nat -A OUTPUT -j ISTIO_OUTPUT`,
      `${ipt} -t mangle -I PREROUTING -p udp -j ISTIO_DIVERT`,
      `${ipt} -t raw -F ISTIO_OUTPUT_DNS`,
      `ip6tables-${variant} -t mangle -F ISTIO_INBOUND`,
      "ip rule del fwmark 1337 lookup 133",
      "ip -6 route del local default dev lo table 133",
      "ip address del ::6/128 dev lo",
    ]) {
      await network.pod.run(damage);
      expect((await redirect.verify(netns, options)).length, damage).toBeGreaterThan(0);
      const { repaired } = await redirect.apply(netns, options);
      expect(repaired.length, damage).toBeGreaterThan(0);
      expect(await redirect.verify(netns, options), damage).toEqual([]);
      expect(await saves(), damage).toBe(right);
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
    // Istio's jump from PREROUTING of nat takes TCP alone
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
    expect(await network.pod.save(saveTool(4, variant))).not.toContain("PREROUTING -p tcp");
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
    const saved = await network.pod.save(saveTool(4, variant));
    for (const chain of ["ISTIO_DIVERT", "ISTIO_DROP", "ISTIO_OUTPUT_TPROXY"])
      expect(saved).not.toContain(chain);
  });

  test("ambient mode's code sees nothing of its own in it, and takes nothing away", async () => {
    for (const options of Object.values(SIDECAR_VARIANTS)) {
      using network = await SidecarNetwork.make();
      const redirect = sidecars();
      await redirect.apply(network.pod.netns, { ...options, dualStack: true }, { isNew: true });
      expect(await isTouched(network.pod.netns)).toBe(false);
      for (const each of [nft, legacy]) {
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
    expect(await both.pod.save(saveTool(6, variant))).not.toContain("ISTIO");
    using six = await SidecarNetwork.make({ families: [6] });
    expect((await redirect.apply(six.pod.netns, defaultSidecarOptions())).families).toEqual([4, 6]);
    using four = await SidecarNetwork.make({ families: [4] });
    expect((await redirect.apply(four.pod.netns, dual())).families).toEqual([4]);
    expect(await redirect.verify(four.pod.netns, dual())).toEqual([]);
  });

  test("the host's namespace is never written", async () => {
    await expect(sidecars().apply(host, dual())).rejects.toMatchObject({ code: "HOST_NETNS" });
  });
});

test("with native nftables iptables-nft writes a sidecar's rules, which ambient mode's tables have nothing to do with", async () => {
  using network = await SidecarNetwork.make();
  const { netns } = network.pod;
  const backend = { ...nft, variant: "native" as const };
  const redirect = new SidecarRedirection({ backend, hostNetns: new Set([host.key]) });
  await redirect.apply(netns, dual({ dnsCapture: true }), { isNew: true });
  await network.listen();
  expect(await network.ask("outside", { host: POD[4], port: APP_PORT })).toBe(`proxy 15006 ${OUTSIDE[4]}`);
  expect(await network.ask("pod", { host: OUTSIDE[6], port: OUTSIDE_PORT })).toMatch(/^proxy 15001 /);
  expect(await isTouched(netns)).toBe(false);
  expect(await redirection(backend).remove(netns)).toEqual({ changed: false });
  expect(await redirect.verify(netns, dual({ dnsCapture: true }))).toEqual([]);
});

test("without programs of iptables no rule is written, and the reason names them", async () => {
  using network = await SidecarNetwork.make();
  const backend = { ...nft, variant: "native" as const, installed: {} };
  const redirect = new SidecarRedirection({ backend, hostNetns: new Set([host.key]) });
  await expect(redirect.apply(network.pod.netns, dual(), { isNew: true })).rejects.toThrow(/not in PATH/);
  expect(await network.pod.save()).not.toContain("ISTIO");
});
