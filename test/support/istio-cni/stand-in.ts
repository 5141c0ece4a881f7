// SPDX-License-Identifier: Apache-2.0
// A stand-in for istio-cni as a node sees it: its socket, and its installer's way with binary, kubeconfig and chain.
// Source: istio/istio cni/pkg/cmd/root.go (the socket comes first), cni/pkg/nodeagent/cni-watcher.go,
// cni/pkg/install/install.go (installAll, sleepWatchInstall, Cleanup), cni/pkg/install/cniconfig.go (insertCNIConfig).
import { type FSWatcher, watch } from "node:fs";
import { chmod, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/** What its agent is told of a new pod. */
export interface IstioAddEvent {
  readonly Netns: string;
  readonly PodName: string;
  readonly PodNamespace: string;
}

export interface IstioCniOptions {
  readonly netDir: string;
  readonly binDir: string;
  readonly runDir: string;
  /** Namespaces of the mesh. */
  readonly mesh: readonly string[];
  /** Captures a pod of the mesh. @throws when it cannot */
  readonly capture: (event: IstioAddEvent) => Promise<void>;
  /** From the socket to the first installation its caches fill, and every pod is looked at; default: 300 ms. */
  readonly sync?: () => Promise<unknown>;
}

interface Chain {
  plugins: { type: string }[];
}

/** Larger than any launcher of ours; the real one has 85 MB. */
const padding = `\n//${"x".repeat(6 * 1024 * 1024)}\n`;
const throttleMs = 1_000;

/** Runs until it is stopped. */
export class IstioCni {
  readonly #options: IstioCniOptions;
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  #isSynced = false;
  #isStopped = false;
  #installing: Promise<void> = Promise.resolve();
  #watchers: FSWatcher[] = [];
  /** Installations so far, the first included. */
  installations = 0;

  private constructor(options: IstioCniOptions) {
    this.#options = options;
  }

  /** Opens the socket; the installation follows by itself. */
  static async start(options: IstioCniOptions): Promise<IstioCni> {
    const istio = new IstioCni(options);
    const path = istio.#socketPath;
    await rm(path, { force: true });
    await new Promise<void>((resolve) => istio.#server.listen(path, resolve));
    await chmod(path, 0o666);
    istio.#installing = istio.#run();
    return istio;
  }

  /** Its DaemonSet stays: entry, binary and kubeconfig are left for the next one. Else they are removed. */
  async stop({ daemonSetStays }: { readonly daemonSetStays: boolean }): Promise<void> {
    this.#isStopped = true;
    this.#unwatch();
    await this.#installing;
    if (!daemonSetStays) await this.#cleanUp();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    // Go's listener removes the name that it was bound to, whosever it is by now
    await rm(this.#socketPath, { force: true });
  }

  get #socketPath(): string {
    return join(this.#options.runDir, "pluginevent.sock");
  }

  get #binary(): string {
    return join(this.#options.binDir, "istio-cni");
  }

  get #kubeconfig(): string {
    return join(this.#options.runDir, "istio-cni-kubeconfig");
  }

  async #run(): Promise<void> {
    await (this.#options.sync?.() ?? delay(300));
    this.#isSynced = true;
    await this.#installAll();
  }

  async #installAll(): Promise<void> {
    if (this.#isStopped) return;
    this.#unwatch();
    this.installations++;
    // the interpreter must not open the plugin's own name, which may be another's by then
    const script = `#!${process.execPath} ${join(import.meta.dirname, "plugin.cjs")}\n${padding}`;
    await writeFile(`${this.#binary}.tmp`, script, { mode: 0o755 });
    await rename(`${this.#binary}.tmp`, this.#binary);
    await writeFile(this.#kubeconfig, JSON.stringify({ token: "secret", mesh: this.#options.mesh }), {
      mode: 0o600,
    });
    const isFirst = this.installations === 1;
    await this.#writeChain((plugins) => {
      // after its first installation any entry of its name will do
      if (!isFirst && plugins.some(({ type }) => type === "istio-cni")) return;
      // the first of its name, and no other
      const at = plugins.findIndex(({ type }) => type === "istio-cni");
      if (at >= 0) plugins.splice(at, 1);
      plugins.push(this.#entry());
    });
    this.#watch();
    // changed between its write and its watch
    let isThere = false;
    await this.#writeChain((plugins) => {
      isThere = plugins.some(({ type }) => type === "istio-cni");
    });
    if (!isThere) this.#again();
  }

  #watch(): void {
    if (this.#isStopped) return;
    const again = (): void => this.#again();
    this.#watchers = [watch(this.#options.netDir, again), watch(this.#binary, again)];
  }

  #again(): void {
    this.#unwatch();
    if (this.#isStopped) return;
    this.#installing = delay(throttleMs).then(() => this.#installAll());
  }

  #unwatch(): void {
    for (const watcher of this.#watchers.splice(0)) watcher.close();
  }

  #entry(): { type: string; [key: string]: unknown } {
    return {
      name: "istio-cni",
      type: "istio-cni",
      ipam: {},
      dns: {},
      plugin_log_level: "info",
      cni_agent_run_dir: this.#options.runDir,
      ambient_enabled: true,
      enablement_selectors: [
        { namespaceSelector: { matchLabels: { "istio.io/dataplane-mode": "ambient" } } },
      ],
      exclude_namespaces: ["kube-system"],
      pod_namespace: "istio-system",
      native_nftables: false,
      enable_ambient_detection_retry: false,
    };
  }

  /** As Go writes JSON again: every key of the file in order, two spaces. */
  async #writeChain(change: (plugins: { type: string }[]) => void): Promise<void> {
    const { netDir } = this.#options;
    const [name] = (await readdir(netDir)).filter((each) => /\.conf(list)?$/.test(each)).sort();
    if (name === undefined) return;
    const path = join(netDir, name);
    const chain = JSON.parse(await readFile(path, "utf8")) as Chain;
    const before = JSON.stringify(chain);
    change(chain.plugins);
    if (JSON.stringify(chain) === before) return;
    await writeFile(`${path}.tmp`, `${JSON.stringify(chain, null, 2)}\n`, { mode: 0o600 });
    await rename(`${path}.tmp`, path);
  }

  async #cleanUp(): Promise<void> {
    await this.#writeChain((plugins) => {
      const at = plugins.findIndex(({ type }) => type === "istio-cni");
      if (at >= 0) plugins.splice(at, 1);
    });
    await rm(this.#kubeconfig, { force: true });
    await rm(this.#binary, { force: true });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const part of request) body += String(part);
    const answer = (status: number, text: string): void => {
      response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8" }).end(text);
    };
    if (request.url !== "/cmdadd") return answer(404, "404 page not found\n");
    const event = JSON.parse(body) as IstioAddEvent;
    const pod = `pod ${event.PodNamespace}/${event.PodName}`;
    if (!this.#isSynced) return answer(500, `failed to get ${pod}: failed to find namespace <nil>\n`);
    if (!this.#options.mesh.includes(event.PodNamespace))
      return answer(500, `${pod} is unexpectedly not eligible for ambient enrollment\n`);
    try {
      await this.#options.capture(event);
      answer(200, "");
    } catch (error) {
      answer(500, `${(error as Error).message}\n`);
    }
  }
}
