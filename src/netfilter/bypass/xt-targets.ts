// SPDX-License-Identifier: Apache-2.0
// What the targets of x_tables can do to a packet, as a table; the same for iptables-legacy and iptables-nft. Pure.
import { viewOf } from "../../linux/netlink/message.ts";
import { type MarkChange, UNKNOWN_CHANGE } from "./mark-change.ts";

/** What a rule can do that matters to rules behind it. */
export type Effect =
  | { readonly does: "accept" | "return" | "translate" | "rewrite" | "untrack" | "divert" | "queue" }
  /** `what` is not known here: a target or expression of this name. */
  | { readonly does: "unknown"; readonly what: string }
  | { readonly does: "mark" | "mark-connection"; readonly change: MarkChange };

/** Redirects, or writes another destination. A source (SNAT, MASQUERADE) is not written in the hooks that come before ours. */
const TRANSLATING = new Set(["REDIRECT", "DNAT", "NETMAP", "SAME", "BALANCE"]);
/** Writes addresses into the packet, wherever it stands. */
const REWRITING = new Set(["DNPT", "SNPT", "RAWDNAT"]);
/** Hands the packet, or a copy of it, to somebody else. */
const DIVERTING = new Set(["TPROXY", "TEE", "ROUTE"]);
const QUEUEING = new Set(["QUEUE", "NFQUEUE"]);
/** A mark that depends on the packet. */
const MARKING = new Set(["HMARK", "IPMARK"]);
/**
 * Count, log, end a packet, or change what our rules do not look at.
 * Source: iptables-extensions(8), "TARGET EXTENSIONS".
 */
const HARMLESS = new Set(
  (
    "AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNSECMARK DROP DSCP ECN HL IDLETIMER LED LOG MASQUERADE NFLOG RATEEST REJECT " +
    "SECMARK SET SNAT SYNPROXY TARPIT TCPMSS TCPOPTSTRIP TOS TRACE TTL ULOG"
  ).split(" "),
);
/** Source: linux/netfilter/xt_CT.h, XT_CT_NOTRACK. */
const CT_NOTRACK = 1;
/** Source: linux/netfilter/xt_connmark.h. */
const CONNMARK = { set: 0, save: 1, restore: 2 } as const;

/** A target of x_tables as a rule has it. */
export interface XtTarget {
  readonly name: string;
  readonly revision: number;
  readonly info: Uint8Array;
}

/** What it can do; undefined: nothing that matters. */
export function effectOfTarget({ name, revision, info }: XtTarget): Effect | undefined {
  if (HARMLESS.has(name)) return undefined;
  if (TRANSLATING.has(name)) return { does: "translate" };
  if (REWRITING.has(name)) return { does: "rewrite" };
  if (DIVERTING.has(name)) return { does: "divert" };
  if (QUEUEING.has(name)) return { does: "queue" };
  if (MARKING.has(name)) return { does: "mark", change: UNKNOWN_CHANGE };
  if (name === "NOTRACK") return { does: "untrack" };
  if (name === "CT") return isNotrack(info) ? { does: "untrack" } : undefined;
  if (name === "MARK") return { does: "mark", change: changeOfMark(revision, info) };
  if (name === "CONNMARK") return effectOfConnmark(revision, info);
  return { does: "unknown", what: `target ${name}` };
}

function isNotrack(info: Uint8Array): boolean {
  return info.length < 2 || (viewOf(info).getUint16(0, true) & CT_NOTRACK) !== 0;
}

/** Source: linux/netfilter/xt_mark.h, struct xt_mark_tginfo2; net/netfilter/xt_mark.c, mark_tg. */
function changeOfMark(revision: number, info: Uint8Array): MarkChange {
  if (revision !== 2 || info.length < 8) return UNKNOWN_CHANGE;
  const view = viewOf(info);
  return { from: "mark", keep: ~view.getUint32(4, true), xor: view.getUint32(0, true) };
}

/**
 * Source: linux/netfilter/xt_connmark.h, struct xt_connmark_tginfo1 and 2 (which can shift); net/netfilter/xt_connmark.c,
 * connmark_tg_shift.
 */
function effectOfConnmark(revision: number, info: Uint8Array): Effect {
  const modeAt = revision === 2 ? 14 : 12;
  if ((revision !== 1 && revision !== 2) || info.length <= modeAt)
    return { does: "mark-connection", change: UNKNOWN_CHANGE };
  const view = viewOf(info);
  const [ctmark, ctmask, nfmask] = [0, 4, 8].map((at) => view.getUint32(at, true)) as [
    number,
    number,
    number,
  ];
  const mode = info[modeAt];
  const isShifted = revision === 2 && info[13] !== 0;
  const does = mode === CONNMARK.restore ? "mark" : "mark-connection";
  if (isShifted) return { does, change: UNKNOWN_CHANGE };
  if (mode === CONNMARK.set) return { does, change: { from: "mark", keep: ~ctmask, xor: ctmark } };
  const [read, written] = mode === CONNMARK.restore ? [ctmask, nfmask] : [nfmask, ctmask];
  return { does, change: { from: "other", read, written, xor: 0 } };
}
