// SPDX-License-Identifier: Apache-2.0
// The administrator's hand on a real API server. It shares nothing with the client under test.
import { readFile } from "node:fs/promises";
import { request } from "node:https";
import { join } from "node:path";
import { waitFor } from "../../support/node/wait-for.ts";

/** An object of the API, as far as tests look into it. */
export interface KubeJson {
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly generation?: number;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
  };
  // biome-ignore lint/suspicious/noExplicitAny: what the API answers is looked into field by field.
  readonly [field: string]: any;
}

/** An answer that is no success. */
export class AdminError extends Error {
  override readonly name = "AdminError";
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/** Where the API server is: a port of this network namespace, or a unix socket that leads to it. */
export type AdminWay = { readonly port: number } | { readonly socketPath: string };

/** Requests with the rights of an administrator, or with a token. A connection for each: servers come and go in tests. */
export class KubeAdmin {
  readonly #way: AdminWay;
  readonly #tls: { readonly ca: Buffer; readonly cert: Buffer; readonly key: Buffer };

  private constructor(way: AdminWay, tls: { ca: Buffer; cert: Buffer; key: Buffer }) {
    this.#way = way;
    this.#tls = tls;
  }

  /** @param certificates folder filled by `makeCertificates` */
  static async load(certificates: string, way: AdminWay): Promise<KubeAdmin> {
    const read = (name: string) => readFile(join(certificates, name));
    const [ca, cert, key] = await Promise.all([read("ca.crt"), read("admin.crt"), read("admin.key")]);
    return new KubeAdmin(way, { ca, cert, key });
  }

  get(path: string): Promise<KubeJson> {
    return this.#json("GET", path);
  }

  /** The items of a collection. */
  async list(path: string): Promise<KubeJson[]> {
    return (await this.#json("GET", path)).items as KubeJson[];
  }

  create(path: string, body: object): Promise<KubeJson> {
    return this.#json("POST", path, { body });
  }

  /** JSON merge patch. */
  patch(path: string, body: object): Promise<KubeJson> {
    return this.#json("PATCH", path, { body, contentType: "application/merge-patch+json" });
  }

  /** Deletes at once unless a grace period is given; an object that is gone already is no error. */
  async delete(path: string, graceSeconds = 0): Promise<void> {
    const body = { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: graceSeconds };
    await this.#json("DELETE", path, { body: { ...body, propagationPolicy: "Background" } }).catch(
      (error: unknown) => {
        if (!(error instanceof AdminError) || error.status !== 404) throw error;
      },
    );
  }

  /** The text of a health endpoint, whatever its status. */
  async probe(path: string): Promise<{ readonly status: number; readonly text: string }> {
    return this.#send("GET", path, {});
  }

  /** The status a GET with a bearer token is answered with. */
  async statusWithToken(path: string, token: string): Promise<number> {
    return (await this.#send("GET", path, { token })).status;
  }

  /** Waits until a GET gives what the predicate wants. */
  async until(path: string, predicate: (object: KubeJson) => boolean, timeoutMs = 30_000): Promise<KubeJson> {
    let last: KubeJson | undefined;
    try {
      return await waitFor(
        path,
        async () => {
          last = await this.get(path);
          return predicate(last) ? last : undefined;
        },
        { timeoutMs, intervalMs: 50 },
      );
    } catch (error) {
      throw new Error(`${(error as Error).message}: ${JSON.stringify(last?.status)}`, { cause: error });
    }
  }

  async #json(
    method: string,
    path: string,
    options: { body?: object; contentType?: string } = {},
  ): Promise<KubeJson> {
    const { status, text } = await this.#send(method, path, options);
    if (status < 300) return JSON.parse(text) as KubeJson;
    throw new AdminError(`${method} ${path}: ${status}: ${text.slice(0, 500)}`, status);
  }

  #send(
    method: string,
    path: string,
    options: { body?: object; contentType?: string; token?: string },
  ): Promise<{ status: number; text: string }> {
    const { body, contentType = "application/json", token } = options;
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const { ca, cert, key } = this.#tls;
    const identity = token === undefined ? { cert, key } : {};
    const headers: Record<string, string | number> = { accept: "application/json" };
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    if (payload !== undefined) {
      headers["content-type"] = contentType;
      headers["content-length"] = Buffer.byteLength(payload);
    }
    const where = { ...this.#way, host: "127.0.0.1", servername: "localhost", agent: false, timeout: 20_000 };
    return new Promise((resolve, reject) => {
      const sent = request({ ...where, method, path, headers, ca, ...identity }, (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
        response.on("error", reject);
      });
      sent.on("timeout", () => sent.destroy(new Error(`no answer to ${method} ${path}`)));
      sent.on("error", reject);
      sent.end(payload);
    });
  }
}
