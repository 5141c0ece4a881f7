// SPDX-License-Identifier: Apache-2.0
// A host that is listened to: what is announced is mended at once, sets of ipset are asked about, and nothing is spared that nobody tells of.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { NetnsNotices } from "../../src/linux/netns-notices.ts";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import type { Variant } from "../../src/netfilter/variant-tools.ts";
import { HostProbes } from "../../src/probes/host-probes.ts";
import type { HostProbesOptions } from "../../src/probes/host-probes-options.ts";
import { TestNetns } from "../redirection/test-netns.ts";
import { waitFor } from "../support/node/wait-for.ts";

let folder: string;
let host: TestNetns;
let running: HostProbes | undefined;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ambient-ears-"));
  host = await TestNetns.make();
});
afterEach(async () => {
  await running?.stop();
  host[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

/** Started, with one pod, and right as far as a whole look tells. */
async function start(variant: Variant | "native", options: Partial<HostProbesOptions> = {}) {
  const runner = new ToolRunner();
  const probes = new HostProbes({
    hostNetnsPath: `/proc/${host.pid}/ns/net`,
    backend: await chooseBackend({ variant, runDir: folder, hostProcess: "/proc/self", runner }),
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "fd16::1",
    ipv6: true,
    log: silentLogger,
    onstate: () => {},
    listen: (netns) => NetnsNotices.open(netns, "host"),
    ...options,
  });
  running = probes;
  await probes.start();
  await probes.set("11111111-1111-1111-1111-111111111111", ["10.0.0.1", "fd10::1"]);
  // its writes are announced as well, and what they made is looked at once more
  const { reasserted } = probes.counts;
  await waitFor("another look", () => probes.counts.reasserted > reasserted, { timeoutMs: 20_000 });
  return probes;
}

/** Until it is right again, in ms. */
async function mended(command: string, isRight: () => Promise<boolean>): Promise<number> {
  await host.run(command);
  const startMs = performance.now();
  await waitFor("it to be right again", isRight, { timeoutMs: 20_000, intervalMs: 20 });
  return performance.now() - startMs;
}

const set = () => host.run("ipset save istio-inpod-probes-v4");
const hasEntry = async () => (await set()).includes("10.0.0.1");

test.each(["nft", "native"] as const)(
  "a chain of %s that somebody empties is back within a second",
  async (variant) => {
    await start(variant);
    const rules = () => host.run("nft list ruleset");
    const whole = (await rules()).split("\n").length;
    const isRight = async () => (await rules()).split("\n").length === whole;
    const flush =
      variant === "nft" ? "nft flush chain ip nat ISTIO_POSTRT" : "nft delete table inet istio-ambient-nat";
    const command = variant === "nft" ? flush : await firstRule();
    for (let i = 0; i < 3; i++) expect(await mended(command, isRight)).toBeLessThan(1_000);
  },
);

/** Takes the first rule of a native table away. */
async function firstRule(): Promise<string> {
  const text = await host.run("nft --handle list ruleset");
  const table = /^table (\S+ \S+) /m.exec(text)?.[1];
  const chain = /^\tchain (\S+) /m.exec(text)?.[1];
  return `nft flush chain ${table} ${chain}`;
}

test("an entry that somebody takes out of a native set is back within a second", async () => {
  await start("native");
  const text = await host.run("nft list ruleset");
  const table = /^table (\S+ \S+) /m.exec(text)?.[1];
  const name = /^\tset (\S+) \{\n\t\ttype ipv4_addr/m.exec(text)?.[1];
  const isRight = async () => (await host.run("nft list ruleset")).includes("10.0.0.1");
  const command = `nft delete element ${table} ${name} { 10.0.0.1 }`;
  expect(await mended(command, isRight)).toBeLessThan(1_000);
});

test("an entry that somebody takes out of an ipset is back within a second and what mending takes", async () => {
  await start("nft");
  for (let i = 0; i < 2; i++)
    expect(await mended("ipset del istio-inpod-probes-v4 10.0.0.1", hasEntry)).toBeLessThan(1_500);
  expect(await mended("ipset flush istio-inpod-probes-v4", hasEntry)).toBeLessThan(1_500);
});

test("entries of a pod that nobody named go once it is known to be outside, which no kernel tells", async () => {
  const other = "22222222-2222-2222-2222-222222222222";
  let isGone = false;
  await start("nft", { isOutside: (uid) => uid === other && isGone, intervalMs: 500 });
  await host.run("ipset restore", `add istio-inpod-probes-v4 10.0.0.2 comment ${other}\n`);
  await waitFor("it to be seen", async () => (await set()).includes("10.0.0.2"), { timeoutMs: 1_000 });
  await new Promise((resolve) => setTimeout(resolve, 9_000));
  isGone = true;
  await waitFor("it to go", async () => !(await set()).includes("10.0.0.2"), { timeoutMs: 5_000 });
});

test("rules of iptables-legacy, which no kernel announces, are looked at as often as ever", async () => {
  await start("legacy", { intervalMs: 500 });
  const isRight = async () => (await host.run("iptables-legacy-save -t nat")).includes("-A ISTIO_POSTRT ");
  for (let i = 0; i < 2; i++)
    expect(await mended("iptables-legacy -t nat -F ISTIO_POSTRT", isRight)).toBeLessThan(2_000);
});
