// SPDX-License-Identifier: Apache-2.0
// The SEQPACKET half of the addon against the kernel, one surprise of the kernel per test.
import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { NativeError } from "../../src/linux/native.ts";
import {
  connectSeqpacket,
  listenSeqpacket,
  type Packet,
  type SeqpacketConnection,
  type SeqpacketListener,
} from "../../src/linux/seqpacket.ts";
import { patience } from "../support/node/patience.ts";

const CHILD = join(import.meta.dirname, "seqpacket-child.ts");
const execFileAsync = promisify(execFile);
const MAX_PATH_BYTES = 107;

let folder: string;
let peerProgram: string;
let path: string;
let fdsBefore: number;
let number = 0;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-seqpacket-"));
  // Another user comes in, too.
  chmodSync(folder, 0o755);
  peerProgram = join(folder, "peer");
  execFileSync("gcc", ["-Wall", "-Werror", "-o", peerProgram, join(import.meta.dirname, "peer.c")]);
});

afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  path = join(folder, `${number++}.sock`);
  fdsBefore = countFds();
});

// Each test closes what it opened; what the addon keeps is a leak.
afterEach(() => expect(countFds()).toBe(fdsBefore));

function countFds(): number {
  return readdirSync("/proc/self/fd").length;
}

function text(data: string): Uint8Array {
  return new TextEncoder().encode(data);
}

function failure(call: () => unknown): NativeError {
  try {
    call();
  } catch (error) {
    if (error instanceof NativeError) return error;
    throw error;
  }
  throw new Error("no error");
}

/** Records what happens on a connection, and lets a test wait for it. */
class Recorder {
  readonly events: string[] = [];
  readonly packets: Packet[] = [];
  #wake = () => {};

  constructor(connection: SeqpacketConnection) {
    connection.onpacket = (packet) => {
      this.packets.push(packet);
      this.#note(`packet ${Buffer.from(packet.data).toString("latin1").slice(0, 10)}`);
    };
    connection.onend = () => this.#note("end");
    connection.ondrain = () => this.#note("drain");
    connection.onerror = (error) => this.#note(`error ${error.code}`);
  }

