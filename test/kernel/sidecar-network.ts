// SPDX-License-Identifier: Apache-2.0
// A pod with a sidecar and somebody outside, each in a namespace of its own, and who answers when one of them connects.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { promisify } from "node:util";
import { TestNetns, TOOL_PATH } from "../redirection/test-netns.ts";

const execFileAsync = promisify(execFile);

/** Who is where: the pod has two interfaces. */
export const ADDRESSES = {
  pod: { 4: "10.80.0.2", 6: "fd80::2" },
  /** Over eth1. */
  second: { 4: "10.81.0.2", 6: "fd81::2" },
  outside: { 4: "10.80.0.1", 6: "fd80::1" },
  outsideSecond: { 4: "10.81.0.1", 6: "fd81::1" },
} as const;

export const APP_PORT = 8080;
export const OUTSIDE_PORT = 9000;
/** More of both. */
const MORE_PORTS = [8081, 9001];
const STATUS_PORT = 15021;

/** Whose processes connect. */
export interface User {
  readonly uid: number;
  readonly gid: number;
}

export const PROXY: User = { uid: 1337, gid: 1337 };
export const APP: User = { uid: 1000, gid: 1000 };

export class SidecarNetwork implements Disposable {
  readonly pod: TestNetns;
  readonly outside: TestNetns;
  readonly #children: ChildProcess[] = [];

  private constructor(pod: TestNetns, outside: TestNetns) {
    this.pod = pod;
    this.outside = outside;
  }

  /** @param options.families of the pod's interfaces @param options.ownUsers the pod's, as with `hostUsers: false` */
  static async make({
    families = [4, 6],
    ownUsers = false,
  }: {
    families?: readonly (4 | 6)[];
    ownUsers?: boolean;
  } = {}): Promise<SidecarNetwork> {
    const network = new SidecarNetwork(await TestNetns.make({ ownUsers }), await TestNetns.make());
    await network.#connect(families);
    return network;
  }

  /** Everybody listens: the app, somebody outside, and a proxy unless it is said otherwise. */
  async listen({ proxy = true, dns = true }: { proxy?: boolean; dns?: boolean } = {}): Promise<void> {
    const outside = [OUTSIDE_PORT, ...MORE_PORTS, ...(dns ? [53] : [])];
    await this.#listen(this.pod, APP, { name: "app", tcp: [APP_PORT, ...MORE_PORTS], udp: [] });
    await this.#listen(this.outside, { uid: 0, gid: 0 }, { name: "outside", tcp: outside, udp: [53] });
    const tcp = [15001, 15006, STATUS_PORT, 15008, 15053];
    if (proxy) await this.#listen(this.pod, PROXY, { name: "proxy", tcp, udp: [15053] });
  }

  /**
   * Who answers a connection, `NAME PORT PEER`; `refused`: nobody listens, `silent`: no answer within two seconds.
   * @param protocol default tcp
   */
  async ask(
    from: "pod" | "outside",
    to: { readonly host: string; readonly port: number },
    { user = APP, protocol = "tcp" }: { readonly user?: User; readonly protocol?: "tcp" | "udp" } = {},
  ): Promise<string> {
    const script = `exec 3<>/dev/${protocol}/${to.host}/${to.port} || exit 7; echo question >&3; head -n 1 <&3`;
    const argv = [...this.#enter(this[from], user), "timeout", "2", "bash", "-c", script];
    const [command = "", ...args] = argv;
    try {
      const { stdout } = await execFileAsync(command, args, { env: { PATH: TOOL_PATH } });
      return stdout.trim();
    } catch (error) {
      const { code } = error as { code?: number };
      if (code === 7) return "refused";
      if (code === 124) return "silent";
      throw error;
    }
  }

  /**
   * Who answers what istio-validation asks before a pod's other containers start: the proxy's user connects to an address that nobody
   * listens on. Source: istio/istio tools/istio-iptables/pkg/validation.
   */
  async validate(family: 4 | 6): Promise<string> {
    const [host, localAddress] = family === 4 ? ["127.0.0.6", "127.0.0.1"] : ["::6", "::1"];
    const script = `require("net").connect(${JSON.stringify({ host, port: 15002, localAddress })})
      .on("error", ({ code }) => process.stdout.write(code)).pipe(process.stdout)`;
    const [command = "", ...args] = [...this.#enter(this.pod, PROXY), process.execPath, "-e", script];
    const { stdout } = await execFileAsync(command, args, { env: { PATH: TOOL_PATH }, timeout: 5_000 });
    return stdout.trim();
  }

  [Symbol.dispose](): void {
    for (const child of this.#children) child.kill("SIGKILL");
    this.pod[Symbol.dispose]();
    this.outside[Symbol.dispose]();
  }

  async #connect(families: readonly (4 | 6)[]): Promise<void> {
    const { pod, outside } = this;
    for (const [device, podSide, outsideSide] of [
      ["eth0", ADDRESSES.pod, ADDRESSES.outside],
      ["eth1", ADDRESSES.second, ADDRESSES.outsideSecond],
    ] as const) {
      await outside.run(`ip link add ${device} type veth peer name ${device} netns ${pod.pid}`);
      for (const [netns, side] of [
        [pod, podSide],
        [outside, outsideSide],
      ] as const) {
        if (families.includes(4)) await netns.run(`ip address add ${side[4]}/24 dev ${device}`);
        if (families.includes(6)) await netns.run(`ip address add ${side[6]}/64 dev ${device} nodad`);
        await netns.run(`ip link set ${device} up`);
      }
    }
    if (families.includes(4)) await pod.run(`ip route add default via ${ADDRESSES.outside[4]}`);
    if (families.includes(6)) await pod.run(`ip -6 route add default via ${ADDRESSES.outside[6]}`);
  }

  async #listen(
    netns: TestNetns,
    user: User,
    { name, tcp, udp }: { name: string; tcp: readonly number[]; udp: readonly number[] },
  ): Promise<void> {
    const script = join(import.meta.dirname, "sidecar-listener.ts");
    const argv = [...this.#enter(netns, user), process.execPath, script, name, tcp.join(), udp.join()];
    const [command = "", ...args] = argv;
    // its standard input ends with this process
    const child = spawn(command, args, { env: { PATH: TOOL_PATH }, stdio: ["pipe", "pipe", "inherit"] });
    this.#children.push(child);
    child.stdin?.on("error", () => {});
    const [first] = (await once(child.stdout!, "data")) as [Buffer];
    if (first.toString() !== "ready\n") throw new Error(`Cannot listen as ${name}: "${first}"`);
  }

  #enter({ pid, hasOwnUsers }: TestNetns, { uid, gid }: User): string[] {
    const users = hasOwnUsers ? [`--user=/proc/${pid}/ns/user`] : [];
    return [
      ...["nsenter", ...users, `--net=/proc/${pid}/ns/net`, "--"],
      ...[
        "setpriv",
        `--reuid=${uid}`,
        `--regid=${gid}`,
        "--clear-groups",
        "--ambient-caps=+net_bind_service",
      ],
      "--inh-caps=+net_bind_service",
    ];
  }
}
