// SPDX-License-Identifier: Apache-2.0
// etcd and kube-apiserver as plain processes of a test node.
import { mkdir } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { cleanEnv } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { makeCertificates } from "./certificates.ts";
import { KubeAdmin } from "./kube-admin.ts";

/** Port of the API server in the node's network namespace. */
export const apiPort = 6443;
const etcdPort = 2379;

/** How a {@link ControlPlane} is made. */
export interface ControlPlaneOptions {
  /** Folder with the programs. */
  readonly binDir: string;
  /** A folder that goes away with the node; below it are the certificates and etcd's data. */
  readonly scratch: string;
  readonly nodeName: string;
  readonly nodeAddress: string;
  /** Whether pods need a service account with a token, for which the controller manager has to run. Default false. */
  readonly serviceAccounts?: boolean;
}

/** The storage and the front of a cluster. Ends with the test node. */
export class ControlPlane {
  /** Folder with keys and certificates, see `makeCertificates`. */
  readonly certificates: string;
  readonly admin: KubeAdmin;
  readonly #options: ControlPlaneOptions;
  #etcd: ManagedProcess | undefined;
  #apiServer: ManagedProcess | undefined;

  private constructor(options: ControlPlaneOptions, certificates: string, admin: KubeAdmin) {
    this.#options = options;
    this.certificates = certificates;
    this.admin = admin;
  }

  /** Starts both; resolves when the API server is ready. */
  static async start(options: ControlPlaneOptions): Promise<ControlPlane> {
    const certificates = join(options.scratch, "certificates");
    await mkdir(certificates, { recursive: true });
    await makeCertificates(certificates, { name: options.nodeName, address: options.nodeAddress });
    const admin = await KubeAdmin.load(certificates, { port: apiPort });
    const plane = new ControlPlane(options, certificates, admin);
    await plane.#startEtcd();
    await plane.startApiServer();
    return plane;
  }

  /** Starts the API server (again); resolves when it is ready. */
  async startApiServer(): Promise<void> {
    const { binDir, scratch, serviceAccounts = false } = this.#options;
    const file = (name: string) => join(this.certificates, name);
    const argv = [
      join(binDir, "kube-apiserver"),
      `--etcd-servers=http://127.0.0.1:${etcdPort}`,
      `--secure-port=${apiPort}`,
      `--advertise-address=${this.#options.nodeAddress}`,
      "--service-cluster-ip-range=10.96.0.0/16",
      `--cert-dir=${scratch}`,
      `--tls-cert-file=${file("apiserver.crt")}`,
      `--tls-private-key-file=${file("apiserver.key")}`,
      `--client-ca-file=${file("ca.crt")}`,
      `--kubelet-client-certificate=${file("kubelet-client.crt")}`,
      `--kubelet-client-key=${file("kubelet-client.key")}`,
      `--kubelet-certificate-authority=${file("ca.crt")}`,
      "--kubelet-preferred-address-types=InternalIP",
      "--service-account-issuer=https://kubernetes.default.svc",
      `--service-account-key-file=${file("sa.pub")}`,
      `--service-account-signing-key-file=${file("sa.key")}`,
      "--authorization-mode=Node,RBAC",
      "--enable-admission-plugins=NodeRestriction",
      ...(serviceAccounts ? [] : ["--disable-admission-plugins=ServiceAccount"]),
      "--allow-privileged=true",
    ];
    this.#apiServer = new ManagedProcess(argv, { name: "kube-apiserver" });
    const ready = async () => (await this.admin.probe("/readyz")).status === 200;
    await this.#apiServer.until("to be ready", ready, { timeoutMs: 60_000, intervalMs: 50 });
  }

  /** Ends the API server the hard way, as a node that loses power does. */
  async killApiServer(): Promise<void> {
    await this.#apiServer?.kill();
  }

  /** The last lines of the API server's log. */
  get apiServerLog(): string {
    return this.#apiServer?.text ?? "";
  }

  /** Makes etcd forget every revision but the current one. Source: etcd API, KV.Range and KV.Compact over JSON. */
  async compact(): Promise<void> {
    const key = Buffer.from("/").toString("base64");
    const { header } = (await etcdCall("/v3/kv/range", { key })) as { header: { revision: string } };
    await etcdCall("/v3/kv/compaction", { revision: header.revision, physical: true });
  }

  async #startEtcd(): Promise<void> {
    const client = `http://127.0.0.1:${etcdPort}`;
    this.#etcd = new ManagedProcess(
      [
        join(this.#options.binDir, "etcd"),
        ...["--data-dir", join(this.#options.scratch, "etcd")],
        ...["--listen-client-urls", client, "--advertise-client-urls", client],
        ...["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn", "--logger", "zap"],
      ],
      // Debian's etcd refuses to run on arm64 without this. Source: etcd server/etcdmain, checkSupportArch.
      { name: "etcd", env: cleanEnv(process.arch === "arm64" ? { ETCD_UNSUPPORTED_ARCH: "arm64" } : {}) },
    );
    const key = Buffer.from("/").toString("base64");
    await this.#etcd.until("to answer", async () => {
      await waitFor("etcd", () => etcdCall("/v3/kv/range", { key }), { timeoutMs: 1000, intervalMs: 20 });
      return true;
    });
  }
}

function etcdCall(path: string, body: object): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const sent = request(
      { host: "127.0.0.1", port: etcdPort, path, method: "POST", agent: false },
      (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("end", () => {
          if (response.statusCode === 200) resolve(JSON.parse(text));
          else reject(new Error(`etcd answered ${path} with ${response.statusCode}: ${text}`));
        });
      },
    );
    sent.on("error", reject);
    sent.end(JSON.stringify(body));
  });
}
