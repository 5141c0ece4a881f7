// SPDX-License-Identifier: Apache-2.0
// Which of some chains a namespace has, asked for by name: what others have there is not listed, and no process is started.
import { check, errorCode } from "../linux/netlink/exchange.ts";
import type { NetlinkRequest } from "../linux/netlink/message.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import { existingXtablesInNetns, type XtablesName } from "../linux/xtables-netns.ts";
import { INFO } from "./legacy/xtables-entry.ts";
import { ABSENT, isWithoutNft } from "./nft/nft-answers.ts";
import { ask, type ChainPlace, getChain } from "./nft/nft-wire.ts";

/** Those that are there in nf_tables. @throws NetlinkError, NativeError when the kernel cannot be asked */
export function findChains<P extends ChainPlace>(at: NetnsAt, places: readonly P[]): Promise<P[]> {
  return askAbout(at, places, getChain);
}

/** Those that the kernel has, each asked for by name. @throws NetlinkError, NativeError when it cannot be asked */
export async function askAbout<P>(
  at: NetnsAt,
  places: readonly P[],
  questionOf: (place: P) => NetlinkRequest,
): Promise<P[]> {
  try {
    const answers = await ask(at, places.map(questionOf));
    return places.filter((_, index) => {
      const answer = answers[index];
      if (answer === undefined) return false;
      const { error = 0 } = answer;
      if (error !== 0 && !ABSENT.includes(errorCode(error))) check("look for tables and chains", answer);
      return error === 0 && answer.messages.length > 0;
    });
  } catch (error) {
    if (isWithoutNft(error)) return [];
    throw error;
  }
}

/** A chain of iptables-legacy. */
export interface LegacyChain extends XtablesName {
  readonly chain: string;
}

/** Those that are there in x_tables; looking creates no table. @throws NativeError when one that is there cannot be read */
export async function findLegacyChains<P extends LegacyChain>(
  netnsFd: number,
  places: readonly P[],
): Promise<P[]> {
  const asked = places.map((place) => ({ ...place, chains: [place] }));
  const shares = await existingXtablesInNetns(netnsFd, asked);
  // of a chain that is there stand at least its name and its end in the share
  return places.filter((_, index) => (shares[index]?.length ?? 0) > INFO.size);
}
