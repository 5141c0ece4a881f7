// SPDX-License-Identifier: Apache-2.0
// A program that runs itself in a node, and there waits for a signal: what node.test.ts starts and interrupts.
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";

const args = process.argv.slice(2);
if (insideNode() === undefined) {
  process.exitCode = await runInNode(import.meta.filename, args);
} else {
  followOuter();
  const waiting = setInterval(() => {}, 60_000);
  const codes = { SIGINT: 42, SIGTERM: 43 } as const;
  for (const [signal, code] of Object.entries(codes)) {
    process.on(signal, () => {
      process.stdout.write(`got ${signal}\n`);
      if (args.includes("stubborn")) return;
      process.exitCode = code;
      clearInterval(waiting);
    });
  }
  process.stdout.write(`inside ${args}\n`);
}
