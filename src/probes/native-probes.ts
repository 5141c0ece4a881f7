// SPDX-License-Identifier: Apache-2.0
// The host's share in native nftables: one table with rules and sets; no program, nothing of xtables.
import type { Netns } from "../linux/netns.ts";
import type { Family } from "../netfilter/family.ts";
import { findNativeTables, nativeTableName, removeNativeTables } from "../netfilter/native/native-tables.ts";
import type { HostForm, SeenHost, WantedHost } from "./host-form.ts";
import { NativeHost } from "./native-host.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { PROBE_SETS } from "./probe-set.ts";

/** The table of one host. */
export class NativeProbes implements HostForm {
  readonly #snat: Readonly<Record<Family, string>>;
  #writes = 0;

  constructor(snat: Readonly<Record<Family, string>>) {
    this.#snat = snat;
  }

  get unannounced() {
    return "nothing" as const;
  }

  get counts() {
    return { setWrites: 0, ruleWrites: this.#writes };
  }

  /** @throws {NetfilterFault} TABLE_DORMANT, TABLE_OWNED, UNSTEADY, BATCH_REFUSED, NOT_AS_TOLD; NetlinkError, NativeError */
  async observe(netns: Netns, { families, members, match }: WantedHost): Promise<SeenHost> {
    const host = this.#host(families, match.uid);
    const { findings, members: entries } = await host.look(netns, members);
    return {
      drift: findings,
      entryCount: [...entries.values()].reduce((sum, { size }) => sum + size, 0),
      write: async () => {
        this.#writes += (await host.apply(netns, members)).writes;
      },
    };
  }

  async entries(netns: Netns, families: readonly Family[]): ReturnType<HostForm["entries"]> {
    if ((await findNativeTables(netns.fd)).length === 0) return new Map();
    return await this.#host(families).entries(netns);
  }

  async remove(netns: Netns): Promise<ProbeDrift[]> {
    const tables = await findNativeTables(netns.fd);
    if (tables.length === 0) return [];
    await removeNativeTables(netns.fd, tables);
    const detail = `${tables.map(nativeTableName).join(", ")} of NATIVE_NFTABLES=true was there`;
    return [{ kind: "leftover", family: 4, detail }];
  }

  #host(families: readonly Family[], socket: number | "any" = "any"): NativeHost {
    return new NativeHost({ families, sets: PROBE_SETS, snat: this.#snat, socket });
  }
}
