// SPDX-License-Identifier: Apache-2.0
// The state API's requests and answers: JSON over HTTP, for who may open the agent's Unix socket.
import type { IncomingMessage, ServerResponse } from "node:http";
import { buffer } from "node:stream/consumers";
import { isRecord } from "../kube/json-fields.ts";
import { type LogLevel, logLevels } from "../log/log-levels.ts";
import type { Logger, LoggerFactory, WantedLevels } from "../log/logger.ts";
import type { StateSource } from "./agent-state.ts";
import { type LogLevelsReport, STATE_PATHS } from "./state-report.ts";

export interface StateApiOptions {
  readonly source: StateSource;
  readonly loggers: Pick<LoggerFactory, "levels" | "setLevels">;
  readonly log: Logger;
}

/** An answer that is no success. */
class StateApiError extends Error {
  override readonly name = "StateApiError";
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

const maxBodyBytes = 16 * 1024;
/** Names of namespaces and pods. Source: Kubernetes documentation, "Object Names and IDs", DNS subdomain names. */
const namePattern = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;

/** Answers requests below /api/v1/. */
export class StateApi {
  readonly #options: StateApiOptions;

  constructor(options: StateApiOptions) {
    this.#options = options;
  }

  /** Answers; never throws and never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      send(response, { status: 200, body: await this.#answer(request) });
    } catch (error) {
      request.resume();
      if (!(error instanceof StateApiError))
        this.#options.log.error({ err: error }, "cannot answer a request of the state API");
      const { status, message, headers } =
        error instanceof StateApiError
          ? error
          : new StateApiError(500, `the agent failed: ${(error as Error).message}; its log has the details`);
      send(response, { status, body: { error: message }, headers });
    }
  }

  async #answer(request: IncomingMessage): Promise<unknown> {
    const { source } = this.#options;
    const path = pathOf(request);
    if (path === STATE_PATHS.logLevels) return await this.#logLevels(request);
    const [, , , kind, namespace, name, ...rest] = path.split("/");
    const isOnePod = path.startsWith(`${STATE_PATHS.pods}/`) && kind === "pods" && rest.length === 0;
    if (path !== STATE_PATHS.pods && path !== STATE_PATHS.node && !(isOnePod && name !== undefined)) {
      const known = `${STATE_PATHS.pods}, ${STATE_PATHS.pods}/NAMESPACE/NAME, ${STATE_PATHS.node}, ${STATE_PATHS.logLevels}`;
      throw new StateApiError(404, `no such path; this API has ${known}`);
    }
    allow(request, ["GET", "HEAD"]);
    if (path === STATE_PATHS.pods) return source.pods();
    if (path === STATE_PATHS.node) return await source.node();
    const pod = { namespace: nameOf(namespace, "namespace"), name: nameOf(name, "pod") };
    const report = await source.pod(pod.namespace, pod.name);
    if (report !== undefined) return report;
    throw new StateApiError(404, `no pod "${pod.namespace}/${pod.name}" on this node`);
  }

  async #logLevels(request: IncomingMessage): Promise<LogLevelsReport> {
    const { loggers, log } = this.#options;
    allow(request, ["GET", "HEAD", "PUT"]);
    if (request.method === "PUT") {
      const wanted = parseLevels(await readBody(request));
      try {
        loggers.setLevels(wanted);
      } catch (error) {
        throw new StateApiError(400, (error as Error).message);
      }
      log.warn({ levels: Object.fromEntries(wanted) }, "log levels changed");
    }
    const { level, scopes } = loggers.levels();
    return { default: level, scopes };
  }
}

/** `{"default": LEVEL, "scopes": {SCOPE: LEVEL or null}}`, both optional; what is not named stays. */
function parseLevels(text: string): WantedLevels {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    throw new StateApiError(400, `the body is not JSON: ${(error as Error).message}`);
  }
  const form = 'send {"default": "info", "scopes": {"cni": "debug", "kube": null}}';
  if (!isRecord(body)) throw new StateApiError(400, `the body is no object; ${form}`);
  const unknown = Object.keys(body).find((key) => key !== "default" && key !== "scopes");
  if (unknown !== undefined)
    throw new StateApiError(400, `unknown field ${JSON.stringify(unknown.slice(0, 60))}; ${form}`);
  const { default: level, scopes = {} } = body;
  if (!isRecord(scopes)) throw new StateApiError(400, `"scopes" is no object; ${form}`);
  return [
    ...(level === undefined ? [] : [["default", levelOf("default", level)] as const]),
    ...Object.entries(scopes).map(
      ([scope, value]) => [scope, value === null ? undefined : levelOf(scope, value)] as const,
    ),
  ];
}

function levelOf(scope: string, value: unknown): LogLevel {
  const level = logLevels.find((known) => known === value);
  if (level !== undefined) return level;
  const given = JSON.stringify(value)?.slice(0, 60);
  throw new StateApiError(
    400,
    `level ${given} of "${scope.slice(0, 60)}" is none of ${logLevels.join(", ")}`,
  );
}

function pathOf({ url = "" }: IncomingMessage): string {
  const [path = ""] = url.split("?", 1);
  return path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
}

function nameOf(text: string | undefined, what: string): string {
  if (text !== undefined && namePattern.test(text)) return text;
  throw new StateApiError(400, `${JSON.stringify((text ?? "").slice(0, 60))} is not the name of a ${what}`);
}

function allow({ method }: IncomingMessage, methods: readonly string[]): void {
  if (methods.includes(method ?? "")) return;
  const allowed = methods.join(", ");
  throw new StateApiError(405, `method ${method} is not allowed here: ${allowed}`, { Allow: allowed });
}

async function readBody(request: IncomingMessage): Promise<string> {
  const body = await buffer(request);
  if (body.length <= maxBodyBytes) return body.toString();
  throw new StateApiError(413, `the body is larger than ${maxBodyBytes} bytes`, { Connection: "close" });
}

/** Of an answer to HEAD Node sends the head alone. */
function send(
  response: ServerResponse,
  answer: {
    readonly status: number;
    readonly body: unknown;
    readonly headers?: Readonly<Record<string, string>>;
  },
): void {
  if (response.headersSent || response.destroyed) return;
  const body = Buffer.from(`${JSON.stringify(answer.body)}\n`, "utf8");
  response.writeHead(answer.status, {
    "Content-Type": "application/json; charset=utf-8",
    "Content-Length": body.length,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    ...answer.headers,
  });
  response.end(body);
}
