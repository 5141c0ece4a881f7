// SPDX-License-Identifier: Apache-2.0
// A real API server in a node of its own, reached from a test outside through a relay that can fail on demand.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ApiClient } from "../../../src/kube/api-client.ts";
import type { ClientLimits } from "../../../src/kube/api-requests.ts";
import { NodeModule } from "../../support/node/node-module.ts";
import { kubeconfigFor } from "./certificates.ts";
import { FaultyRelay } from "./faulty-relay.ts";
import { KubeAdmin } from "./kube-admin.ts";

type Inside = typeof import("../api-server/control-plane.inside.ts");

/** etcd and kube-apiserver that nothing but this process can reach, and that end with it. */
export class PrivateApiServer implements AsyncDisposable {
  /** Goes past the relay. */
  readonly admin: KubeAdmin;
  readonly relay: FaultyRelay;
  readonly #node: NodeModule<Inside>;
  readonly #clients: ApiClient[] = [];
  /** The node's scratch folder as seen from here: gone with the node. */
  readonly #folder: string;

  private constructor(parts: {
    node: NodeModule<Inside>;
    admin: KubeAdmin;
    relay: FaultyRelay;
    folder: string;
  }) {
    this.#node = parts.node;
    this.admin = parts.admin;
    this.relay = parts.relay;
    this.#folder = parts.folder;
  }

  /** @param binDir folder with etcd and kube-apiserver */
  static async start(binDir: string): Promise<PrivateApiServer> {
    const path = join(import.meta.dirname, "../api-server/control-plane.inside.ts");
    const node = await NodeModule.start<Inside>(path);
    try {
      const root = `/proc/${node.handle.child.pid}/root`;
      const { certificates, socket } = await node.call.start(binDir);
      const admin = await KubeAdmin.load(root + certificates, { socketPath: root + socket });
      const relay = await FaultyRelay.start(root + socket);
      return new PrivateApiServer({ node, admin, relay, folder: join(root, "/run/node") });
    } catch (error) {
      await node.stop();
      throw error;
    }
  }

  /** The client under test, as an administrator or with a token; closed with the server. */
  async client(options: { tokenFile?: string; limits?: Partial<ClientLimits> } = {}): Promise<ApiClient> {
    const { tokenFile, limits } = options;
    const kubeconfig = await kubeconfigFor(join(this.#folder, "certificates"), {
      url: `https://127.0.0.1:${this.relay.port}`,
      user: tokenFile === undefined ? { client: "admin" } : { tokenFile },
    });
    const kubeconfigPath = await this.keep(`kubeconfig-${this.#clients.length}`, kubeconfig);
    const client = ApiClient.load({ kubeconfigPath, ...(limits === undefined ? {} : { limits }) });
    this.#clients.push(client);
    return client;
  }

  /** Writes a file that goes away with the node; returns its path. */
  async keep(name: string, text: string): Promise<string> {
    const path = join(this.#folder, name);
    await writeFile(path, text, { mode: 0o600 });
    return path;
  }

  /** Ends the API server; etcd stays. */
  kill(): Promise<void> {
    return this.#node.call.killApiServer();
  }

  /** Starts the API server again; resolves when it is ready. */
  restart(): Promise<void> {
    return this.#node.call.startApiServer();
  }

  /** Makes etcd forget every revision but the current one. The API server remembers more, until it is restarted. */
  compact(): Promise<void> {
    return this.#node.call.compact();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.relay.refuse();
    await this.#node.stop();
  }
}
