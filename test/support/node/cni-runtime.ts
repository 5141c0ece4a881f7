// SPDX-License-Identifier: Apache-2.0
// The container runtime's part in CNI, played as containerd 1.6 plays it: namespaces, chains, cached results, forgiving
// and repeated DELs.
import { spawn } from "node:child_process";
import { randomInt, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type CniVerb, execPlugin, PluginError } from "./cni-exec.ts";
import { type Conflist, LOOPBACK_CONFLIST, type PluginConfig } from "./conflist.ts";
import { cleanEnv, run } from "./run.ts";

/** The sandbox a chain is run for. */
export interface SandboxIdentity {
  /** 64 hex digits, also the name of its cgroup. */
  readonly id: string;
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** Values for plugins that ask for them by capability, for example `portMappings`. */
  readonly capabilityArgs?: Readonly<Record<string, unknown>>;
}

/** The parts of a CNI result that the harness reads. */
export interface CniResult {
  readonly cniVersion?: string;
  readonly interfaces?: readonly {
    readonly name: string;
    readonly mac?: string;
    readonly sandbox?: string;
  }[];
  readonly ips?: readonly {
    readonly address: string;
    readonly gateway?: string;
    readonly interface?: number;
  }[];
  readonly routes?: readonly { readonly dst: string; readonly gw?: string }[];
}

/** One execution of a plugin, for tests that look at what was called. */
export interface CniCall {
  readonly verb: CniVerb;
  readonly type: string;
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
  readonly ms: number;
  readonly error?: string;
}

/** How a {@link CniRuntime} is set up. */
export interface CniRuntimeOptions {
  /** Folders with plugin binaries, first match wins; default /usr/lib/cni alone. */
  readonly binDirs?: readonly string[];
  /** Default /var/run/netns, which is what containerd passes on. */
  readonly netnsDir?: string;
  /** Whether each namespace belongs to a user namespace of its own; default: to the node's. */
  readonly ownUsers?: boolean;
  /** Deadline of one plugin, default 30000. */
  readonly pluginTimeoutMs?: number;
  readonly onCall?: (call: CniCall) => void;
}

interface Attachment {
  readonly result: CniResult;
}

/** Runs conflists for sandboxes. Results are cached by network, sandbox and interface, as /var/lib/cni/results would. */
export class CniRuntime {
  readonly netnsDir: string;
  readonly #binDirs: readonly string[];
  readonly #pluginTimeoutMs: number;
  readonly #ownUsers: boolean;
  readonly #onCall: (call: CniCall) => void;
  readonly #cache = new Map<string, Attachment>();

  constructor(options: CniRuntimeOptions = {}) {
    this.#binDirs = options.binDirs ?? ["/usr/lib/cni"];
    this.netnsDir = options.netnsDir ?? "/var/run/netns";
    this.#pluginTimeoutMs = options.pluginTimeoutMs ?? 30_000;
    this.#ownUsers = options.ownUsers === true;
    this.#onCall = options.onCall ?? (() => {});
  }

  /** Makes a network namespace without any process and returns the path of its bind mount. */
  async createNetns(): Promise<string> {
    await mkdir(this.netnsDir, { recursive: true });
    const path = join(this.netnsDir, `cni-${randomUUID()}`);
    await writeFile(path, "");
    if (this.#ownUsers) await this.#bindOwnUsers(path);
    else await run(["unshare", `--net=${path}`, "true"]);
    return path;
  }

  /** As a runtime does it: a process with users of its own makes the network, and is gone when it is kept. */
  async #bindOwnUsers(path: string): Promise<void> {
    const maker = spawn("unshare", ["--user", "--map-root-user", "--net", "cat"], {
      env: cleanEnv(),
      stdio: ["pipe", "pipe", "inherit"],
    });
    const exit = once(maker, "exit");
    maker.stdin.write("made\n");
    await once(maker.stdout, "data");
    await run(["mount", "--bind", `/proc/${maker.pid}/ns/net`, path]);
    maker.stdin.end();
    await exit;
  }

