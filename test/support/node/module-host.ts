// SPDX-License-Identifier: Apache-2.0
// The program at the other end of a RemoteModule: loads one module and serves its exported functions.
import { pathToFileURL } from "node:url";
import { followOuter, requireNode } from "./inside.ts";
import type { CallMessage, ReplyMessage } from "./remote-module.ts";

requireNode();
const path = process.argv[2];
if (path === undefined) throw new TypeError("Cannot serve a module: no path given");
const module = (await import(pathToFileURL(path).href)) as Record<string, (...args: unknown[]) => unknown>;

followOuter((message) => {
  void answer(message as CallMessage);
});

async function answer(call: CallMessage): Promise<void> {
  const reply: ReplyMessage = { id: call.id };
  try {
    const served = module[call.name];
    if (typeof served !== "function")
      throw new TypeError(`Cannot call "${call.name}": "${path}" exports no such function`);
    reply.value = await served(...call.args);
  } catch (error) {
    reply.error = error instanceof Error ? error : new Error(String(error));
  }
  process.send?.(reply);
}
