// SPDX-License-Identifier: Apache-2.0
// Counts every change of netfilter rules in a namespace while it watches: the proof that nothing was written.
import { hearsNftables } from "./kernel.ts";
import { ManagedProcess } from "./managed-process.ts";

/** `nft monitor` in one namespace. It sees iptables-nft and nft alike; iptables-legacy is out of its sight. */
export class RuleMonitor extends ManagedProcess {
  private constructor(netns: string) {
    super(["nsenter", `--net=${netns}`, "--", "nft", "--handle", "monitor"], { name: "nft monitor" });
  }

  /** Starts to watch; from the return on nothing is missed. */
  static async start(netns: string): Promise<RuleMonitor> {
    const monitor = new RuleMonitor(netns);
    await monitor.until("to listen", () => hearsNftables(monitor.pid), { intervalMs: 2 });
    return monitor;
  }

  /** Events about rules, chains and tables so far, such as `add rule ip nat ISTIO_OUTPUT …`. */
  get changes(): string[] {
    return this.lines.map((line) => line.text).filter((text) => /^(add|delete|insert|replace) /.test(text));
  }
}