  #note(event: string): void {
    this.events.push(event);
    this.#wake();
  }

  async until(done: (recorder: Recorder) => boolean): Promise<void> {
    while (!done(this)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

interface Pair extends Disposable {
  readonly listener: SeqpacketListener;
  readonly server: SeqpacketConnection;
  readonly client: SeqpacketConnection;
  readonly atServer: Recorder;
  readonly atClient: Recorder;
}

async function connectPair(
  options: Parameters<typeof listenSeqpacket>[1] = {},
  clientOptions: Parameters<typeof connectSeqpacket>[1] = {},
): Promise<Pair> {
  const listener = listenSeqpacket(path, options);
  const client = connectSeqpacket(path, clientOptions);
  const [server, atServer] = await new Promise<[SeqpacketConnection, Recorder]>((resolve) => {
    listener.onconnection = (connection) => resolve([connection, new Recorder(connection)]);
  });
  return {
    listener,
    server,
    client,
    atServer,
    atClient: new Recorder(client),
    [Symbol.dispose]() {
      for (const one of [listener, server, client]) one.close();
    },
  };
}

function startChild(role: string, ...wrapper: string[]) {
  const argv = [...wrapper, process.execPath, CHILD, role, path];
  return execFileAsync(argv[0] as string, argv.slice(1), { timeout: 15_000 * patience() });
}

test("packets keep their boundaries and bytes in both directions when several are sent at once", async () => {
  using pair = await connectPair();
  for (const word of ["a", "bc", "def"]) expect(pair.client.send(text(word))).toBe(true);
  pair.server.send(Uint8Array.of(0, 255, 10, 0));
  await pair.atServer.until(({ packets }) => packets.length === 3);
  await pair.atClient.until(({ packets }) => packets.length === 1);
  expect(pair.atServer.events).toEqual(["packet a", "packet bc", "packet def"]);
  expect(pair.atClient.packets[0]).toEqual({
    data: Uint8Array.of(0, 255, 10, 0),
    truncated: false,
    controlTruncated: false,
    fds: [],
  });
});

test("a packet's data is the receiver's own when the next one arrives", async () => {
  using pair = await connectPair();
  pair.client.send(text("first"));
  pair.client.send(text("second"));
  await pair.atServer.until(({ packets }) => packets.length === 2);
  expect(pair.atServer.packets.map(({ data }) => Buffer.from(data).toString())).toEqual(["first", "second"]);
});

test("send takes a view of a larger buffer when only that part is meant", async () => {
  using pair = await connectPair();
  pair.client.send(Buffer.from("xxhelloxx").subarray(2, 7));
  await pair.atServer.until(({ packets }) => packets.length === 1);
  expect(pair.atServer.events).toEqual(["packet hello"]);
});

test("a descriptor arrives as a new close-on-exec number for the same file when sent with a packet", async () => {
  using pair = await connectPair();
  const fd = openSync("/proc/self/ns/net", "r");
  pair.client.send(text("ns"), fd);
  await pair.atServer.until(({ packets }) => packets.length === 1);
  const [received] = (pair.atServer.packets[0] as Packet).fds as [number];
  expect(received).not.toBe(fd);
  expect(fstatSync(received).ino).toBe(fstatSync(fd).ino);
  expect(readFileSync(`/proc/self/fdinfo/${received}`, "utf8")).toMatch(/^flags:\s+02/m);
  closeSync(fd);
  expect(fstatSync(received).isFile()).toBe(true);
  closeSync(received);
});

test("descriptors of a packet are closed when no handler is set", async () => {
  using listener = listenSeqpacket(path);
  const ended = new Promise<void>((resolve) => {
    listener.onconnection = (connection) => {
      connection.onend = () => {
        connection.close();
        resolve();
      };
    };
  });
  const client = connectSeqpacket(path);
  const fd = openSync("/dev/null", "r");
  client.send(text("x"), fd);
  closeSync(fd);
  client.close();
  await ended;
});

test.each([
  { maxFds: 0, sent: 1, received: 0, truncated: true },
  { maxFds: 1, sent: 1, received: 1, truncated: false },
  { maxFds: 1, sent: 3, received: 1, truncated: true },
  { maxFds: 3, sent: 3, received: 3, truncated: false },
  { maxFds: 253, sent: 253, received: 253, truncated: false },
])("$received of $sent descriptors arrive when $maxFds are accepted", async (row) => {
  using listener = listenSeqpacket(path, { maxFds: row.maxFds });
  const packet = new Promise<Packet>((resolve) => {
    listener.onconnection = (connection) => {
      connection.onpacket = (received) => {
        connection.close();
        resolve(received);
      };
    };
  });
  const peer = execFileAsync(peerProgram, [path, "fds", `${row.sent}`]);
  const { fds, controlTruncated, data } = await packet;
  await peer;
  expect({ received: fds.length, truncated: controlTruncated }).toEqual({
    received: row.received,
    truncated: row.truncated,
  });
  expect(Buffer.from(data).toString()).toBe("many");
  for (const fd of fds) closeSync(fd);
});

test.each([
  { bytes: 4, truncated: false },
  { bytes: 5, truncated: true },
  { bytes: 5_000, truncated: true },
])(
  "a packet of $bytes bytes is cut to the buffer and marked ($truncated) when the buffer holds 4",
  async (row) => {
    using pair = await connectPair({ maxPacketBytes: 4 });
    pair.client.send(new Uint8Array(row.bytes).fill(97));
    pair.client.send(text("next"));
    await pair.atServer.until(({ packets }) => packets.length === 2);
    expect(pair.atServer.packets.map(({ truncated }) => truncated)).toEqual([row.truncated, false]);
    expect(pair.atServer.events).toEqual(["packet aaaa", "packet next"]);
  },
);

test("a descriptor that comes with a cut packet is still handed over", async () => {
  using pair = await connectPair({ maxPacketBytes: 4 });
  const fd = openSync("/dev/null", "r");
  pair.client.send(text("too long"), fd);
  closeSync(fd);
  await pair.atServer.until(({ packets }) => packets.length === 1);
  const [packet] = pair.atServer.packets as [Packet];
  expect(packet.truncated).toBe(true);
  expect(packet.fds).toHaveLength(1);
  for (const one of packet.fds) closeSync(one);
});

test("the default buffer takes 64 KiB whole and a connection may send more than it can receive", async () => {
  using pair = await connectPair();
  pair.client.send(new Uint8Array(65_536));
  pair.client.send(new Uint8Array(65_537));
  await pair.atServer.until(({ packets }) => packets.length === 2);
  expect(pair.atServer.packets.map(({ data, truncated }) => [data.length, truncated])).toEqual([
    [65_536, false],
    [65_536, true],
  ]);
});

test("end is told once and send fails with EPIPE when the peer has closed", async () => {
  using pair = await connectPair();
  pair.client.close();
  await pair.atServer.until(({ events }) => events.includes("end"));
  expect(failure(() => pair.server.send(text("late"))).code).toBe("EPIPE");
  await new Promise((resolve) => setImmediate(resolve));
  expect(pair.atServer.events).toEqual(["end"]);
});

test("packets sent before the close arrive before the end", async () => {
  using pair = await connectPair();
  pair.client.send(text("bye"));
  pair.client.close();
  await pair.atServer.until(({ events }) => events.includes("end"));
  expect(pair.atServer.events).toEqual(["packet bye", "end"]);
});

test("an empty packet is refused before it reads as the end to the peer", async () => {
  using pair = await connectPair();
  expect(() => pair.client.send(new Uint8Array())).toThrow(RangeError);
});

test.each([{ fd: -1 }, { fd: 1.5 }, { fd: Number.NaN }])(
  "send refuses $fd as a descriptor",
  async ({ fd }) => {
    using pair = await connectPair();
    expect(() => pair.client.send(text("x"), fd)).toThrow(RangeError);
  },
);

test("send fails with EBADF and nothing is sent when the descriptor is not open", async () => {
  using pair = await connectPair();
  expect(failure(() => pair.client.send(text("x"), 999_999)).code).toBe("EBADF");
  pair.client.send(text("y"));
  await pair.atServer.until(({ packets }) => packets.length === 1);
  expect(pair.atServer.events).toEqual(["packet y"]);
});

test("send fails with EMSGSIZE when a packet is larger than the send buffer", async () => {
  using pair = await connectPair();
  expect(failure(() => pair.client.send(new Uint8Array(8 * 1024 * 1024)))).toMatchObject({
    code: "EMSGSIZE",
    syscall: "sendmsg",
    errno: -90,
  });
});

test.each([{ paused: false }, { paused: true }])(
  "a dead peer's last packets arrive, then the end, when it left ours unread (reading paused: $paused)",
  async ({ paused }) => {
    using listener = listenSeqpacket(path);
    const accepted = new Promise<[SeqpacketConnection, Recorder]>((resolve) => {
      listener.onconnection = (connection) => {
        if (paused) connection.setReading(false);
        resolve([connection, new Recorder(connection)]);
      };
    });
    const child = spawn(process.execPath, [CHILD, "lastWords", path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [server, recorder] = await accepted;
    server.send(text("never read"));
    await once(child.stdout, "data");
    child.kill("SIGKILL");
    await once(child, "exit");
    server.setReading(true);
    await recorder.until(({ events }) => events.includes("end"));
    expect(recorder.events).toEqual(["packet one", "packet two", "packet three", "end"]);
    server.close();
  },
);

test("send returns false when the peer does not read, and drain follows once it does", async () => {
  using pair = await connectPair();
  pair.server.setReading(false);
  let sent = 0;
  while (pair.client.send(text(`packet ${sent}`.padEnd(100)))) sent++;
  expect(sent).toBeGreaterThan(50);
  expect(pair.client.send(text("also refused"))).toBe(false);
  await new Promise((resolve) => setImmediate(resolve));
  expect(pair.atClient.events).toEqual([]);
  pair.server.setReading(true);
  await pair.atClient.until(({ events }) => events.includes("drain"));
  expect(pair.client.send(text("after"))).toBe(true);
  await pair.atServer.until(({ packets }) => packets.length === sent + 1);
  const got = pair.atServer.packets.map(({ data }) => Buffer.from(data).toString().trimEnd());
  expect(got).toEqual([...Array.from({ length: sent }, (_, index) => `packet ${index}`), "after"]);
  expect(pair.atClient.events).toEqual(["drain"]);
});

test("a refused packet's descriptor stays the sender's and is not in flight", async () => {
  using pair = await connectPair();
  pair.server.setReading(false);
  while (pair.client.send(text("x".repeat(1_000))));
  const fd = openSync("/dev/null", "r");
  expect(pair.client.send(text("x"), fd)).toBe(false);
  closeSync(fd);
});

test("drain and the failure of the next send are told when the peer dies while we wait for room", async () => {
  using pair = await connectPair();
  pair.server.setReading(false);
  while (pair.client.send(text("x".repeat(1_000))));
  pair.server.close();
  await pair.atClient.until(({ events }) => events.includes("end"));
  expect(["EPIPE", "ECONNRESET"]).toContain(failure(() => pair.client.send(text("x"))).code);
});

test("nothing is read while reading is off, and all of it after", async () => {
  using pair = await connectPair();
  pair.server.setReading(false);
  for (const word of ["1", "2", "3"]) pair.client.send(text(word));
  pair.client.close();
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(pair.atServer.events).toEqual([]);
  pair.server.setReading(true);
  await pair.atServer.until(({ events }) => events.includes("end"));
  expect(pair.atServer.events).toEqual(["packet 1", "packet 2", "packet 3", "end"]);
});

test("reading stops at once when it is switched off inside a handler", async () => {
  using pair = await connectPair();
  const got: string[] = [];
  pair.server.onpacket = ({ data }) => {
    got.push(Buffer.from(data).toString());
    pair.server.setReading(false);
  };
  for (const word of ["1", "2", "3"]) pair.client.send(text(word));
  while (got.length === 0) await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  expect(got).toEqual(["1"]);
  pair.server.setReading(true);
  while (got.length === 1) await new Promise((resolve) => setImmediate(resolve));
  expect(got).toEqual(["1", "2"]);
});

test("no handler is called any more when one has closed the connection", async () => {
  using pair = await connectPair();
  const got: string[] = [];
  pair.server.onpacket = ({ data }) => {
    got.push(Buffer.from(data).toString());
    pair.server.close();
    pair.server.close();
  };
  pair.server.onend = () => got.push("end");
  for (const word of ["1", "2", "3"]) pair.client.send(text(word));
  await pair.atClient.until(({ events }) => events.includes("end"));
  expect(got).toEqual(["1"]);
});

test("a closed connection answers calls with errors and not with a crash", async () => {
  using pair = await connectPair();
  pair.client.close();
  expect(failure(() => pair.client.send(text("x"))).code).toBe("EPIPE");
  expect(failure(() => pair.client.peer()).code).toBe("ENOTCONN");
  pair.client.setReading(true);
  pair.client.ref();
  pair.client.unref();
  pair.client[Symbol.dispose]();
  pair.listener.close();
  pair.listener.setReading(true);
  pair.listener.close();
});

test("a listener closed in its handler accepts no further peer", async () => {
  const listener = listenSeqpacket(path);
  const clients = [connectSeqpacket(path), connectSeqpacket(path)];
  let accepted = 0;
  listener.onconnection = (connection) => {
    accepted++;
    listener.close();
    connection.close();
  };
  await Promise.all(
    clients.map(
      (client) =>
        new Promise<void>((resolve) => {
          client.onend = resolve;
        }),
    ),
  );
  expect(accepted).toBe(1);
  for (const client of clients) client.close();
});

test("peer gives the credentials of the process on the other side", async () => {
  using pair = await connectPair();
  const expected = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() };
  expect(pair.server.peer()).toEqual(expected);
  expect(pair.client.peer()).toEqual(expected);
});

test("peer gives the ids of another user's process", async () => {
  const umask = process.umask(0);
  using listener = listenSeqpacket(path, { mode: 0o777 });
  process.umask(umask);
  const peer = new Promise<ReturnType<SeqpacketConnection["peer"]>>((resolve) => {
    listener.onconnection = (connection) => {
      resolve(connection.peer());
      connection.close();
    };
  });
  const other = spawn(peerProgram, [path, "user", "1000", "1001"], { stdio: "ignore" });
  const exited = once(other, "exit");
  expect(await peer).toEqual({ pid: other.pid, uid: 1000, gid: 1001 });
  expect(await exited).toEqual([0, null]);
});

test.each([{ mode: 0o600 }, { mode: 0o640 }, { mode: 0o700 }, { mode: 0 }])(
  "the socket file has mode $mode as asked",
  ({ mode }) => {
    using _ = listenSeqpacket(path, { mode });
    expect(statSync(path).mode & 0o777).toBe(mode);
    expect(statSync(path).isSocket()).toBe(true);
  },
);

test("the socket file is closed to others when no mode is asked for", () => {
  using _ = listenSeqpacket(path);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test("listening and accepted sockets are close-on-exec and non-blocking", async () => {
  using pair = await connectPair();
  expect(pair.listener).toBeDefined();
  const sockets = readdirSync("/proc/self/fdinfo").flatMap((fd) => {
    try {
      const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
      return fstatSync(Number(fd)).isSocket() ? [{ fd: Number(fd), info }] : [];
    } catch {
      return [];
    }
  });
  const ours = sockets.sort((a, b) => b.fd - a.fd).slice(0, 3);
  expect(ours).toHaveLength(3);
  for (const { info } of ours) expect(info).toMatch(/^flags:\s+02004002$/m);
});

test.each([
  { what: "the file exists", at: () => "/dev/null", code: "EADDRINUSE" },
  { what: "the folder is missing", at: () => join(folder, "no", "x.sock"), code: "ENOENT" },
  { what: "the path is empty", at: () => "", code: "EINVAL" },
  { what: "the path is too long", at: () => join(folder, "x".repeat(MAX_PATH_BYTES)), code: "ENAMETOOLONG" },
  { what: "a folder on the way is a file", at: () => "/dev/null/x.sock", code: "ENOTDIR" },
])("listen fails with $code and names the path when $what", ({ at, code }) => {
  const error = failure(() => listenSeqpacket(at(), {}));
  expect(error).toMatchObject({ code, syscall: "bind", name: "NativeError" });
  expect(error.errno).toBeLessThan(0);
  expect(error.message).toContain(`Cannot listen at "${at()}": bind: ${code} (`);
});

test("listen takes a path of 107 bytes and not of 108", () => {
  const longest = join(folder, "x".repeat(MAX_PATH_BYTES - folder.length - 1));
  expect(longest).toHaveLength(MAX_PATH_BYTES);
  listenSeqpacket(longest, {}).close();
  expect(existsSync(longest)).toBe(true);
  expect(failure(() => listenSeqpacket(`${longest}x`, {})).code).toBe("ENAMETOOLONG");
});

test("listen fails with EADDRINUSE on its own stale file and works once that is unlinked", () => {
  listenSeqpacket(path, {}).close();
  expect(failure(() => listenSeqpacket(path, {})).code).toBe("EADDRINUSE");
  rmSync(path);
  listenSeqpacket(path, {}).close();
});

test.each([{ call: listenSeqpacket }, { call: connectSeqpacket }])(
  "a path with NUL is refused",
  ({ call }) => {
    expect(() => call("\0abstract", {})).toThrow(RangeError);
  },
);

test("connect fails with ENOENT when there is no file and ECONNREFUSED when nobody listens", () => {
  expect(failure(() => connectSeqpacket(path))).toMatchObject({ code: "ENOENT", syscall: "connect" });
  listenSeqpacket(path, {}).close();
  expect(failure(() => connectSeqpacket(path)).code).toBe("ECONNREFUSED");
});

test("connect fails with EPROTOTYPE when a stream socket listens", async () => {
  const server = createServer().listen(path);
  await once(server, "listening");
  expect(failure(() => connectSeqpacket(path)).code).toBe("EPROTOTYPE");
  server.close();
  await once(server, "close");
});

test("connect fails with EAGAIN and does not wait when the backlog is full", () => {
  using _ = listenSeqpacket(path, { backlog: 1 });
  const clients: SeqpacketConnection[] = [];
  const error = failure(() => {
    for (let i = 0; i < 10; i++) clients.push(connectSeqpacket(path));
  });
  expect(error.code).toBe("EAGAIN");
  expect(clients.length).toBeGreaterThan(0);
  for (const client of clients) client.close();
});

test("a listener waits with its peers while reading is off", async () => {
  using listener = listenSeqpacket(path);
  listener.setReading(false);
  let accepted = 0;
  listener.onconnection = (connection) => {
    accepted++;
    connection.close();
  };
  using client = connectSeqpacket(path);
  const recorder = new Recorder(client);
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(accepted).toBe(0);
  listener.setReading(true);
  await recorder.until(({ events }) => events.includes("end"));
  expect(accepted).toBe(1);
});

test("a connection is closed when no handler takes it", async () => {
  using _ = listenSeqpacket(path);
  using client = connectSeqpacket(path);
  const recorder = new Recorder(client);
  await recorder.until(({ events }) => events.includes("end"));
});

test("EMFILE is told once and without spinning, and the listener works again when there is room", async () => {
  const { stdout } = await startChild("outOfDescriptors", "prlimit", "--nofile=64:64");
  const { errors, acceptedWhenFull, accepted, cpuMs } = JSON.parse(stdout);
  expect({ errors, acceptedWhenFull, accepted }).toEqual({
    errors: ["fill: EMFILE", "accept4: EMFILE"],
    acceptedWhenFull: 0,
    accepted: 1,
  });
  expect(cpuMs).toBeLessThan(100);
});

test("what handlers throw reaches uncaughtException and no descriptor is lost", async () => {
  const { stdout } = await startChild("throwing");
  expect(JSON.parse(stdout)).toEqual({
    thrown: ["connection", "end", "packet", "packet", "refused"],
    leaked: 0,
  });
});

test("the process ends with the asked status when handles are open", async () => {
  await expect(startChild("exitInHandler")).rejects.toMatchObject({ code: 7, signal: null, stderr: "" });
});

test("the process ends by itself when all handles are unreferenced", async () => {
  expect(await startChild("naturalEnd")).toEqual({ stdout: "accepted\n", stderr: "" });
});

test("open connections outlive all references to them and are collected after the close", async () => {
  const { stdout } = await startChild("collect");
  expect(JSON.parse(stdout)).toEqual({ echoed: 10, collected: 10 });
});

test("a peer that never saw our code talks with us", async () => {
  using listener = listenSeqpacket(path);
  const ended = new Promise<void>((resolve) => {
    listener.onconnection = (connection) => {
      connection.onpacket = ({ data }) => connection.send(Buffer.concat([Buffer.from("echo "), data]));
      connection.onend = () => {
        connection.close();
        resolve();
      };
    };
  });
  expect((await execFileAsync(peerProgram, [path, "hello"])).stdout).toBe("echo hi\n");
  await ended;
});
