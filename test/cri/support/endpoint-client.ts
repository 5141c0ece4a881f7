// SPDX-License-Identifier: Apache-2.0
// A client in a pod's network namespace that asks whoever serves at the moment, one request after the other, each on a new connection.
// usage: node endpoint-client.ts FILE PAUSE_MS
// FILE has the URL of who serves, as an EndpointSlice would, or nothing. Prints a JSON line for each request: when it began and ended, by
// the time of day, and the page or what went wrong.
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

/** What became of one request. */
export interface Asked {
  readonly beganMs: number;
  readonly endedMs: number;
  /** What the server said; undefined: it failed. */
  readonly page?: string;
  /** `nobody`: nobody serves; else the error. */
  readonly failure?: string;
}

const [file = "", pauseMs = "5"] = process.argv.slice(2);

function fetchPage(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { agent: false, timeout: 5_000 }, (response) => {
      let text = "";
      response.on("data", (data) => {
        text += String(data);
      });
      response.once("end", () =>
        response.statusCode === 200
          ? resolve(text.trim())
          : reject(new Error(`status ${response.statusCode}`)),
      );
      response.once("error", reject);
    });
    outgoing.once("timeout", () => outgoing.destroy(new Error("no answer within 5 s")));
    outgoing.once("error", reject);
    outgoing.end();
  });
}

async function ask(): Promise<Pick<Asked, "page" | "failure">> {
  const url = readFileSync(file, "utf8").trim();
  if (url === "") return { failure: "nobody" };
  return fetchPage(url).then(
    (page) => ({ page }),
    (error: Error) => ({ failure: error.message }),
  );
}

let isStopped = false;
process.once("SIGTERM", () => {
  isStopped = true;
});
while (!isStopped) {
  const beganMs = Date.now();
  const result = await ask();
  process.stdout.write(`${JSON.stringify({ beganMs, endedMs: Date.now(), ...result })}\n`);
  await delay(Number(pauseMs));
}
