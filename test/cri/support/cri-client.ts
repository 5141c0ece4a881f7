// SPDX-License-Identifier: Apache-2.0
// The kubelet's side of the Container Runtime Interface: a few calls of the real gRPC API.
import { join } from "node:path";
import {
  type ChannelCredentials,
  type Client,
  credentials,
  loadPackageDefinition,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

/** What a sandbox is made from; the same value goes along with each of its containers. */
export interface SandboxConfig {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly namespace: string;
    readonly attempt: number;
  };
  readonly hostname: string;
  readonly log_directory: string;
  readonly dns_config: { readonly servers: readonly string[] };
  readonly port_mappings: readonly { readonly container_port: number; readonly host_port: number }[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: { readonly cgroup_parent: string };
}

/** What the runtime says of a sandbox. */
export interface SandboxStatus {
  readonly ips: readonly string[];
  /** Path of its network namespace, as the plugins get it. */
  readonly netns: string;
}

/** A container as it is asked for. */
export interface ContainerSpec {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  /** How often a container of this name was started before; default 0. */
  readonly attempt?: number;
  /** User and group; root's without. */
  readonly uid?: number;
  /** Files of the host that it sees and cannot change, by their path inside. */
  readonly files?: Readonly<Record<string, string>>;
}

/** What the runtime says of a container. */
export interface ContainerStatus {
  readonly state: "CONTAINER_CREATED" | "CONTAINER_RUNNING" | "CONTAINER_EXITED" | "CONTAINER_UNKNOWN";
  readonly exitCode: number;
  /** As "Completed" or "Error". */
  readonly reason: string;
  readonly message: string;
  /** Times of day; 1970 for what has not been yet. */
  readonly startedAt: Date;
  readonly finishedAt: Date;
}

/** What the kubelet makes its node's Ready of. */
export interface NetworkCondition {
  readonly ready: boolean;
  readonly reason: string;
  readonly message: string;
}

/** A call that the runtime refused; the message is what `kubectl describe pod` shows. */
export class CriError extends Error {
  override readonly name = "CriError";
  /** Name of the gRPC status, for example "UNKNOWN" or "DEADLINE_EXCEEDED". */
  readonly code: string;

  constructor(error: ServiceError) {
    super(error.details);
    this.code = status[error.code] ?? String(error.code);
  }
}

/** As the kubelet's `runtimeRequestTimeout`, default 2 min, of which RunPodSandbox gets twice as much. */
const requestMs = 120_000;

type Reply = Record<string, never>;
type Method = (
  request: object,
  options: { deadline: number },
  done: (error: ServiceError | null, reply: Reply) => void,
) => void;
type ServiceClient = new (address: string, credentials: ChannelCredentials) => Client;

/** A connection to a runtime. */
export class CriClient implements Disposable {
  readonly #client: Client;

  /** @param socket path of the runtime's gRPC socket */
  constructor(socket: string) {
    const definition = loadSync(join(import.meta.dirname, "cri.proto"), {
      keepCase: true,
      longs: Number,
      enums: String,
      defaults: true,
    });
    const loaded = loadPackageDefinition(definition) as unknown as {
      runtime: { v1: { RuntimeService: ServiceClient } };
    };
    this.#client = new loaded.runtime.v1.RuntimeService(`unix://${socket}`, credentials.createInsecure());
  }

  /** Name and version of the runtime. */
  async version(): Promise<string> {
    const reply = await this.#call<{ runtime_name: string; runtime_version: string }>("Version", {});
    return `${reply.runtime_name} ${reply.runtime_version}`;
  }

  /** Makes a sandbox and returns its id. @throws CriError */
  async runPodSandbox(
    config: SandboxConfig,
    options: { readonly handler?: string; readonly timeoutMs?: number } = {},
  ): Promise<string> {
    const request = { config, runtime_handler: options.handler ?? "" };
    const reply = await this.#call<{ pod_sandbox_id: string }>("RunPodSandbox", request, options.timeoutMs);
    return reply.pod_sandbox_id;
  }

  /** Ends a sandbox; may be repeated. @throws CriError */
  async stopPodSandbox(id: string): Promise<void> {
    await this.#call("StopPodSandbox", { pod_sandbox_id: id });
  }

  /** Forgets a sandbox; may be repeated. @throws CriError */
  async removePodSandbox(id: string): Promise<void> {
    await this.#call("RemovePodSandbox", { pod_sandbox_id: id });
  }

  /** Addresses and namespace of a sandbox. @throws CriError */
  async podSandboxStatus(id: string): Promise<SandboxStatus> {
    const reply = await this.#call<{
      status: { network: { ip: string; additional_ips: { ip: string }[] } };
      info: Record<string, string>;
    }>("PodSandboxStatus", { pod_sandbox_id: id, verbose: true });
    const { ip, additional_ips: more } = reply.status.network;
    const info = JSON.parse(reply.info.info ?? "{}") as {
      runtimeSpec: { linux: { namespaces: { type: string; path?: string }[] } };
    };
    const netns = info.runtimeSpec.linux.namespaces.find(({ type }) => type === "network")?.path ?? "";
    return { ips: [ip, ...more.map((each) => each.ip)], netns };
  }

  /** Ids of all sandboxes, or of one pod's, running or not. */
  async listPodSandbox(podUid?: string): Promise<string[]> {
    const { items } = await this.#call<{ items: { id: string; metadata: { uid: string } }[] }>(
      "ListPodSandbox",
      {},
    );
    return items.flatMap(({ id, metadata: { uid } }) => (uid === (podUid ?? uid) ? [id] : []));
  }

  /** Starts a container of a sandbox and returns its id. @throws CriError */
  async startContainer(sandboxId: string, config: SandboxConfig, container: ContainerSpec): Promise<string> {
    const { name, image, command, attempt = 0, uid, files = {} } = container;
    const { container_id: id } = await this.#call<{ container_id: string }>("CreateContainer", {
      pod_sandbox_id: sandboxId,
      config: {
        metadata: { name, attempt },
        image: { image },
        command,
        mounts: Object.entries(files).map(([container_path, host_path]) => ({
          container_path,
          host_path,
          readonly: true,
        })),
        log_path: `${name}.log`,
        ...(uid === undefined ? {} : { linux: { security_context: unprivileged(uid) } }),
      },
      sandbox_config: config,
    });
    await this.#call("StartContainer", { container_id: id });
    return id;
  }

  /** What became of a container. @throws CriError */
  async containerStatus(id: string): Promise<ContainerStatus> {
    const { status: said } = await this.#call<{
      status: Pick<ContainerStatus, "state" | "reason" | "message"> & {
        exit_code: number;
        started_at: number;
        finished_at: number;
      };
    }>("ContainerStatus", { container_id: id });
    const { state, reason, message, exit_code: exitCode } = said;
    const [startedAt, finishedAt] = [said.started_at, said.finished_at].map((ns) => new Date(ns / 1e6)) as [
      Date,
      Date,
    ];
    return { state, exitCode, reason, message, startedAt, finishedAt };
  }

  /** Runs a command in a container. @throws Error when its exit code is not 0 */
  async execSync(containerId: string, cmd: readonly string[]): Promise<string> {
    const request = { container_id: containerId, cmd, timeout: 60 };
    const reply = await this.#call<{ stdout: Uint8Array; stderr: Uint8Array; exit_code: number }>(
      "ExecSync",
      request,
    );
    const stdout = Buffer.from(reply.stdout).toString();
    if (reply.exit_code === 0) return stdout;
    const said = `${stdout}${Buffer.from(reply.stderr).toString()}`;
    throw new Error(`Cannot run "${cmd.join(" ")}" in a container: exit code ${reply.exit_code}: ${said}`);
  }

  /** The chains that the runtime has loaded, as JSON text. */
  async loadedText(): Promise<string> {
    const { info } = await this.#call<{ info: Record<string, string> }>("Status", { verbose: true });
    return info.cniconfig ?? "null";
  }

  /** Types of the plugins in the chain that the runtime has loaded; empty when it has none. */
  async loadedChain(): Promise<string[]> {
    const { Networks: networks } = JSON.parse(await this.loadedText()) ?? { Networks: [] };
    const chains = (networks as { IFName: string; Config: { Plugins: { Network: { type: string } }[] } }[])
      .filter(({ IFName }) => IFName !== "lo")
      .map(({ Config }) => Config.Plugins.map((plugin) => plugin.Network.type));
    return chains[0] ?? [];
  }

  /** Whether the runtime says that its network is ready; the kubelet asks every 5 s. */
  async networkCondition(): Promise<NetworkCondition> {
    const reply = await this.#call<{
      status: { conditions: { type: string; status: boolean; reason: string; message: string }[] };
    }>("Status", {});
    const found = reply.status.conditions.find(({ type }) => type === "NetworkReady");
    return {
      ready: found?.status === true,
      reason: found?.reason ?? "",
      message: found?.message ?? "",
    };
  }

  close(): void {
    this.#client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #call<R>(name: string, request: object, timeoutMs = requestMs): Promise<R> {
    const method = (this.#client as unknown as Record<string, Method>)[name] as Method;
    return new Promise<R>((resolve, reject) => {
      method.call(this.#client, request, { deadline: Date.now() + timeoutMs }, (error, reply) => {
        if (error === null) resolve(reply as R);
        else reject(new CriError(error));
      });
    });
  }
}

/** Another user than root, with nothing of root's. */
function unprivileged(uid: number): object {
  return {
    run_as_user: { value: uid },
    run_as_group: { value: uid },
    capabilities: { drop_capabilities: ["ALL"] },
  };
}
