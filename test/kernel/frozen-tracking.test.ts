// SPDX-License-Identifier: Apache-2.0
// What the kernel remembers of a connection takes a new one with its addresses and ports past ztunnel, unless it is made to forget.
// Rules and the sockets of the stand-in between pods in namespaces of their own. Root.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Netns, NetnsError } from "../../src/linux/netns.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import { forgetFrozen } from "../../src/redirection/frozen-tracking.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import { DEFAULT_OPTIONS, FAMILIES } from "../redirection/variants.ts";
import { appPort, EchoPods } from "../support/ztunnel/echo-pods.ts";
import { addresses, readAll } from "../support/ztunnel/pod-network.ts";

/** Of the connection that is over, and of the one that comes. */
const port = 4_000;
let folder: string;
let pods: EchoPods;
let redirection: PodRedirection;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "frozen-"));
  pods = await EchoPods.start();
  using host = Netns.open("/proc/self/ns/net");
  const backend = await chooseBackend({ variant: "nft", runDir: folder, hostProcess: "/proc/self" });
  redirection = new PodRedirection({ backend, hostNetns: new Set([host.key]), ipv6: true });
});

afterEach(async () => {
  await pods[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const frozenEntry = `-p tcp --state ESTABLISHED -t 432000 --sport ${port} --dport ${appPort}`.split(" ");

/** Where what `conntrack -L` lists comes from. */
function sourcesIn(listing: string): string[] {
  return [...listing.matchAll(/src=(\S+)/g)].map(([, source = ""]) => source);
}

/** As the end of tracking leaves it, and the end of the connection after that. */
async function freeze(family: 4 | 6): Promise<void> {
  const ends = ["-s", addresses.a[family], "-d", addresses.b[family]];
  await pods.network.exec("a", ["conntrack", "-I", ...frozenEntry, ...ends]);
}

async function capture(): Promise<void> {
  for (const place of ["a", "b"] as const)
    await redirection.apply(pods.network.netns[place], DEFAULT_OPTIONS);
}

async function ask(family: 4 | 6): Promise<string> {
  const target = { address: addresses.b[family], port: appPort };
  const socket = await pods.network.dial("a", target, { address: addresses.a[family], port });
  socket.end("hello");
  return (await readAll(socket)).toString();
}

test.each(FAMILIES)(
  "a connection like one that is over goes through ztunnel once that is forgotten, IPv%d",
  async (family) => {
    await freeze(family);
    expect(await forgetFrozen(pods.network.netns.a)).toBe(1);
    await capture();
    expect(await ask(family)).toBe(`${addresses.a[family]}\nhello`);
    expect(await pods.way()).toMatch(/^a15001=1/);
  },
);

test("nothing is forgotten of a namespace that gets the descriptor's number while a closed one is looked at", async () => {
  await freeze(4);
  const { a, b } = pods.network.netns;
  const tracked = () => pods.network.exec("a", ["conntrack", "-L"]);
  const before = await tracked();
  // something is tracked there, too, or it would not be looked at further
  await pods.network.exec("b", [
    "conntrack",
    "-I",
    ...frozenEntry,
    "-s",
    addresses.b[4],
    "-d",
    addresses.a[4],
  ]);
  const ended = Netns.open(`/proc/self/fd/${b.fd}`);
  const { fd } = ended;
  const forgetting = forgetFrozen(ended);
  ended.close();
  using other = Netns.open(`/proc/self/fd/${a.fd}`);
  expect(other.fd).toBe(fd);
  await expect(forgetting).rejects.toThrow(NetnsError);
  expect(sourcesIn(await tracked())).toEqual(sourcesIn(before));
});

test.each(FAMILIES)("it would not otherwise, IPv%d", async (family) => {
  await freeze(family);
  await capture();
  expect(await ask(family)).toBe(`${addresses.a[family]}\nhello`);
  // in clear, past the pod's own ztunnel
  expect(await pods.way()).toBe("b15006=1");
});
