// SPDX-License-Identifier: Apache-2.0
// Both iptables variants of this machine, whichever of them the agent of this node had chosen.
import { errorCode } from "../linux/netlink/exchange.ts";
import { Netns } from "../linux/netns.ts";
import { ToolRunner } from "../linux/run-tool.ts";
import { ask, getTable } from "../netfilter/nft/nft-wire.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { findTools } from "../netfilter/variant-tools.ts";

/** Gives the programs that cleaning up takes. */
export type CleanupTools = () => Promise<RedirectBackend>;

/** They are looked for when they are first needed. Without any program what is in nf_tables can be removed all the same. */
export function cleanupTools(): CleanupTools {
  let found: Promise<RedirectBackend> | undefined;
  return () => {
    found ??= findBackend();
    return found;
  };
}

async function findBackend(): Promise<RedirectBackend> {
  const runner = new ToolRunner();
  const installed = await findTools(runner);
  const { nft, legacy } = installed;
  // nf_tables first where the kernel has them: they are looked at without a process
  const tools = nft !== undefined && (await hasNftables()) ? nft : (legacy ?? nft);
  return { variant: tools?.variant ?? "native", installed, runner, reason: "to clean up" };
}

/** Any question will do: without nf_tables the kernel does not know the message. Source: linux net/netfilter/nfnetlink.c, nfnetlink_rcv_msg */
async function hasNftables(): Promise<boolean> {
  using netns = Netns.open("/proc/self/ns/net");
  const [answer] = await ask(netns.fd, [getTable({ family: 4, table: "nat" })]).catch(() => []);
  return (
    answer !== undefined &&
    (answer.error === 0 || errorCode(answer.error) === "ENOENT" || answer.messages.length > 0)
  );
}
