// SPDX-License-Identifier: Apache-2.0
// Everything of a node in the mesh put together: API server, kubelet, pods with our plugin chained, agent and stand-in ztunnel.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeKubeconfig } from "../api-server/kubeconfig.ts";
import { ApiServer } from "../api-server.ts";
import { StandIn, type StandInStart } from "../ztunnel/stand-in.ts";
import { AgentProcess } from "./agent-process.ts";
import { type CniCall, CniRuntime } from "./cni-runtime.ts";
import {
  type AmbientPluginOptions,
  ambientPlugin,
  type BridgeConflistOptions,
  bridgeConflist,
} from "./conflist.ts";
import { type InsideNode, requireNode } from "./inside.ts";
import { Kubelet } from "./kubelet.ts";
import { PodRuntime } from "./pod.ts";

/** Folder of the launcher as `npm run setup` builds it. */
export const PLUGIN_DIR = join(import.meta.dirname, "../../../plugin/build");

const nodeName = "node-1";
const kubeconfig = "/run/node/kubeconfig";
const ztunnelSocket = "/var/run/ztunnel/ztunnel.sock";

/** How a {@link MeshNode} differs from the default. */
export interface MeshNodeOptions {
  readonly plugin?: AmbientPluginOptions;
  /** Settings of every agent that is started. */
  readonly agentEnv?: Readonly<Record<string, string>>;
  /** Default: dual-stack. */
  readonly network?: Pick<BridgeConflistOptions, "subnetV4" | "subnetV6">;
  /** Each pod's network belongs to a user namespace of its own, as with `hostUsers: false`. */
  readonly ownUsers?: boolean;
  readonly onCniCall?: (call: CniCall) => void;
}

/** A node in the mesh; to be used inside a test node. It needs no closing: it ends with the test node. */
export class MeshNode {
  readonly node: InsideNode;
  readonly api: ApiServer;
  /** Pods whose chain ends with our plugin. */
  readonly pods: PodRuntime;
  /** Pods of the same network without our plugin. */
  readonly plainPods: PodRuntime;
  readonly kubelet: Kubelet;
  readonly #agentEnv: Readonly<Record<string, string>>;
  #agent: AgentProcess | undefined;
  #ztunnel: StandIn | undefined;

  private constructor(node: InsideNode, api: ApiServer, options: MeshNodeOptions) {
    this.node = node;
    this.api = api;
    const { cgroupFolder } = node;
    const cni = new CniRuntime({
      binDirs: ["/usr/lib/cni", PLUGIN_DIR],
      ...(options.ownUsers === undefined ? {} : { ownUsers: options.ownUsers }),
      ...(options.onCniCall === undefined ? {} : { onCall: options.onCniCall }),
    });
    const network = { ...options.network, leaseDir: join(node.scratch, "ipam") };
    const chained = [ambientPlugin(options.plugin)];
    this.pods = new PodRuntime({ cni, network: bridgeConflist({ ...network, chained }), cgroupFolder });
    this.plainPods = new PodRuntime({ cni, network: bridgeConflist(network), cgroupFolder });
    this.kubelet = new Kubelet({ api, runtime: this.pods, nodeName });
    this.#agentEnv = options.agentEnv ?? {};
  }

  /** Starts the API server; agent and ztunnel come with their own methods. */
  static async start(options: MeshNodeOptions = {}): Promise<MeshNode> {
    const node = requireNode();
    const api = await ApiServer.start();
    writeKubeconfig(kubeconfig, api.url);
    await mkdir("/var/run/ztunnel", { recursive: true });
    api.put("nodes", { metadata: { name: nodeName } });
    return new MeshNode(node, api, options);
  }

  /** The agent that was started last. */
  get agent(): AgentProcess {
    if (this.#agent === undefined) throw new Error("no agent was started on this node");
    return this.#agent;
  }

  /** The stand-in that was started last. */
  get ztunnel(): StandIn {
    if (this.#ztunnel === undefined) throw new Error("no ztunnel was started on this node");
    return this.#ztunnel;
  }

  /** Starts an agent and waits until it is ready. */
  async startAgent(
    env: Readonly<Record<string, string>> = {},
    { wrapper = [] }: { readonly wrapper?: readonly string[] } = {},
  ): Promise<AgentProcess> {
    this.#agent = await AgentProcess.start({
      wrapper,
      nodeName,
      kubeconfig,
      ztunnelSocket,
      env: { ...this.#agentEnv, ...env },
    });
    await this.#agent.waitReady();
    return this.#agent;
  }

  /** Starts a stand-in ztunnel that opens real sockets in the pods; it may not be ready yet. */
  async startZtunnel(options: Omit<StandInStart, "socket"> = {}): Promise<StandIn> {
    this.#ztunnel = await StandIn.start({ depth: "sockets", ...options, socket: ztunnelSocket });
    return this.#ztunnel;
  }
}
