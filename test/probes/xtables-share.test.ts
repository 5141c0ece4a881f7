// SPDX-License-Identifier: Apache-2.0
// What changes the hash of our share of an iptables-legacy table, and what does not: tables made by iptables, read from the kernel.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { xtablesInNetns } from "../../src/linux/native.ts";
import { hashXtablesShare } from "../../src/probes/xtables-share.ts";
import { TestNetns } from "../redirection/test-netns.ts";

const families = [4, 6] as const;
type Family = (typeof families)[number];
const snat = { 4: "169.254.7.127", 6: "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" } as const;
const other = { 4: "192.0.2.7", 6: "2001:db8::7" } as const;

let host: TestNetns;

beforeAll(async () => {
  host = await TestNetns.make();
  await host.run("ipset restore", "create s4 hash:ip family inet\ncreate s6 hash:ip family inet6\n");
});
afterAll(() => host[Symbol.dispose]());

function tool(family: Family, what = ""): string {
  return `${family === 4 ? "iptables" : "ip6tables"}-legacy${what}`;
}

async function hash(family: Family): Promise<string | undefined> {
  const table = await xtablesInNetns(host.netns.fd, family, "nat");
  return hashXtablesShare(table, { family, hook: "POSTROUTING", chain: "ISTIO_POSTRT" });
}

function rule(family: Family): string {
  return `-p tcp -m owner --socket-exists -m set --match-set s${family} dst -j SNAT --to-source ${snat[family]}`;
}

describe.each(families)("IPv%i", (family) => {
  let good: string | undefined;

  beforeEach(async () => {
    const text = [
      "*nat",
      ":KUBE-SERVICES - [0:0]",
      ":ISTIO_POSTRT - [0:0]",
      "-A POSTROUTING -j ISTIO_POSTRT",
      "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
      "-A PREROUTING -j KUBE-SERVICES",
      `-A KUBE-SERVICES -d ${other[family]} -p tcp -m tcp --dport 80 -j RETURN`,
      `-A ISTIO_POSTRT ${rule(family)}`,
      "COMMIT\n",
    ].join("\n");
    await host.run(tool(family, "-restore"), text);
    good = await hash(family);
    expect(good).toMatch(/^[0-9a-f]{64}$/);
  });

  test.each([
    ["nothing", []],
    ["others' rules before the chain, which move it", ["-I PREROUTING -p udp -j RETURN"]],
    ["others' rules after our jump", ["-A POSTROUTING -j ACCEPT"]],
    ["others' chains", ["-N AAA", "-A AAA -j RETURN", "-N ZZZ", "-A PREROUTING -j ZZZ"]],
    ["others' chains gone", ["-F PREROUTING", "-F KUBE-SERVICES", "-X KUBE-SERVICES"]],
  ])("stays the same over %s", async (_name, commands) => {
    for (const command of commands) await host.run(`${tool(family)} -t nat ${command}`);
    expect(await hash(family)).toBe(good);
  });

  test("stays the same when packets were counted", async () => {
    const save = () => host.run(`${tool(family, "-save")} -c -t nat`);
    await host.run(`${tool(family, "-restore")} --counters`, (await save()).replaceAll("[0:0]", "[7:700]"));
    expect(await save()).toContain("[7:700] -A ISTIO_POSTRT");
    expect(await hash(family)).toBe(good);
  });

  test.each([
    ["our rule gone", ["-F ISTIO_POSTRT"]],
    ["our jump gone", ["-D POSTROUTING -j ISTIO_POSTRT"]],
    ["everything gone", ["-F", "-X"]],
    ["a rule before our jump", ["-I POSTROUTING -j RETURN"]],
    ["our jump with a condition", ["-R POSTROUTING 1 -p tcp -j ISTIO_POSTRT"]],
    ["a goto instead of our jump", ["-R POSTROUTING 1 -g ISTIO_POSTRT"]],
    ["a second jump", ["-A POSTROUTING -j ISTIO_POSTRT"]],
    ["a jump from elsewhere", ["-N AAA", "-A AAA -j ISTIO_POSTRT"]],
    ["a rule before ours", ["-I ISTIO_POSTRT -j RETURN"]],
    ["a rule after ours", ["-A ISTIO_POSTRT -j RETURN"]],
    ["another source address", [`-R ISTIO_POSTRT 1 -p tcp -j SNAT --to-source ADDRESS`]],
    ["our rule as a RETURN", ["-R ISTIO_POSTRT 1 -j RETURN"]],
  ])("changes with %s, and is the same again when that is undone", async (_name, commands) => {
    const before = await host.run(`${tool(family, "-save")} -t nat`);
    for (const command of commands) {
      await host.run(`${tool(family)} -t nat ${command.replace("ADDRESS", other[family])}`);
    }
    expect(await hash(family)).not.toBe(good);
    await host.run(tool(family, "-restore"), before);
    expect(await hash(family)).toBe(good);
  });

  test("is none for bytes that were cut off or are no table", async () => {
    const share = { family, hook: "POSTROUTING", chain: "ISTIO_POSTRT" } as const;
    const table = await xtablesInNetns(host.netns.fd, family, "nat");
    for (let length = 0; length < table.length; length++) {
      expect(hashXtablesShare(table.slice(0, length), share)).toBeUndefined();
    }
    for (let at = 0; at < table.length; at++) {
      const broken = table.slice();
      broken[at] = (broken[at] as number) ^ 0xff;
      expect(() => hashXtablesShare(broken, share)).not.toThrow();
    }
    expect(hashXtablesShare(new Uint8Array(84), share)).toBeUndefined();
    expect(hashXtablesShare(new Uint8Array(500), share)).toBeUndefined();
  });
});
