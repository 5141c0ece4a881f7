// SPDX-License-Identifier: Apache-2.0
// Reads what is ours in x_tables of a namespace; what the kernel cannot show in one piece is a fault of that namespace.
import { existingXtablesInNetns, NativeError } from "../../linux/native.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import type { NetnsCall } from "../rule-engine.ts";
import type { OwnTable } from "../told-rules.ts";
import { type SeenXtables, tableKey } from "./legacy-verify.ts";
import { findOwn } from "./xtables-table.ts";

/**
 * Looks at each table that is there; creates none.
 * @param assertUsable called right before the kernel is asked
 * @throws {NetfilterFault} UNSTEADY, TOO_MANY_RULES, UNREADABLE_TABLE @throws NativeError and what `assertUsable` throws
 */
export async function readOwnXtables(
  call: NetnsCall,
  own: readonly OwnTable[],
  assertUsable: (call: NetnsCall) => void,
): Promise<SeenXtables> {
  assertUsable(call);
  const tables = await read(call, own);
  return new Map(
    own.flatMap((table, index) => {
      const share = tables[index];
      return share === undefined ? [] : [[tableKey(table), findOwn(share, table)] as const];
    }),
  );
}

async function read({ netns }: NetnsCall, own: readonly OwnTable[]): Promise<(Uint8Array | undefined)[]> {
  try {
    return await existingXtablesInNetns(netns.fd, own);
  } catch (error) {
    throw faultOf(error) ?? error;
  }
}

/** What whoever writes in the namespace can bring about. */
function faultOf(cause: unknown): NetfilterFault | undefined {
  if (!(cause instanceof NativeError)) return undefined;
  switch (cause.code) {
    case "EAGAIN":
      return new NetfilterFault(
        "UNSTEADY",
        `${cause.message}: it changed each time; look for a program in the pod that writes rules without end`,
        { cause },
      );
    case "EMSGSIZE":
      return new NetfilterFault(
        "TOO_MANY_RULES",
        `${cause.message}: it has over 128 MiB of rules; look for a program in the pod that writes rules without end`,
        { cause },
      );
    case "EPROTO":
      return new NetfilterFault(
        "UNREADABLE_TABLE",
        `${cause.message}: it is not laid out as this agent knows tables`,
        { cause },
      );
    default:
      return undefined;
  }
}
