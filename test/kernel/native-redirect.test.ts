// SPDX-License-Identifier: Apache-2.0
// Rules of pure nf_tables and the sockets of the stand-in together: traffic between pods takes the way it should in both families,
// and open connections live through all that happens to the rules. Root; namespaces of its own.
import { afterEach, beforeEach, expect, test } from "vitest";
import { NativeEngine } from "../../src/netfilter/native/native-engine.ts";
import type { WantedRules } from "../../src/netfilter/rule-engine.ts";
import { NATIVE_LAYOUT } from "../../src/redirection/native-rules.ts";
import { ensureRouting } from "../../src/redirection/pod-routing.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { toldRedirection } from "../../src/redirection/told-redirection.ts";
import { DEFAULT_OPTIONS, FAMILIES } from "../redirection/variants.ts";
import { appPort, EchoPods } from "../support/ztunnel/echo-pods.ts";
import { addresses, type Place, type PodNetwork, readAll } from "../support/ztunnel/pod-network.ts";

const pods = ["a", "b"] as const;
const engine = new NativeEngine({ layout: NATIVE_LAYOUT });
let echoPods: EchoPods;
let network: PodNetwork;

beforeEach(async () => {
  echoPods = await EchoPods.start();
  ({ network } = echoPods);
});

afterEach(async () => {
  await echoPods[Symbol.asyncDispose]();
});

const ask = (from: Place, family: 4 | 6) => echoPods.ask(from, family);
const way = () => echoPods.way();

function wanted(options: RedirectOptions): WantedRules {
  return { key: JSON.stringify(options), told: () => toldRedirection(options, FAMILIES), families: FAMILIES };
}

async function redirect(place: Place, options = DEFAULT_OPTIONS): Promise<number> {
  const netns = network.netns[place];
  await ensureRouting(netns, { ipv6: true, isNew: false, hostNetns: new Set() });
  return (await engine.apply({ netns }, wanted(options), { isNew: false })).writes;
}

test("traffic goes through the ztunnel with the client's address kept, and is let go when the rules are removed", async () => {
  for (const place of pods) expect(await redirect(place)).toBe(1);
  for (const family of FAMILIES) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=2 b15008=2");
  for (const family of FAMILIES) expect(await ask("node", family)).toBe(addresses.node[family]);
  expect(await way()).toBe("a15001=2 b15006=2 b15008=2");
  // a pod that calls itself by its own address stays inside
  for (const family of FAMILIES) expect(await ask("b", family)).toBe(addresses.b[family]);
  expect(await way()).toBe("a15001=2 b15006=2 b15008=2");
  for (const place of pods) expect(await engine.remove({ netns: network.netns[place] })).toBe(1);
  for (const family of FAMILIES) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=2 b15006=2 b15008=2");
});

test("a connection that is open lives through damage, a table made anew, and opening; new ones are led as the rules say", async () => {
  for (const place of pods) await redirect(place);
  const open = await network.dial("a", { address: addresses.b[4], port: appPort });
  const answer = readAll(open);
  open.write("one ");
  await expect.poll(way).toBe("a15001=1 b15008=1");
  for (const place of pods) {
    await network.exec(place, ["nft", "flush", "chain", "inet", "istio-ambient-nat", "istio-output"]);
    expect(await redirect(place)).toBe(1);
  }
  open.write("two ");
  for (const family of FAMILIES) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=3 b15008=3");
  for (const place of pods) expect(await engine.open({ netns: network.netns[place] }, "nat")).toBe(1);
  for (const family of FAMILIES) expect(await ask("a", family)).toBe(addresses.a[family]);
  expect(await way()).toBe("a15001=3 b15008=3");
  open.end("three");
  expect((await answer).toString()).toBe(`${addresses.a[4]}\none two three`);
});

test("a connection from before the capture goes on past the ztunnel", async () => {
  const early = await network.dial("a", { address: addresses.b[6], port: appPort });
  const answer = readAll(early);
  early.write("before ");
  for (const place of pods) await redirect(place);
  early.end("after");
  expect((await answer).toString()).toBe(`${addresses.a[6]}\nbefore after`);
  expect(await way()).toBe("");
});

test.each([
  ["captured", true, 1],
  ["left alone", false, 0],
])("DNS is %s", async (_, dnsCapture, queries) => {
  await redirect("a", { ...DEFAULT_OPTIONS, dnsCapture });
  await network.listen("node", 53, (client) => client.end("the real resolver"));
  const socket = await network.dial("a", { address: addresses.node[4], port: 53 });
  socket.end(Buffer.from("001aabcd01000001000000000000037765620473686f700000010001", "hex"));
  const answer = await readAll(socket);
  if (dnsCapture) expect(answer.subarray(-4)).toEqual(Buffer.from([10, 77, 0, 3]));
  else expect(answer.toString()).toBe("the real resolver");
  expect((await echoPods.ztunnel.stats()).workloads.a?.dnsQueries).toBe(queries);
});

test("in ingress mode inbound traffic goes straight to the app", async () => {
  await redirect("b", { ...DEFAULT_OPTIONS, ingressMode: true });
  for (const family of FAMILIES) expect(await ask("node", family)).toBe(addresses.node[family]);
  expect(await way()).toBe("");
});
