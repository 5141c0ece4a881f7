// SPDX-License-Identifier: Apache-2.0
// Redirection against the real kernel and the real iptables programs, in namespaces of its own.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { parseSave } from "../../src/netfilter/save-parser.ts";
import { desiredChains, fingerprint } from "../../src/redirection/fingerprint.ts";
import { damage } from "../redirection/damage.ts";
import {
  expectNothingLeftAfterwards,
  installedBackends,
  ourRules,
  redirection,
  saveTool,
} from "../redirection/installed-backends.ts";
import { fixture, routes, sortTables } from "../redirection/pod-text.ts";
import { observedState } from "../redirection/saved-state.ts";
import { TestNetns, withoutDates } from "../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, seededRandom, VARIANTS } from "../redirection/variants.ts";

const runner = new ToolRunner();
const { nft, legacy } = await installedBackends(runner);
await expectNothingLeftAfterwards();

describe.each(["nft", "legacy"] as const)("with iptables-%s", (variant) => {
  const backend = () => (variant === "nft" ? nft : legacy);

  test.each(Object.entries(VARIANTS))(
    "a fresh namespace gets exactly the rules of variant %s",
    async (name, options) => {
      using pod = await TestNetns.make();
      const report = await redirection(backend()).apply(pod.netns, options);
      // one batch for both families, or a program for each
      const writes = variant === "nft" ? 1 : 2;
      expect(report).toMatchObject({ changed: true, writes, skippedFamilies: [] });
      for (const family of FAMILIES) {
        const saved = await pod.save(saveTool(family, variant));
        expect(sortTables(saved)).toBe(sortTables(fixture(name, { family, variant })));
      }
      const routing = await routes(pod);
      expect(routing.match(/32764:\tfrom all fwmark 0x111\/0xfff lookup 100/g)).toHaveLength(2);
      expect(routing.match(/local default dev lo/g)).toHaveLength(2);
    },
  );

  test("a second apply and a check write nothing", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    const saves = () => Promise.all(FAMILIES.map((family) => pod.run(`${saveTool(family, variant)} -c`)));
    const before = (await saves()).map(withoutDates);
    const handlesBefore = await pod.handles();
    const started = runner.startedCount;
    const report = await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    expect(report).toMatchObject({ changed: false, writes: 0, repaired: [], skippedFamilies: [] });
    expect(await redirect.verify(pod.netns, DEFAULT_OPTIONS)).toMatchObject({ intact: true, drift: [] });
    expect(runner.startedCount - started).toBe(0);
    expect((await saves()).map(withoutDates)).toEqual(before);
    expect(await pod.handles()).toBe(handlesBefore);
  });

  test.each(["default", "reset-default"])(
    "rules that istio-cni wrote are taken over as they are with options %s",
    async (name) => {
      using pod = await TestNetns.make();
      const options = VARIANTS[name]!;
      for (const family of FAMILIES) {
        const golden = readFileSync(
          new URL(`../redirection/golden/reset-default.v${family}.rules`, import.meta.url),
          "utf8",
        );
        const asIstio = golden
          .replaceAll(/^:(\S+) - \[0:0\]$/gm, "-N $1")
          .replaceAll(/^\*/gm, "* ")
          .replace(
            "-m udp --dport 53 -j REDIRECT --to-ports 15053",
            "-m udp --dport 53 -j REDIRECT --to-port 15053",
          );
        expect(asIstio).toContain("--to-port 15053\n");
        await pod.run(`${saveTool(family, variant).replace("save", "restore")} --noflush`, asIstio);
      }
      const handles = await pod.handles();
      const redirect = redirection(backend());
      const report = await redirect.apply(pod.netns, options);
      expect(report.repaired.map(({ kind }) => kind).sort()).toEqual([
        "missing-ip-rule",
        "missing-ip-rule",
        "missing-route",
        "missing-route",
      ]);
      expect(report.writes).toBe(0);
      for (let look = 0; look < 2; look++) {
        const { intact, fingerprints } = await redirect.verify(pod.netns, options);
        expect(intact).toBe(true);
        expect(fingerprints.get(4)).toBe(fingerprint(desiredChains(options, 4)));
      }
      expect(await redirect.apply(pod.netns, options)).toMatchObject({ changed: false, writes: 0 });
      expect(await pod.handles()).toBe(handles);
    },
  );

  test("a live namespace follows every change of options and back", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    for (const name of [
      "default",
      "no-dns",
      "default",
      "ingress",
      "virtual-interfaces",
      "ingress-virtual-interfaces-no-dns",
      "default",
      "reset-default",
      "reset-no-dns",
    ]) {
      const options = VARIANTS[name]!;
      expect((await redirect.apply(pod.netns, options)).changed).toBe(true);
      for (const family of FAMILIES) {
        const state = observedState(parseSave(await pod.run(saveTool(family, variant))));
        expect(state).toEqual(observedState(parseSave(fixture(name, { family, variant }))));
      }
      expect((await redirect.apply(pod.netns, options)).writes).toBe(0);
    }
  });

  test("rules of others survive everything, and are all that is left in the end", async () => {
    using pod = await TestNetns.make();
    const redirect = redirection(backend());
    const ipt = `iptables-${variant}`;
    const before = ["mangle", "nat", "raw"].map(
      (table) => `${ipt} -t ${table} -A PREROUTING -s 192.0.2.1 -j ACCEPT`,
    );
    await pod.run(`${ipt} -t nat -N FOREIGN`);
    for (const command of [
      ...before,
      `${ipt} -t nat -A OUTPUT -p tcp -j FOREIGN`,
      `${ipt} -t nat -A FOREIGN -m comment --comment -j -j RETURN`,
      `${ipt} -A INPUT -j ACCEPT`,
    ]) {
      await pod.run(command);
    }
    await redirect.apply(pod.netns, DEFAULT_OPTIONS);
    for (const table of ["mangle", "nat", "raw"]) {
      await pod.run(`${ipt} -t ${table} -A PREROUTING -s 192.0.2.2 -j ACCEPT`);
      await pod.run(`${ipt} -t ${table} -I OUTPUT -d 192.0.2.3 -j ACCEPT`);
    }
    const foreign = async () =>
      (await pod.save(saveTool(4, variant))).replaceAll(/^.*ISTIO_(PRERT|OUTPUT).*\n/gm, "");
    const foreignBefore = await foreign();
    expect(foreignBefore.match(/192\.0\.2/g)).toHaveLength(9);
    await pod.run(`${ipt} -t nat -F ISTIO_OUTPUT`);
    await pod.run(`${ipt} -t nat -A PREROUTING -j ISTIO_PRERT`);
    expect((await redirect.apply(pod.netns, VARIANTS["no-dns"]!)).changed).toBe(true);
    expect(await foreign()).toBe(foreignBefore);
    expect(await redirect.remove(pod.netns)).toEqual({ changed: true });
    expect(await pod.save(saveTool(4, variant))).toBe(foreignBefore);
    expect(await pod.save(saveTool(6, variant))).not.toContain("ISTIO");
    expect(await routes(pod)).toBe("");
    const handles = await pod.handles();
    expect(await redirect.remove(pod.netns)).toEqual({ changed: false });
    expect(await pod.handles()).toBe(handles);
  });

  test("random damage is repaired", async () => {
    const redirect = redirection(backend());
    const names = Object.keys(VARIANTS);
    for (let seed = 0; seed < 6; seed++) {
      using pod = await TestNetns.make();
      const random = seededRandom(seed);
      const pick = () => VARIANTS[names[Math.floor(random() * names.length)]!]!;
      await redirect.apply(pod.netns, pick());
      for (const text of damage(random)) {
        const tool = random() < 0.5 ? "iptables" : "ip6tables";
        await pod.run(`${tool}-${variant}-restore --noflush`, text).catch(() => {});
      }
      const options = pick();
      await redirect.apply(pod.netns, options);
      expect(await redirect.verify(pod.netns, options)).toMatchObject({ intact: true, drift: [] });
      // What verify says is not taken on trust: a verifier that has seen nothing yet must say the same.
      expect((await redirection(backend()).verify(pod.netns, options)).drift).toEqual([]);
      await redirect.remove(pod.netns);
      expect(await ourRules(pod, variant)).toBe(0);
    }
  });
});