  /** Unmounts and removes a namespace; one that is gone already is fine. */
  async removeNetns(path: string): Promise<void> {
    await run(["umount", "--lazy", path], { mayFail: true });
    await rm(path, { force: true });
  }

  /**
   * Attaches a sandbox: loopback and the conflist, at the same time as containerd does.
   *
   * When either fails both are taken down again, and the first failure is thrown.
   * @throws PluginError `failed to setup network for sandbox …`
   */
  async setUp(network: Conflist, sandbox: SandboxIdentity, netns: string): Promise<CniResult> {
    const outcomes = await Promise.allSettled([
      this.add(network, sandbox, { netns }),
      this.add(LOOPBACK_CONFLIST, sandbox, { netns, ifName: "lo" }),
    ]);
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed === undefined) return (outcomes[0] as PromiseFulfilledResult<CniResult>).value;
    const reason = failed.reason as PluginError;
    const message = `failed to setup network for sandbox "${sandbox.id}": ${reason.message}`;
    const error = new PluginError(message, reason.code);
    try {
      await this.tearDown(network, sandbox, netns);
    } catch (cause) {
      error.cause = cause;
    }
    throw error;
  }

  /**
   * Detaches a sandbox from both networks.
   *
   * @param netns empty once the namespace is gone: every DEL after the first one comes so.
   * @throws PluginError `failed to destroy network for sandbox …`
   */
  async tearDown(network: Conflist, sandbox: SandboxIdentity, netns: string): Promise<void> {
    try {
      await this.del(LOOPBACK_CONFLIST, sandbox, { netns, ifName: "lo" });
      await this.del(network, sandbox, { netns });
    } catch (error) {
      const { message, code } = error as PluginError;
      throw new PluginError(`failed to destroy network for sandbox "${sandbox.id}": ${message}`, code);
    }
  }

  /**
   * ADD of every plugin in order, each with the result of the one before.
   *
   * Source: containernetworking/cni libcni/api.go, AddNetworkList.
   * @throws PluginError `plugin type="…" failed (add): …`; nothing is undone.
   */
  async add(
    network: Conflist,
    sandbox: SandboxIdentity,
    at: { netns: string; ifName?: string },
  ): Promise<CniResult> {
    let result: CniResult | undefined;
    for (const plugin of network.plugins) {
      const stdin = pluginInput(network, plugin, { sandbox, prevResult: result });
      const output = await this.#call("ADD", plugin, { sandbox, at, stdin });
      try {
        result = JSON.parse(output) as CniResult;
      } catch (error) {
        throw new PluginError(`plugin type="${plugin.type}" failed (add): ${String(error)}`);
      }
    }
    if (result === undefined) throw new PluginError("no plugins");
    this.#cache.set(cacheKey(network, sandbox, at), { result });
    return result;
  }

  /**
   * DEL of every plugin in reverse order, with the cached result if there is one; stops at the first failure.
   *
   * @throws PluginError `plugin type="…" failed (delete): …`
   */
  async del(
    network: Conflist,
    sandbox: SandboxIdentity,
    at: { netns: string; ifName?: string },
  ): Promise<void> {
    const cached = hasCheckAndPrevResult(network) ? this.cachedResult(network, sandbox, at) : undefined;
    for (const plugin of network.plugins.toReversed()) {
      const stdin = pluginInput(network, plugin, { sandbox, prevResult: cached });
      await this.#call("DEL", plugin, { sandbox, at, stdin });
    }
    this.#cache.delete(cacheKey(network, sandbox, at));
  }

  /**
   * CHECK of every plugin in order. containerd never does this; other runtimes do.
   *
   * @throws PluginError `plugin type="…" failed (check): …`; also for a network that is too old for CHECK.
   */
  async check(
    network: Conflist,
    sandbox: SandboxIdentity,
    at: { netns: string; ifName?: string },
  ): Promise<void> {
    if (!hasCheckAndPrevResult(network)) {
      throw new PluginError(`configuration version "${network.cniVersion}" does not support CHECK`);
    }
    const prevResult = this.cachedResult(network, sandbox, at);
    for (const plugin of network.plugins) {
      await this.#call("CHECK", plugin, {
        sandbox,
        at,
        stdin: pluginInput(network, plugin, { sandbox, prevResult }),
      });
    }
  }

  /** The result of the last whole ADD of that sandbox that no DEL followed. */
  cachedResult(
    network: Conflist,
    sandbox: SandboxIdentity,
    at: { ifName?: string } = {},
  ): CniResult | undefined {
    return this.#cache.get(cacheKey(network, sandbox, at))?.result;
  }

  async #call(
    verb: "ADD" | "DEL" | "CHECK",
    plugin: PluginConfig,
    what: { sandbox: SandboxIdentity; at: { netns: string; ifName?: string }; stdin: string },
  ): Promise<string> {
    const env = cleanEnv({
      CNI_COMMAND: verb,
      CNI_CONTAINERID: what.sandbox.id,
      CNI_NETNS: what.at.netns,
      CNI_IFNAME: what.at.ifName ?? "eth0",
      CNI_PATH: this.#binDirs.join(":"),
      CNI_ARGS: cniArgs(what.sandbox),
    });
    const call = { type: plugin.type, binDirs: this.#binDirs, env, stdin: what.stdin };
    const start = performance.now();
    const seen = { verb, type: plugin.type, env, stdin: what.stdin };
    try {
      const output = await execPlugin({ ...call, timeoutMs: this.#pluginTimeoutMs });
      this.#onCall({ ...seen, ms: performance.now() - start });
      return output;
    } catch (error) {
      const { message, code } = error as PluginError;
      this.#onCall({ ...seen, ms: performance.now() - start, error: message });
      const word = { ADD: "add", DEL: "delete", CHECK: "check" }[verb];
      throw new PluginError(`plugin type="${plugin.type}" failed (${word}): ${message}`, code);
    }
  }
}

/** Source: libcni/api.go, getCacheFilePath. */
function cacheKey(network: Conflist, sandbox: SandboxIdentity, { ifName = "eth0" }: { ifName?: string }) {
  return `${network.name}-${sandbox.id}-${ifName}`;
}

/** CHECK, and prevResult in DEL, came with 0.4.0. Source: libcni/api.go, DelNetworkList and CheckNetworkList. */
function hasCheckAndPrevResult(network: Conflist): boolean {
  const [major = 0, minor = 0] = network.cniVersion.split(".").map(Number);
  return major > 0 || minor >= 4;
}

/** One line of JSON with sorted keys, as Go's encoder makes it from a map. Source: libcni/conf.go, InjectConf. */
function pluginInput(
  network: Conflist,
  plugin: PluginConfig,
  what: { sandbox: SandboxIdentity; prevResult: CniResult | undefined },
): string {
  const wanted = Object.entries(plugin.capabilities ?? {}).filter(([, on]) => on);
  const given = what.sandbox.capabilityArgs ?? {};
  const runtimeConfig = Object.fromEntries(
    wanted.filter(([name]) => name in given).map(([name]) => [name, given[name]]),
  );
  const config: Record<string, unknown> = {
    ...plugin,
    name: network.name,
    cniVersion: network.cniVersion,
    ...(what.prevResult === undefined ? {} : { prevResult: what.prevResult }),
    ...(Object.keys(runtimeConfig).length === 0 ? {} : { runtimeConfig }),
  };
  return JSON.stringify(Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1))));
}

/** containerd keeps these pairs in a Go map, so their order is a different one in every call. */
function cniArgs(sandbox: SandboxIdentity): string {
  const pairs = [
    `K8S_POD_NAMESPACE=${sandbox.namespace}`,
    `K8S_POD_NAME=${sandbox.name}`,
    `K8S_POD_INFRA_CONTAINER_ID=${sandbox.id}`,
    `K8S_POD_UID=${sandbox.uid}`,
    "IgnoreUnknown=1",
  ];
  for (let i = pairs.length - 1; i > 0; i--) {
    const j = randomInt(i + 1);
    [pairs[i], pairs[j]] = [pairs[j] as string, pairs[i] as string];
  }
  return pairs.join(";");
}
