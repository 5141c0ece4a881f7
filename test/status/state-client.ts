// SPDX-License-Identifier: Apache-2.0
// Asks a state API over a Unix socket or a port, as a tool would.
import { request } from "node:http";

/** Where to ask. */
export type Target = { readonly socketPath: string } | { readonly port: number };

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  /** Parsed text. */
  readonly json: () => Record<string, unknown>;
}

/** One request on a connection of its own. */
export function ask(
  target: Target,
  path: string,
  options: { method?: string; body?: string } = {},
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const { method = "GET", body } = options;
  const headers = body === undefined ? {} : { "Content-Length": Buffer.byteLength(body) };
  const asked = request({ ...target, path, method, agent: false, timeout: 10_000, headers }, (response) => {
    const chunks: Buffer[] = [];
    response.on("data", (chunk: Buffer) => chunks.push(chunk));
    response.on("error", reject);
    response.on("end", () => {
      const text = Buffer.concat(chunks).toString("utf8");
      const json = () => JSON.parse(text) as Record<string, unknown>;
      resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json });
    });
  });
  asked.on("error", reject);
  asked.on("timeout", () => asked.destroy(new Error("no answer within 10 s")));
  asked.end(body);
  return promise;
}
