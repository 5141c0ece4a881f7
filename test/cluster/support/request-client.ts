// SPDX-License-Identifier: Apache-2.0
// A client in a pod's network namespace that sends one HTTP request after the other, each on a new connection.
// usage: node request-client.ts URL PAUSE_MS
// Prints "ok" after the first answer, a JSON line for each failure, and with SIGTERM the sums.
import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

const [url = "", pauseMs = "20"] = process.argv.slice(2);
const sums = { sent: 0, failed: 0, longestMs: 0 };
let stopped = false;

function send(): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { agent: false, timeout: 5_000 }, (response) => {
      response.resume();
      response.once("end", () => resolve(response.statusCode ?? 0));
      response.once("error", reject);
    });
    outgoing.once("timeout", () => outgoing.destroy(new Error("no answer within 5 s")));
    outgoing.once("error", reject);
    outgoing.end();
  });
}

process.once("SIGTERM", () => {
  stopped = true;
});
while (!stopped) {
  const began = performance.now();
  sums.sent++;
  try {
    const status = await send();
    if (status !== 200) throw new Error(`status ${status}`);
    if (sums.sent - sums.failed === 1) process.stdout.write("ok\n");
  } catch (error) {
    sums.failed++;
    const { message, code } = error as NodeJS.ErrnoException;
    process.stdout.write(`${JSON.stringify({ failure: message, code, at: new Date().toISOString() })}\n`);
  }
  sums.longestMs = Math.max(sums.longestMs, Math.round(performance.now() - began));
  await delay(Number(pauseMs));
}
process.stdout.write(`${JSON.stringify({ sums })}\n`);
