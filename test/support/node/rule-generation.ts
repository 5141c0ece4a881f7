// SPDX-License-Identifier: Apache-2.0
// The kernel's own count of rule changes in a namespace: cheap enough to ask for a hundred pods before and after.

import { netlinkInNetns } from "../../../src/linux/native.ts";
import { Netns } from "../../../src/linux/netns.ts";

const netlinkNetfilter = 12;
const nftNewGen = (10 << 8) | 15;
const nftGetGen = (10 << 8) | 16;
const headerBytes = 16;
const nfgenBytes = 4;
const genIdAttribute = 1;

/**
 * The number of nftables transactions that a namespace has seen, whoever made them; two equal answers mean that no rule
 * was written in between. iptables-nft and nft are counted, iptables-legacy is not.
 *
 * Source: linux/netfilter/nf_tables.h, NFT_MSG_GETGEN and NFTA_GEN_ID; net/netfilter/nf_tables_api.c, nf_tables_commit.
 */
export async function ruleGeneration(netnsPath: string): Promise<number> {
  using netns = Netns.open(netnsPath);
  const request = Buffer.alloc(headerBytes + nfgenBytes);
  request.writeUInt32LE(request.length, 0);
  request.writeUInt16LE(nftGetGen, 4);
  // NLM_F_REQUEST and NLM_F_ACK
  request.writeUInt16LE(0x1 | 0x4, 6);
  request.writeUInt32LE(1, 8);
  const received = await netlinkInNetns(netns.fd, netlinkNetfilter, request);
  const generation = readGeneration(Buffer.from(received.buffer, received.byteOffset, received.length));
  if (generation !== undefined) return generation;
  throw new Error(`Cannot read the rule generation of "${netnsPath}": the kernel did not say`);
}

function readGeneration(received: Buffer): number | undefined {
  if (received.readUInt16LE(4) !== nftNewGen) return undefined;
  const end = received.readUInt32LE(0);
  for (let at = headerBytes + nfgenBytes; at + 4 <= end; ) {
    const length = received.readUInt16LE(at);
    if (received.readUInt16LE(at + 2) === genIdAttribute) return received.readUInt32BE(at + 4);
    at += Math.max(4, (length + 3) & ~3);
  }
  return undefined;
}
