// SPDX-License-Identifier: Apache-2.0
// The agent as a process of a test node: the bundle that users get, with paths on the node's scratch folder.
import { access, mkdir } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import { imageEnvironment } from "../../../scripts/image-content.ts";
import { ManagedProcess } from "./managed-process.ts";
import { cleanEnv } from "./run.ts";
import type { WaitOptions } from "./wait-for.ts";

/** What `npm run setup` builds. */
export const AGENT_BUNDLE = join(import.meta.dirname, "../../../dist/ambient-cni.js");

/** How an agent is started. */
export interface AgentOptions {
  readonly nodeName: string;
  readonly kubeconfig: string;
  /** Where its sockets are; default /var/run/istio-cni of the node. */
  readonly runDir?: string;
  readonly ztunnelSocket?: string;
  /** Further settings, see "Configuration" in the README; they win over the ones above. */
  readonly env?: Readonly<Record<string, string>>;
  /** Command that starts it, before its own. */
  readonly wrapper?: readonly string[];
}

/** A running agent. */
export class AgentProcess extends ManagedProcess {
  readonly #healthPort: string;
  readonly #monitoringPort: string;

  private constructor(env: Readonly<Record<string, string>>, wrapper: readonly string[] = []) {
    super([...wrapper, process.execPath, AGENT_BUNDLE, "agent"], { name: "agent", env });
    this.#healthPort = env.HEALTH_PORT ?? "8000";
    this.#monitoringPort = env.MONITORING_PORT ?? "15014";
  }

  /**
   * Starts an agent; it may not be ready yet.
   *
   * @throws Error when the bundle has not been built.
   */
  static async start(options: AgentOptions): Promise<AgentProcess> {
    await access(AGENT_BUNDLE).catch(() => {
      throw new Error(`Cannot start the agent: "${AGENT_BUNDLE}" is missing; run "npm run setup"`);
    });
    const runDir = options.runDir ?? "/var/run/istio-cni";
    const ztunnelSocket = options.ztunnelSocket ?? "/var/run/ztunnel/ztunnel.sock";
    await mkdir(runDir, { recursive: true });
    await mkdir(join(ztunnelSocket, ".."), { recursive: true });
    return new AgentProcess(
      cleanEnv({
        MALLOC_ARENA_MAX: imageEnvironment.MALLOC_ARENA_MAX,
        NODE_NAME: options.nodeName,
        KUBECONFIG: options.kubeconfig,
        CNI_AGENT_RUN_DIR: runDir,
        ZTUNNEL_UDS_ADDRESS: ztunnelSocket,
        HOST_ROOT: "/",
        MOUNTED_CNI_NET_DIR: "/run/node/net.d",
        // tests that are not about the installer put the plugin into the chain themselves
        INSTALL_CNI_PLUGIN: "false",
        ...options.env,
      }),
      options.wrapper,
    );
  }

  /** Waits until /readyz answers 200. */
  async waitReady(options: WaitOptions = {}): Promise<void> {
    const probe = async (): Promise<boolean> => (await httpGet(this.#healthPort, "/readyz")).status === 200;
    await this.until("to be ready", probe, { timeoutMs: 15_000, intervalMs: 10, ...options });
  }

  /** The text of its Prometheus metrics. */
  async metrics(): Promise<string> {
    return (await httpGet(this.#monitoringPort, "/metrics")).body;
  }
}

async function httpGet(port: string, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = get({ host: "127.0.0.1", port, path, agent: false, timeout: 2000 }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        body += chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer to ${path}`)));
    outgoing.on("error", reject);
  });
}
