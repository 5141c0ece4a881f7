// SPDX-License-Identifier: Apache-2.0
// Two pods and a node on a bridge, all in namespaces of their own, for tests of what the stand-in does at socket depth.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type Server, Socket, type SocketConstructorOpts } from "node:net";
import { promisify } from "node:util";
import { socketInNetns } from "../../../src/linux/native.ts";
import { Netns } from "../../../src/linux/netns.ts";

const run = promisify(execFile);

/** Addresses on the bridge; the node is the pods' default gateway. */
export const addresses = {
  node: { 4: "10.77.0.1", 6: "fd77::1" },
  a: { 4: "10.77.0.2", 6: "fd77::2" },
  b: { 4: "10.77.0.3", 6: "fd77::3" },
} as const;

export type Place = keyof typeof addresses;

// /run is a tmpfs that only this shell and its children see, so "ip netns" leaves nothing behind
const script = `
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip -6 addr add fd77::1/64 dev br0 nodad
ip link set br0 up
: > /run/netns/node
mount --bind /proc/self/ns/net /run/netns/node
number=2
for pod in a b; do
  ip netns add $pod
  ip link add veth-$pod type veth peer name eth0 netns $pod
  ip link set veth-$pod master br0 up
  ip -batch - -netns $pod <<END
link set lo up
addr add 10.77.0.$number/24 dev eth0
addr add fd77::$number/64 dev eth0 nodad
link set eth0 up
route add default via 10.77.0.1
route add ::/0 via fd77::1
END
  number=$((number + 1))
done
echo ready
exec cat >/dev/null
`;

/** The network; everything is gone when the test's process ends, however it ends. */
export class PodNetwork implements AsyncDisposable {
  readonly netns: Readonly<Record<Place, Netns>>;
  readonly #holder: ChildProcess;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
    const open = (place: Place) => Netns.open(`/proc/${holder.pid}/root/run/netns/${place}`);
    this.netns = { node: open("node"), a: open("a"), b: open("b") };
  }

  static async create(): Promise<PodNetwork> {
    const args = ["-mn", "--propagation", "private", "sh", "-c", script];
    const holder = spawn("unshare", args, { stdio: ["pipe", "pipe", "pipe"] });
    let errors = "";
    holder.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    const ended = once(holder, "close").then(() => {
      throw new Error(`Cannot create the pods' network: ${errors}`);
    });
    ended.catch(() => {});
    await Promise.race([once(holder.stdout, "data"), ended]);
    return new PodNetwork(holder);
  }

  /** Runs a program inside; @returns its output. @throws Error with its stderr when it fails */
  async exec(place: Place, command: readonly string[], input = ""): Promise<string> {
    const args = [`--net=/proc/${process.pid}/fd/${this.netns[place].fd}`, ...command];
    const running = run("nsenter", args, { timeout: 10_000 });
    // a program that does not read its input may be gone before it is written
    running.child.stdin?.on("error", () => {});
    running.child.stdin?.end(input);
    return (await running).stdout;
  }

  /** An app inside, on both families; `serve` gets each connection. Closed by `closeSockets`. */
  async listen(place: Place, port: number, serve: (client: Socket) => void): Promise<void> {
    const options = { family: 6, type: "stream", address: "::", port, v6only: false, backlog: 16 } as const;
    const fd = socketInNetns(this.netns[place].fd, { ...options, reuseAddress: true });
    const server = createServer({ allowHalfOpen: true }, (client) => {
      this.#track(client);
      serve(client);
    });
    this.#servers.push(server);
    server.listen({ fd });
    await once(server, "listening");
  }

  /** Connects from inside. @param from default: as the kernel chooses @throws Error with the code of the failed connection */
  async dial(
    place: Place,
    target: { address: string; port: number },
    from: { address?: string; port?: number } = {},
  ): Promise<Socket> {
    const family = target.address.includes(":") ? 6 : 4;
    const fd = socketInNetns(this.netns[place].fd, { family, type: "stream", ...from });
    const socket = new Socket({ fd, allowHalfOpen: true, manualStart: true } as SocketConstructorOpts);
    this.#track(socket);
    socket.connect({ host: target.address, port: target.port });
    await once(socket, "connect");
    return socket;
  }

  /** Ends the apps and connections made here. */
  closeSockets(): void {
    for (const server of this.#servers.splice(0)) server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.closeSockets();
    for (const netns of Object.values(this.netns)) netns.close();
    const closed = once(this.#holder, "close");
    this.#holder.kill("SIGKILL");
    await closed;
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
  }
}

/** Reads until the other side has ended; @throws Error when the connection breaks first */
export async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
