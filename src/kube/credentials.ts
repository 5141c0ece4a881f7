// SPDX-License-Identifier: Apache-2.0
// Where the API server is and how to prove who we are, kept current while tokens and certificates rotate.
import { existsSync, readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { delimiter, dirname, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { KubeConfig } from "@kubernetes/client-node";
import { parse } from "yaml";
import { ApiError } from "./api-error.ts";
import { listOf, recordOf, textOf } from "./json-fields.ts";
import { trustBundles, trustOptions } from "./trust.ts";

/** What one request needs. */
export interface Access {
  readonly headers: Readonly<Record<string, string>>;
  /** "user:password" for basic authentication. */
  readonly auth: string | undefined;
  readonly agent: http.Agent;
}

const tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const reuseMs = 10_000;
const idleSocketMs = 30_000;
const maxSockets = 24;

const tlsOptions = ["ca", "cert", "key", "pfx", "passphrase", "rejectUnauthorized", "servername"] as const;
type TlsMaterial = Pick<https.RequestOptions, (typeof tlsOptions)[number]>;

/** The current cluster and user of a kubeconfig, or the pod's own service account. */
export class Credentials {
  readonly server: URL;
  readonly #read: () => KubeConfig;
  #config: KubeConfig;
  #access: Access | undefined;
  #accessUntilMs = 0;
  #material: TlsMaterial | undefined;
  /** One for each way to read the CA file; nearly always there is one. */
  #agents: readonly http.Agent[] = [];
  /** The agent that was last good for something. */
  #chosen = 0;

  /** @param read loads the configuration from its source; called again whenever the server refuses us. */
  private constructor(read: () => KubeConfig) {
    this.#read = read;
    this.#config = read();
    this.server = serverUrl(this.#config);
  }

  /**
   * From `kubeconfigPath` (one file, or several joined as KUBECONFIG joins them), else from the service account.
   *
   * @throws ApiError with reason "Credentials"
   */
  static load(options: { kubeconfigPath?: string | undefined } = {}): Credentials {
    const path = options.kubeconfigPath;
    const inCluster = path === undefined || path === "";
    try {
      return new Credentials(inCluster ? readServiceAccount : () => readKubeconfigs(path));
    } catch (cause) {
      const source = inCluster ? "the pod's service account" : `"${path}"`;
      const remedy = inCluster
        ? "run as a pod with a service account token, or set KUBECONFIG"
        : "check that the file exists and names a current context with a server";
      throw credentialsError(`Cannot use the Kubernetes configuration of ${source}`, cause, remedy);
    }
  }

  /** Headers and connection pool for a request now. @throws ApiError with reason "Credentials" */
  async current(): Promise<Access> {
    if (this.#access !== undefined && performance.now() < this.#accessUntilMs) return this.#access;
    try {
      const options: https.RequestOptions = {};
      await this.#config.applyToHTTPSOptions(options);
      this.#access = {
        headers: headersOf(options),
        auth: typeof options.auth === "string" ? options.auth : undefined,
        agent: this.#agentFor(options),
      };
    } catch (cause) {
      throw credentialsError(
        "Cannot read the credentials for the API server",
        cause,
        "check the token file and kubeconfig",
      );
    }
    this.#accessUntilMs = performance.now() + reuseMs;
    return this.#access;
  }

  /** Makes the next request read everything again: token, certificates and kubeconfig. */
  refresh(): void {
    this.#access = undefined;
    try {
      this.#config = this.#read();
    } catch {
      // A file that is being replaced right now: the configuration we have still says where to look for the token.
    }
  }

  /**
   * The server's certificate was not accepted: what is trusted is read again, and the next way to read it is taken.
   * @param failures of this request so far
   * @returns false when every way was tried
   */
  distrusted(failures: number): boolean {
    if (failures === 1) this.refresh();
    this.#access = undefined;
    this.#chosen = (this.#chosen + 1) % Math.max(1, this.#agents.length);
    return failures <= this.#agents.length;
  }

  /** Closes pooled connections that wait for use; one of them may be dead without having said so. */
  dropIdleConnections(): void {
    for (const { freeSockets } of this.#agents) {
      for (const socket of Object.values(freeSockets).flat()) socket?.destroy();
    }
  }

  /** Closes all connections. */
  close(): void {
    for (const agent of this.#agents) agent.destroy();
  }

  #agentFor(options: https.RequestOptions): http.Agent {
    const material = materialOf(options);
    if (this.#agents.length === 0 || !isDeepStrictEqual(material, this.#material)) {
      this.dropIdleConnections();
      this.#material = material;
      this.#agents = this.#makeAgents(material, options);
      this.#chosen = 0;
    }
    return this.#agents[this.#chosen] as http.Agent;
  }

  #makeAgents(material: TlsMaterial, options: https.RequestOptions): http.Agent[] {
    // The library's own agent opens a connection for each request, so it serves only to go through proxies.
    const proxied = this.#config.getCurrentCluster()?.proxyUrl !== undefined;
    if (proxied && options.agent instanceof http.Agent) return [options.agent];
    const shared = { keepAlive: true, maxSockets, scheduling: "lifo" as const, timeout: idleSocketMs };
    if (this.server.protocol !== "https:") return [new http.Agent(shared)];
    const bundles = trustBundles(String(material.ca ?? ""));
    // without a readable one: what OpenSSL says of it, or the system's
    if (bundles.length === 0) return [new https.Agent({ ...shared, ...material })];
    return bundles.map((ca) => new https.Agent({ ...shared, ...material, ...trustOptions, ca }));
  }
}

function materialOf(options: https.RequestOptions): TlsMaterial {
  const given = tlsOptions.map((name) => [name, options[name]] as const);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined && value !== null));
}

