// SPDX-License-Identifier: Apache-2.0
// A program in a pod that sends bytes to a port and keeps what comes back.
import { connect } from "node:net";

/** Everything that is answered until the other end closes, or for 3 s; the error's code where nobody listens. */
export function ask(question: { host: string; port: number; bytes: string }): Promise<string> {
  const { host, port, bytes } = question;
  const { promise, resolve } = Promise.withResolvers<string>();
  let text = "";
  const socket = connect({ host, port, timeout: 3000 }, () => socket.write(bytes));
  socket.setEncoding("utf8").on("data", (part: string) => {
    text += part;
  });
  socket.on("timeout", () => socket.destroy());
  socket.on("error", (error: NodeJS.ErrnoException) => {
    text ||= error.code ?? error.message;
  });
  socket.on("close", () => resolve(text));
  return promise;
}
