// SPDX-License-Identifier: Apache-2.0
// The end of a connection as ztunnel's peers nearly always see it: with FIN.
import type { Socket } from "node:net";

/** For a peer that sends all the time to see the FIN before the kernel answers its data with RST. */
const afterFinMs = 20;
/** For a peer that does not read. */
const patienceMs = 1000;

/**
 * Ends a connection with FIN and lets go of it a moment later; what arrives meanwhile is read and forgotten.
 *
 * A socket that is closed with unread data is reset by the kernel. ztunnel reads within microseconds, so its peers see that
 * hardly ever; a busy stand-in would show it often, and to clients that have done nothing wrong.
 */
export function endInOrder(socket: Socket): void {
  if (socket.destroyed) return;
  const destroy = (): void => {
    socket.destroy();
  };
  socket.unpipe();
  socket.resume();
  socket.end(() => setTimeout(destroy, afterFinMs).unref());
  setTimeout(destroy, patienceMs).unref();
}
