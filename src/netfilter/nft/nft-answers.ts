// SPDX-License-Identifier: Apache-2.0
// What answers of nf_tables say beside what they list: whether it is there, and whether it stood still.
import { NativeError } from "../../linux/native.ts";
import { check, errorCode, NetlinkError } from "../../linux/netlink/exchange.ts";
import type { NetlinkAnswer } from "../../linux/netlink/message.ts";

const EINTR = 4;
/** Answers that say "not there": no such table or chain; a kernel without nf_tables, or without them for the family. */
export const ABSENT = ["ENOENT", "EINVAL", "EOPNOTSUPP", "EAFNOSUPPORT"];

/** Whether an error says that this kernel has no nf_tables, or none of a family: nothing of ours can be in them. */
export function isWithoutNft(error: unknown): boolean {
  if (error instanceof NativeError) return error.code === "EPROTONOSUPPORT";
  return error instanceof NetlinkError && ABSENT.includes(error.code);
}

/** What is asked of lists; undefined where one changed while it was made, or an answer was dropped for want of room. @throws as `asking` */
export async function steady(asking: Promise<NetlinkAnswer[]>): Promise<NetlinkAnswer[] | undefined> {
  try {
    const answers = await asking;
    return answers.some(({ interrupted, error }) => interrupted || error === -EINTR) ? undefined : answers;
  } catch (error) {
    if (error instanceof NativeError && error.code === "ENOBUFS") return undefined;
    throw error;
  }
}

/** @throws NetlinkError unless it is there, was left in the middle, or is not there */
export function checkFound(doing: string, answer: NetlinkAnswer): void {
  if (answer.error !== undefined && errorCode(answer.error) !== "ENOENT") check(doing, answer);
}
