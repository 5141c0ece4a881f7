// SPDX-License-Identifier: Apache-2.0
// Reads what is ours in x_tables of a namespace; what the kernel cannot show in one piece is a fault of that namespace.
import { existingXtablesInNetns, NativeError } from "../linux/native.ts";
import { allDone } from "../loop/all-done.ts";
import { type SeenXtables, tableKey } from "./legacy-verify.ts";
import { NetfilterFault } from "./netfilter-fault.ts";
import type { NetnsCall } from "./rule-engine.ts";
import type { OwnTable } from "./told-rules.ts";
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
  const found = await allDone(
    own.map(async (table) => {
      const bytes = await read(call, table);
      return bytes === undefined ? [] : [[tableKey(table), findOwn(bytes, table)] as const];
    }),
  );
  return new Map(found.flat());
}

async function read({ netns }: NetnsCall, { family, table }: OwnTable): Promise<Uint8Array | undefined> {
  try {
    return await existingXtablesInNetns(netns.fd, family, table);
  } catch (error) {
    const fault = faultOf(error, `the legacy table ${table} of IPv${family}`);
    throw fault ?? error;
  }
}

/** What whoever writes in the namespace can bring about. */
function faultOf(cause: unknown, what: string): NetfilterFault | undefined {
  if (!(cause instanceof NativeError)) return undefined;
  switch (cause.code) {
    case "EAGAIN": {
      const why =
        "it changed each time it was read; look for a program in the pod that writes rules without end";
      return new NetfilterFault("UNSTEADY", `Cannot read ${what}: ${why}`, { cause });
    }
    case "EMSGSIZE":
      return new NetfilterFault("TOO_MANY_RULES", `Cannot read ${what}: it has over 64 MiB of rules`, {
        cause,
      });
    default:
      return undefined;
  }
}
