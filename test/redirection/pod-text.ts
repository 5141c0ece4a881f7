// SPDX-License-Identifier: Apache-2.0
// What a pod's namespace shows as text, in forms that can be compared.
import { readFileSync } from "node:fs";
import type { Family } from "../../src/netfilter/family.ts";
import type { Variant } from "../../src/netfilter/variant-tools.ts";
import { type TestNetns, withoutDates } from "./test-netns.ts";

/** What a family's program prints of a pod that is as it should be. */
export function fixture(name: string, tool: { family: Family; variant: Variant }): string {
  const url = new URL(`../netfilter/fixtures/${name}.v${tool.family}.${tool.variant}.save`, import.meta.url);
  return withoutDates(readFileSync(url, "utf8"));
}

/** Tables in alphabetical order: the tools print them in the order they were made. */
export function sortTables(text: string): string {
  return text
    .split(/^(?=\*)/m)
    .sort()
    .join("");
}

/** Our ip rules and routes of both families. */
export async function routes(pod: TestNetns): Promise<string> {
  const outputs = await Promise.all(
    ["ip rule show pref 32764", "ip -6 rule show pref 32764"].map((command) => pod.run(command)),
  );
  const tables = ["ip route show table 100", "ip -6 route show table 100"];
  for (const command of tables) outputs.push(await pod.run(command).catch(() => ""));
  return outputs.join("");
}
