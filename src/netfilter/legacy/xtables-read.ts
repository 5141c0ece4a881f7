// SPDX-License-Identifier: Apache-2.0
// Reads what is ours in x_tables of a namespace; what the kernel cannot show in one piece is a fault of that namespace.
import { NativeError } from "../../linux/native.ts";
import { viewOf } from "../../linux/netlink/message.ts";
import { existingXtablesInNetns } from "../../linux/xtables-netns.ts";
import { allDone } from "../../loop/all-done.ts";
import type { Limit } from "../../loop/limit.ts";
import { NetfilterFault, type NetfilterFaultCode } from "../netfilter-fault.ts";
import type { NetnsCall } from "../rule-engine.ts";
import type { OwnTable } from "../told-rules.ts";
import { type SeenXtables, tableKey } from "./legacy-verify.ts";
import { INFO } from "./xtables-entry.ts";
import { findOwn } from "./xtables-table.ts";

/** Bytes of entries. The kernel hands out whole tables, and above 256 KiB the addon reads one after the other. Source: native/xtables.c. */
const LARGE_BYTES = 128 * 1024;

/** What whoever writes in the namespace can bring about. */
const FAULTS: ReadonlyMap<string, readonly [code: NetfilterFaultCode, why: string]> = new Map([
  [
    "EAGAIN",
    ["UNSTEADY", "it changed each time; look for a program in the pod that writes rules without end"],
  ],
  [
    "EMSGSIZE",
    [
      "TOO_MANY_RULES",
      "it has over 128 MiB of rules; look for a program in the pod that writes rules without end",
    ],
  ],
  ["EPROTO", ["UNREADABLE_TABLE", "it is not laid out as this agent knows tables"]],
]);

/** How a namespace is looked at. */
export interface XtablesLook {
  /** Called right before the kernel is asked: the descriptor may be another namespace's by now. */
  readonly assertUsable: (call: NetnsCall) => void;
  /** Who reads a large table has a place: others wait here, not in the workers that all small looks need too. */
  readonly large: Limit;
}

/**
 * Looks at each table that is there; creates none.
 * @throws {NetfilterFault} UNSTEADY, TOO_MANY_RULES, UNREADABLE_TABLE @throws NativeError and what `assertUsable` throws
 */
export async function readOwnXtables(
  call: NetnsCall,
  own: readonly OwnTable[],
  { assertUsable, large }: XtablesLook,
): Promise<SeenXtables> {
  assertUsable(call);
  const small = await read(call, own, LARGE_BYTES);
  const tables = await allDone(
    own.map(async (table, index) => {
      const share = small[index];
      if (share === undefined || !isTooLarge(share)) return share;
      const readWhole = async () => {
        assertUsable(call);
        const [whole] = await read(call, [table]);
        return whole;
      };
      return await large.run(readWhole, call.signal === undefined ? {} : { signal: call.signal });
    }),
  );
  return new Map(
    own.flatMap((table, index) => {
      const share = tables[index];
      return share === undefined ? [] : [[tableKey(table), findOwn(share, table)] as const];
    }),
  );
}

/** It came without its entries. */
function isTooLarge(share: Uint8Array): boolean {
  return viewOf(share).getUint32(INFO.entriesSize, true) > LARGE_BYTES;
}

async function read(
  { netns, isUrgent = false }: NetnsCall,
  own: readonly OwnTable[],
  maxBytes?: number,
): Promise<(Uint8Array | undefined)[]> {
  try {
    return await existingXtablesInNetns(netns.fd, own, { isUrgent, maxBytes });
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    const [code, why] = FAULTS.get(error.code) ?? [];
    if (code === undefined) throw error;
    throw new NetfilterFault(code, `${error.message}: ${why}`, { cause: error });
  }
}
