// SPDX-License-Identifier: Apache-2.0
// A stub API server with a client for it, and the objects the tests of this folder work on.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ApiClient } from "../../src/kube/api-client.ts";
import type { ClientLimits } from "../../src/kube/api-requests.ts";
import type { Logger } from "../../src/log/logger.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import type { KubeObject } from "../support/api-server/objects.ts";
import { ApiServer, type ApiServerOptions } from "../support/api-server.ts";

export interface KubeFixture extends AsyncDisposable {
  readonly server: ApiServer;
  readonly client: ApiClient;
  readonly folder: string;
}

/** Starts a server and a client that reads a kubeconfig for it. */
export async function startKube(
  options: ApiServerOptions & {
    token?: string;
    tokenFile?: string;
    folder?: string;
    limits?: Partial<ClientLimits>;
  } = {},
): Promise<KubeFixture> {
  const { token, tokenFile, limits, ...serverOptions } = options;
  const server = await ApiServer.start(serverOptions);
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), "ambient-kube-"));
  const kubeconfigPath = writeKubeconfig(join(folder, "kubeconfig"), server.url, {
    ...(token === undefined ? {} : { token }),
    ...(tokenFile === undefined ? {} : { tokenFile }),
  });
  const client = ApiClient.load({ kubeconfigPath, ...(limits === undefined ? {} : { limits }) });
  return {
    server,
    client,
    folder,
    async [Symbol.asyncDispose]() {
      client.close();
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface LogLine {
  readonly level: "debug" | "info" | "warn" | "error";
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

/** A logger that keeps its lines. */
export function recordingLogger(): Logger & { readonly lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: LogLine["level"]) => (fields: object, message: string) => {
    lines.push({ level, fields: fields as Record<string, unknown>, message });
  };
  return { lines, debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** A pod of the node "n1" in the namespace "shop". */
export function pod(
  name: string,
  extra: { labels?: Record<string, string>; nodeName?: string; uid?: string } = {},
): KubeObject {
  return {
    metadata: {
      name,
      namespace: "shop",
      uid: extra.uid ?? `uid-${name}`,
      ...(extra.labels === undefined ? {} : { labels: extra.labels }),
    },
    spec: { nodeName: extra.nodeName ?? "n1", serviceAccountName: "default" },
    status: { phase: "Running", podIP: "10.0.0.1", podIPs: [{ ip: "10.0.0.1" }] },
  };
}
