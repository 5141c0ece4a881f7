// SPDX-License-Identifier: Apache-2.0
// Counting rules in both variants, against rules that were put there.
import { constants } from "node:os";
import { expect, test } from "vitest";
import { NativeError } from "../../src/linux/native.ts";
import { NetlinkError } from "../../src/linux/netlink/exchange.ts";
import { countXtablesRules } from "../../src/netfilter/legacy/xtables-count.ts";
import { countNftRules, isAnswer } from "../../src/netfilter/nft/nft-count.ts";
import { TestNetns } from "../redirection/test-netns.ts";

const OURS_AND_THEIRS = `*nat
:THEIRS -
:ISTIO_POSTRT -
-A POSTROUTING -j ISTIO_POSTRT
-A POSTROUTING -j THEIRS
-A ISTIO_POSTRT -j RETURN
-A ISTIO_POSTRT -j ACCEPT
-A THEIRS -p tcp -j ACCEPT
COMMIT
*filter
:EMPTY -
-A INPUT -j ACCEPT
COMMIT
`;

test.each([4, 6] as const)(
  "IPv%d: rules are counted without chains and those of an ambient agent",
  async (family) => {
    using host = await TestNetns.make();
    const tool = family === 4 ? "iptables" : "ip6tables";
    for (const variant of ["nft", "legacy"]) await host.run(`${tool}-${variant}-restore`, OURS_AND_THEIRS);
    await host.run("nft -f -", "table inet nat {\nchain x {\naccept\naccept\n}\n}\n");
    expect(await countNftRules(host.netns.fd)).toMatchObject({ rules: 3 });
    // six rules, three chains with a beginning and an end each
    expect(await countXtablesRules(host.netns.fd)).toEqual({ rules: 3, entries: 6 + 3 * 2 });
  },
);

test("nothing is counted where nothing is", async () => {
  using host = await TestNetns.make();
  expect(await countNftRules(host.netns.fd)).toEqual({ rules: 0, entries: 0 });
  expect(await countXtablesRules(host.netns.fd)).toEqual({ rules: 0, entries: 0 });
});

const failed = (code: keyof typeof constants.errno) =>
  new NativeError("talk", -constants.errno[code], "recvmsg");

test.each([
  ["the kernel's refusal", new NetlinkError("list nf_tables rules", "EINVAL", "there is none"), true],
  ["a kernel without nfnetlink", failed("EPROTONOSUPPORT"), true],
  ["silence", failed("ETIMEDOUT"), false],
  ["an answer that was dropped", failed("ENOBUFS"), false],
  ["an agent out of descriptors", failed("EMFILE"), false],
])("%s: whether it says that the kernel has no nf_tables", (_, error, says) => {
  expect(isAnswer(error)).toBe(says);
});
