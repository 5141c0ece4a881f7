// SPDX-License-Identifier: Apache-2.0
// What is listening alone: a Node that hears of as many namespaces as the agent and has nothing else to do. usage: idle-floor.ts NETNS...
import { Netns } from "../../src/linux/netns.ts";
import { NetnsNotices } from "../../src/linux/netns-notices.ts";

const ears = await Promise.all(
  process.argv.slice(2).map((path) => NetnsNotices.open(Netns.open(path), "pod")),
);
for (const each of ears) each?.listen(() => {});
process.stdout.write("listening\n");
// nothing that is heard of keeps a process alive
setTimeout(() => {}, 600_000);
