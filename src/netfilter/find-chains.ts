// SPDX-License-Identifier: Apache-2.0
// Which of some chains a namespace has, asked for by name: what others have there is not listed, and no process is started.
import { NativeError, xtablesInNetns } from "../linux/native.ts";
import { check, errorCode } from "../linux/netlink/exchange.ts";
import { ask, type ChainPlace, getChain } from "./nft-wire.ts";
import { readLegacyTableNames } from "./variant.ts";

/** Answers that say "not there": no such table or chain; a kernel without nf_tables, or without them for the family. */
const ABSENT = ["ENOENT", "EINVAL", "EOPNOTSUPP", "EAFNOSUPPORT"];

/** Those that are there in nf_tables. @throws NetlinkError, NativeError when the kernel cannot be asked */
export async function findChains<P extends ChainPlace>(netnsFd: number, places: readonly P[]): Promise<P[]> {
  try {
    const answers = await ask(netnsFd, places.map(getChain));
    return places.filter((_, index) => {
      const answer = answers[index];
      if (answer === undefined) return false;
      const { error = 0 } = answer;
      if (error !== 0 && !ABSENT.includes(errorCode(error))) check("look for chains", answer);
      return error === 0 && answer.messages.length > 0;
    });
  } catch (error) {
    if (error instanceof NativeError && error.code === "EPROTONOSUPPORT") return [];
    throw error;
  }
}

/**
 * Those that are there in x_tables. Asking for a table would create it: only those that exist are read.
 * @param procNetDir /proc/PID/net of a process in the namespace, which names them
 * @throws NativeError when one cannot be read
 */
export async function findLegacyChains<P extends ChainPlace>(
  netnsFd: number,
  places: readonly P[],
  procNetDir: string,
): Promise<P[]> {
  const found: P[] = [];
  for (const family of [4, 6] as const) {
    const tables = await readLegacyTableNames(procNetDir, family).catch((): string[] => []);
    for (const table of tables) {
      const here = places.filter((place) => place.family === family && place.table === table);
      if (here.length === 0) continue;
      const bytes = Buffer.from(await readTable(netnsFd, family, table));
      found.push(...here.filter(({ chain }) => bytes.includes(`${chain}\0`)));
    }
  }
  return found;
}

async function readTable(netnsFd: number, family: 4 | 6, table: string): Promise<Uint8Array> {
  try {
    return await xtablesInNetns(netnsFd, family, table);
  } catch (error) {
    if (error instanceof NativeError && ["ENOENT", "ENOPROTOOPT"].includes(error.code))
      return new Uint8Array();
    throw error;
  }
}
