// SPDX-License-Identifier: Apache-2.0
// A real containerd inside a test node, with the one image its sandboxes and containers use.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { boxImage, makeBoxImage } from "../../cluster/support/box-image.ts";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { cleanEnv, run } from "../../support/node/run.ts";
import { bareHandler, type ChainPlaces } from "./chain.ts";
import { CriClient } from "./cri-client.ts";

const socket = "/run/containerd/containerd.sock";
const patience = { timeoutMs: 20_000, intervalMs: 10 };

/** A running containerd; its shims and sandboxes outlive it. */
export class Containerd {
  readonly cri: CriClient;
  readonly process: ManagedProcess;

  private constructor(process: ManagedProcess) {
    this.process = process;
    this.cri = new CriClient(socket);
  }

  /** Starts it and waits until it answers. @param scratch folder of the test node */
  static async start(scratch: string, chains: ChainPlaces): Promise<Containerd> {
    const path = join(scratch, "containerd.toml");
    await writeFile(path, configOf(scratch, chains));
    // plugins inherit containerd's whole environment: nothing of the test's may be in it
    const env = cleanEnv();
    // a host name of its own: runc sets the sandbox's, and refuses to in the machine's namespace
    const process = new ManagedProcess(["unshare", "--uts", "--ipc", "--", "containerd", "--config", path], {
      name: "containerd",
      env,
      cwd: "/",
    });
    const containerd = new Containerd(process);
    await process.until("to answer", async () => (await containerd.cri.version()) !== "", patience);
    return containerd;
  }

  /** Brings the image; once for each scratch folder. */
  async importImage(scratch: string): Promise<void> {
    const folder = join(scratch, "image");
    await mkdir(folder);
    // the namespace in which containerd's CRI service looks
    const ctr = ["ctr", "--address", socket, "--namespace", "k8s.io"];
    await run([...ctr, "images", "import", await makeBoxImage(folder)], { timeoutMs: 30_000 });
  }

  /** Waits until the runtime has loaded a chain of these plugins: before that it may still use another one. */
  async waitForChain(plugins: readonly string[]): Promise<void> {
    const wanted = plugins.join(" ");
    const isLoaded = async (): Promise<boolean> => (await this.cri.loadedChain()).join(" ") === wanted;
    await this.process.until(`to load the chain ${wanted}`, isLoaded, patience);
  }

  /** Ends it; sandboxes go on. */
  async stop(): Promise<void> {
    this.cri.close();
    await this.process.stop();
  }
}

/** Source: containerd docs/cri/config.md. */
function configOf(scratch: string, chains: ChainPlaces): string {
  return `version = 2
root = "${scratch}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "${socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "${scratch}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${boxImage}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  # root in a container may lack CAP_SYS_RESOURCE
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.${bareHandler}]
    runtime_type = "io.containerd.runc.v2"
    cni_conf_dir = "${chains.bareConfDir}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${chains.binDir}"
    conf_dir = "${chains.confDir}"
`;
}
