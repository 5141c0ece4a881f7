// SPDX-License-Identifier: Apache-2.0
// Stands in for an agent that answers and does nothing: answers that a real one gave are served again, edited as a test likes.
import { rmSync } from "node:fs";
import { createServer, type Server } from "node:http";

/** Answers by path. */
export type Answers = Map<string, unknown>;

/** Serves answers on a Unix socket. */
export class RecordedAgent {
  readonly answers: Answers;
  readonly #server: Server;

  private constructor(server: Server, answers: Answers) {
    this.#server = server;
    this.answers = answers;
  }

  /** Takes the socket's place. */
  static async start(path: string, answers: Answers): Promise<RecordedAgent> {
    rmSync(path, { force: true });
    const server = createServer((request, response) => {
      const answer = answers.get(request.url ?? "");
      response.writeHead(answer === undefined ? 404 : 200, { "Content-Type": "application/json" });
      response.end(JSON.stringify(answer ?? { error: "no such path" }));
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return new RecordedAgent(server, answers);
  }

  async stop(): Promise<void> {
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