function headersOf(options: https.RequestOptions): Record<string, string> {
  const entries = Object.entries((options.headers ?? {}) as Record<string, unknown>);
  // A token file may end in a line break, which has no place in a header.
  return Object.fromEntries(entries.map(([name, value]) => [name, String(value).trim()]));
}

function credentialsError(what: string, cause: unknown, remedy: string): ApiError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new ApiError(`${what}: ${why}; ${remedy}`, { reason: "Credentials", cause });
}

function serverUrl(config: KubeConfig): URL {
  const server = config.getCurrentCluster()?.server;
  if (server === undefined || !URL.canParse(server))
    throw new Error(`no server address (found "${server ?? ""}")`);
  return new URL(server);
}

function readServiceAccount(): KubeConfig {
  if (!existsSync(tokenPath)) throw new Error(`there is no file ${tokenPath}`);
  const config = new KubeConfig();
  config.loadFromCluster();
  return config;
}

function readKubeconfigs(paths: string): KubeConfig {
  const config = new KubeConfig();
  const files = paths.split(delimiter).filter((path) => path !== "");
  for (const [index, file] of files.entries()) {
    const part = new KubeConfig();
    part.loadFromFile(file);
    readTokenFiles(part, file);
    config.mergeConfig(part, index > 0);
  }
  return config;
}

/** Follows `tokenFile` of users, which @kubernetes/client-node 2.0 leaves out although kubectl and client-go know it. */
function readTokenFiles(config: KubeConfig, file: string): void {
  const users = listOf(recordOf(parse(readFileSync(file, "utf8"))).users).map(recordOf);
  for (const { name, user } of users) {
    const tokenFile = textOf(recordOf(user).tokenFile);
    if (tokenFile === "") continue;
    const authProvider = { name: "tokenFile", config: { tokenFile: resolve(dirname(file), tokenFile) } };
    config.users = config.users.map((known) => {
      if (known.name !== name) return known;
      const { token: _, ...rest } = known;
      return { ...rest, authProvider };
    });
  }
}
