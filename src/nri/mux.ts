// SPDX-License-Identifier: Apache-2.0
// Several connections over one socket, as NRI has them: a head with the connection's number and a length. Pure, no I/O.
// Source: containerd/nri pkg/net/multiplex/mux.go, ttrpc.go.
import { bounds } from "../bounds/bounds.ts";
import { FrameReader } from "./frames.ts";

/** On it the runtime asks, and the plugin answers. */
export const pluginConnection = 1;
/** On it the plugin asks, and the runtime answers. */
export const runtimeConnection = 2;

const headBytes = 8;

/** What stands before each piece of a connection's bytes. */
export interface MuxHead {
  readonly connection: number;
}

/** Reads what comes over the socket; where a piece ends says nothing about what is in it. */
export function muxReader(): FrameReader<MuxHead> {
  return new FrameReader({
    what: "a piece of the multiplexed connection",
    headBytes,
    maxBodyBytes: bounds.nriPiece.bytes,
    readHead: (head) => ({ connection: head.readUInt32BE(0), bodyBytes: head.readUInt32BE(4) }),
  });
}

/**
 * One piece of a connection's bytes. It must hold a whole frame: the runtime reads into a buffer of 4096 bytes, and drops us for a piece that
 * does not fit. Source: containerd/nri pkg/net/multiplex/mux.go, conn.Read (ENOMEM).
 */
export function muxPiece(connection: number, body: Uint8Array): Buffer {
  const piece = Buffer.alloc(headBytes + body.length);
  piece.writeUInt32BE(connection, 0);
  piece.writeUInt32BE(body.length, 4);
  piece.set(body, headBytes);
  return piece;
}
