// SPDX-License-Identifier: Apache-2.0
// A node of the mesh whose pods a real containerd runs: API server, kubelet's part, agent and stand-in ztunnel around it.
import { mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { boxImage } from "../../cluster/support/box-image.ts";
import { makeNodePlaces } from "../../cluster/support/node-places.ts";
import { writeKubeconfig } from "../../support/api-server/kubeconfig.ts";
import { ApiServer } from "../../support/api-server.ts";
import { AGENT_BUNDLE, AgentProcess } from "../../support/node/agent-process.ts";
import { type InsideNode, requireNode } from "../../support/node/inside.ts";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { cleanEnv } from "../../support/node/run.ts";
import { StandIn, type StandInStart } from "../../support/ztunnel/stand-in.ts";
import { type ChainPlaces, chainPlaces, makeChains, ourChain } from "./chain.ts";
import { Containerd } from "./containerd.ts";
import type { CriClient, SandboxConfig } from "./cri-client.ts";

const nodeName = "node-1";
const kubeconfig = "/run/node/kubeconfig";
const ztunnelSocket = "/var/run/ztunnel/ztunnel.sock";
const modeLabel = "istio.io/dataplane-mode";

/** Namespace whose pods are in the mesh. */
export const meshNamespace = "mesh";
/** Namespace whose pods are not. */
export const plainNamespace = "plain";
/** Port of the applications. */
export const appPort = 8080;

/** Where the agents run. */
export const agentNamespace = "istio-system";
const daemonSet = "ambient-cni-node";
/** Pod of every agent: its settings stay the same from one to the next. */
export const agentPodName = `${daemonSet}-k4m2x`;

/** How a {@link CriNode} differs from the default. */
export interface CriNodeOptions {
  /** Settings of every agent that is started. */
  readonly agentEnv?: Readonly<Record<string, string>>;
}

/** A pod as its object says it. */
export interface PodSpec {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly hostPort?: number;
}

/** How a sandbox is asked for. */
export interface RunOptions {
  /** See `bareHandler`. */
  readonly handler?: string;
  /** As the kubelet's own deadline. */
  readonly timeoutMs?: number;
  /** How many sandboxes of the pod were tried before; default 0. */
  readonly attempt?: number;
  /** Phase once the sandbox is there: "Pending" while init containers are still to run. Default "Running". */
  readonly phase?: "Pending" | "Running";
  /** False: nobody writes the pod's status, so that its address is known to the runtime alone. Default true. */
  readonly isTold?: boolean;
  /** True: the sandbox's cgroup does not name the pod. */
  readonly isNameless?: boolean;
}

/** A pod whose sandbox runs. */
export interface CriPod {
  readonly spec: PodSpec;
  readonly config: SandboxConfig;
  readonly id: string;
  readonly netns: string;
  readonly ips: readonly string[];
  /** How long RunPodSandbox took. */
  readonly runMs: number;
}

/** Where a pod's application serves. */
export function appUrl({ ips }: Pick<CriPod, "ips">): string {
  return `http://${ips[0]}:${appPort}/`;
}

/** The node. It needs no closing: everything of it ends with the test node. */
export class CriNode {
  readonly node: InsideNode;
  readonly api: ApiServer;
  readonly chains: ChainPlaces;
  readonly #agentEnv: Readonly<Record<string, string>>;
  #containerd: Containerd;
  #agent: AgentProcess | undefined;
  #ztunnel: StandIn | undefined;
  #lastPod = 0;

  private constructor(
    parts: { node: InsideNode; api: ApiServer; chains: ChainPlaces; containerd: Containerd },
    agentEnv: Readonly<Record<string, string>>,
  ) {
    this.node = parts.node;
    this.api = parts.api;
    this.chains = parts.chains;
    this.#containerd = parts.containerd;
    this.#agentEnv = agentEnv;
  }

  /** Starts API server and containerd; agent and ztunnel come with their own methods. */
  static async start(options: CriNodeOptions = {}): Promise<CriNode> {
    const node = requireNode();
    await makeNodePlaces(node.scratch);
    const chains = chainPlaces(node.scratch);
    await makeChains(chains);
    const [api, containerd] = await Promise.all([ApiServer.start(), Containerd.start(node.scratch, chains)]);
    await containerd.importImage(node.scratch);
    writeKubeconfig(kubeconfig, api.url);
    await mkdir("/var/run/ztunnel", { recursive: true });
    api.put("nodes", { metadata: { name: nodeName } });
    for (const [name, labels] of [
      [meshNamespace, { [modeLabel]: "ambient" }],
      [plainNamespace, {}],
      [agentNamespace, {}],
    ] as const) {
      api.put("namespaces", { metadata: { name, labels }, status: { phase: "Active" } });
    }
    putDaemonSet(api);
    const agentEnv = {
      INSTALL_CNI_PLUGIN: "true",
      MOUNTED_CNI_NET_DIR: chains.confDir,
      MOUNTED_CNI_BIN_DIR: chains.binDir,
      POD_NAMESPACE: agentNamespace,
      POD_NAME: agentPodName,
      ...options.agentEnv,
    };
    return new CriNode({ node, api, chains, containerd }, agentEnv);
  }

  get cri(): CriClient {
    return this.#containerd.cri;
  }

  get containerd(): Containerd {
    return this.#containerd;
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

  /** Starts an agent, which installs itself into the runtime's folders; it may not be ready yet. */
  async startAgent(env: Readonly<Record<string, string>> = {}): Promise<AgentProcess> {
    const settings = { ...this.#agentEnv, ...env };
    this.#agent = await AgentProcess.start({ nodeName, kubeconfig, ztunnelSocket, env: settings });
    return this.#agent;
  }

  /** Starts `ambient-cni uninstall` with the agent's settings. */
  startUninstall(args: readonly string[] = []): ManagedProcess {
    const env = cleanEnv({ HOST_ROOT: "/", ZTUNNEL_UDS_ADDRESS: ztunnelSocket, ...this.#agentEnv });
    return new ManagedProcess([process.execPath, AGENT_BUNDLE, "uninstall", ...args], {
      name: "uninstall",
      env,
    });
  }

  /** Starts a stand-in ztunnel that opens real sockets in the pods and goes from pod to pod by port 15008. */
  async startZtunnel(options: Omit<StandInStart, "socket"> = {}): Promise<StandIn> {
    const defaults = { depth: "sockets", maxBackoffMs: 100 } as const;
    this.#ztunnel = await StandIn.start({ ...defaults, ...options, socket: ztunnelSocket });
    return this.#ztunnel;
  }

  /** Starts an agent and waits until it is ready and the runtime has loaded its chain. */
  async install(): Promise<void> {
    await this.startAgent();
    await this.agent.waitReady();
    await this.containerd.waitForChain(ourChain);
  }

  /** Starts agent and ztunnel and waits until they are there for each other. */
  async startMesh(options: Omit<StandInStart, "socket"> = {}): Promise<void> {
    await this.install();
    await this.startZtunnel(options);
    await this.ztunnel.waitForReady();
  }

  /** Creates the object of a pod that is scheduled here. */
  createPod(
    namespace: string,
    more: {
      readonly hostPort?: number;
      readonly labels?: Readonly<Record<string, string>>;
      readonly annotations?: Readonly<Record<string, string>>;
      /** More of the object's `spec`. */
      readonly objectSpec?: Readonly<Record<string, unknown>>;
      /** UID of the controller that makes another pod in its place. */
      readonly ownerUid?: string;
    } = {},
  ): PodSpec {
    this.#lastPod += 1;
    const { labels = {}, annotations = {}, objectSpec = {}, ownerUid, ...rest } = more;
    const spec: PodSpec = { namespace, name: `pod-${this.#lastPod}`, uid: crypto.randomUUID(), ...rest };
    this.api.put("pods", {
      metadata: {
        name: spec.name,
        namespace,
        uid: spec.uid,
        labels: { ...labels },
        annotations: { ...annotations },
        ...(ownerUid === undefined ? {} : { ownerReferences: [replicaSet(ownerUid)] }),
      },
      spec: {
        nodeName,
        serviceAccountName: "default",
        containers: [{ name: "app", image: boxImage }],
        ...objectSpec,
      },
      status: { phase: "Pending" },
    });
    return spec;
  }

  /** The kubelet's part: RunPodSandbox, then the pod's status. @throws CriError; the object then stays, pending */
  async runPod(spec: PodSpec, options: RunOptions = {}): Promise<CriPod> {
    const config = this.#configOf(spec, options);
    await mkdir(config.log_directory, { recursive: true });
    const began = performance.now();
    const id = await this.cri.runPodSandbox(config, options);
    const runMs = performance.now() - began;
    const { ips, netns } = await this.cri.podSandboxStatus(id);
    if (options.isTold ?? true) {
      this.api.edit("pods", spec, (object) => {
        const podIPs = ips.map((ip) => ({ ip }));
        object.status = { ...object.status, phase: options.phase ?? "Running", podIP: ips[0], podIPs };
      });
    }
    return { spec, config, id, netns, ips, runMs };
  }

  /** Starts a web server in a pod whose page is the pod's name; returns the container's id. */
  async startApp(pod: CriPod): Promise<string> {
    const serve = `echo ${pod.spec.name} >/www/index.html; exec httpd -f -v -p ${appPort} -h /www`;
    const command = ["/bin/sh", "-c", serve];
    return this.cri.startContainer(pod.id, pod.config, { name: "app", image: boxImage, command });
  }

  /** File with what a pod's container printed. Source: the CRI's log format is "TIME STREAM TAG TEXT". */
  logOf(pod: CriPod, container = "app"): string {
    return join(pod.config.log_directory, `${container}.log`);
  }

  /** Marks the object, then StopPodSandbox, RemovePodSandbox, and the object goes. */
  async deletePod(pod: CriPod): Promise<void> {
    this.api.edit("pods", pod.spec, (object) => {
      object.metadata.deletionTimestamp = new Date().toISOString();
    });
    await this.cri.stopPodSandbox(pod.id);
    await this.cri.removePodSandbox(pod.id);
    this.api.delete("pods", pod.spec.name, pod.spec.namespace);
  }

  /** The container runtime goes away and comes back. */
  async restartContainerd(): Promise<void> {
    await this.#containerd.stop();
    this.#containerd = await Containerd.start(this.node.scratch, this.chains);
  }

  #configOf(spec: PodSpec, { attempt = 0, isNameless = false }: RunOptions): SandboxConfig {
    const { name, namespace, uid, hostPort } = spec;
    const cgroup = isNameless ? "nameless" : `kubepods/burstable/pod${uid}`;
    return {
      metadata: { name, namespace, uid, attempt },
      hostname: name,
      log_directory: join(this.node.scratch, "logs", uid),
      // none of the machine's
      dns_config: { servers: ["10.96.0.10"] },
      port_mappings: hostPort === undefined ? [] : [{ container_port: appPort, host_port: hostPort }],
      labels: { "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace },
      annotations: {},
      linux: { cgroup_parent: `/${basename(this.node.cgroupFolder)}/${cgroup}` },
    };
  }
}

/** The agent's own object and its owner: without them a SIGTERM would be an agent's last. */
function putDaemonSet(api: ApiServer): void {
  const owner = { apiVersion: "apps/v1", kind: "DaemonSet", name: daemonSet, uid: crypto.randomUUID() };
  const metadata = { name: agentPodName, namespace: agentNamespace, uid: crypto.randomUUID() };
  api.put("daemonsets", { metadata: { name: daemonSet, namespace: agentNamespace, uid: owner.uid } });
  api.put("pods", {
    metadata: { ...metadata, ownerReferences: [{ ...owner, controller: true }] },
    spec: { nodeName },
    status: { phase: "Running" },
  });
}

function replicaSet(uid: string) {
  return { apiVersion: "apps/v1", kind: "ReplicaSet", name: "web", uid, controller: true };
}
