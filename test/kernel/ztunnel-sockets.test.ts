// SPDX-License-Identifier: Apache-2.0
// The stand-in at socket depth on a real kernel: two pods on a bridge, the in-pod rules written out by hand, so that
// neither src/redirection nor the stand-in is tested by itself. Root; namespaces of its own.
import { createSocket, type Socket as DgramSocket } from "node:dgram";
import { once } from "node:events";
import type { Socket } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { socketInNetns } from "../../src/linux/native.ts";
import type { KnownWorkload } from "../support/ztunnel/known-workloads.ts";
import { PodNamespaces } from "../support/ztunnel/pod-namespaces.ts";
import { addresses, type Place, PodNetwork, readAll } from "../support/ztunnel/pod-network.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import type { StandInOptions } from "../support/ztunnel/stand-in-options.ts";
import { eventually, outcomeOf, podEntry, ZdsHarness } from "../support/ztunnel/zds-harness.ts";

const families = [4, 6] as const;
const appPort = 8080;

let network: PodNetwork;
let harness: ZdsHarness;
let ztunnel: StandIn;

beforeAll(async () => {
  network = await PodNetwork.create();
  for (const place of ["a", "b"] as const) {
    await network.exec(place, ["iptables-restore", "--noflush"], rules(4));
    await network.exec(place, ["ip6tables-restore", "--noflush"], rules(6));
    for (const family of families) await addRouting(place, family);
  }
});

afterAll(async () => {
  await network[Symbol.asyncDispose]();
});

beforeEach(() => {
  harness = new ZdsHarness();
  harness.server.listen();
});

afterEach(async () => {
  network.closeSockets();
  await harness.close();
});

async function startZtunnel(
  options: Partial<StandInOptions> = {},
  places: Place[] = ["a", "b"],
): Promise<void> {
  for (const place of places) harness.server.hold(podEntry(place, network.netns[place]));
  ztunnel = await harness.standIn({ depth: "sockets", retryMs: 100, ...options });
  await ztunnel.waitForReady();
  await eventually("live", () => harness.server.ready);
}

async function portsOf(
  place: Place,
): Promise<
  Record<string, { connections: number; fromClientBytes: number; toClientBytes: number; failures: number }>
> {
  return (await ztunnel.stats()).workloads[place]?.ports ?? {};
}

/** Connections of a pod to other pods' 15008. */
async function pooledConnections(place: Place): Promise<string[]> {
  const listed = await network.exec(place, ["ss", "-Hnt", "state", "established", "dport", "=", ":15008"]);
  return listed.split("\n").filter((line) => line !== "");
}

/** An app that says whom it sees, then sends everything back. */
function echo(client: Socket): void {
  client.write(`${client.remoteAddress?.replace("::ffff:", "")}\n`);
  client.pipe(client);
}

/** Sends a text through the echo app; @returns the address the app saw and the text it sent back. */
async function ask(
  from: Place,
  to: { address: string; port: number },
  text: string,
): Promise<[string, string]> {
  const socket = await network.dial(from, to);
  socket.end(text);
  const answer = (await readAll(socket)).toString();
  const line = answer.indexOf("\n");
  return [answer.slice(0, line), answer.slice(line + 1)];
}

describe("the sockets", () => {
  test("are ztunnel's: addresses, mark and nothing else", async () => {
    await startZtunnel();
    const listed = await network.exec("a", ["ss", "-Hlntue"]);
    const found = listed
      .trim()
      .split("\n")
      .map((line) => {
        const columns = line.trim().split(/\s+/);
        return `${columns[0]} ${columns[4]} ${/fwmark:\S+/.exec(line)?.[0]}`;
      });
    expect(found.sort()).toEqual([
      "tcp *:15001 fwmark:0x539",
      "tcp *:15006 fwmark:0x539",
      "tcp *:15008 fwmark:0x539",
      "tcp 127.0.0.1:15053 fwmark:0x539",
      "tcp [::1]:15053 fwmark:0x539",
      "udp 127.0.0.1:15053 fwmark:0x539",
      "udp [::1]:15053 fwmark:0x539",
    ]);
    await harness.server.remove("a");
    expect(await network.exec("a", ["ss", "-Hlntu"])).toBe("");
  });

  test("share their ports with another ztunnel's, unless that is the fault to show", async () => {
    await startZtunnel({}, ["a"]);
    const second = await harness.standIn({ depth: "sockets" });
    await second.waitForReady();
    const third = await harness.standIn({ depth: "sockets", faults: ["no-reuseport"], retryMs: 60_000 });
    const refused = await third.waitFor((event) => event.event === "response" && event.to === "add");
    expect(refused.error).toBe(
      'failure to start proxy : Bind(127.0.0.1:15053, Os { code: 98, kind: AddrInUse, message: "Address already in use" })',
    );
    expect((await third.stats()).ready).toBe(false);
  });

  test("are refused while someone has the port, leave nothing behind, and are opened at the next try when it is free", async () => {
    await network.listen("a", 15006, (client) => client.destroy());
    ztunnel = await harness.standIn({ depth: "sockets", retryMs: 100 });
    await ztunnel.waitForReady();
    await eventually("live", () => harness.server.ready);
    const before = (await ztunnel.stats()).openFds;
    const outcome = await outcomeOf(harness.server.add(podEntry("a", network.netns.a)));
    expect(outcome.code).toBe("NACK");
    expect(outcome.message).toContain("failure to start proxy : Bind([::]:15006, Os { code: 98");
    expect((await ztunnel.stats()).ready).toBe(true);
    // neither the namespace for a retry of its own, nor the sockets opened so far
    expect(await ztunnel.stats()).toMatchObject({ openFds: before, pending: [] });
    network.closeSockets();
    await harness.server.add(podEntry("a", network.netns.a));
    expect((await network.exec("a", ["ss", "-Hlntu"])).trim().split("\n")).toHaveLength(7);
    await harness.server.remove("a");
    expect((await ztunnel.stats()).openFds).toBe(before);
  });

  test("stay when ZDS is lost", async () => {
    await startZtunnel();
    await network.listen("b", appPort, echo);
    await harness.server.close();
    await ztunnel.waitFor((event) => event.event === "ready" && event.ready === false);
    expect(await ask("a", { address: addresses.b[4], port: appPort }, "on")).toEqual([addresses.a[4], "on"]);
  });

  test("go at SIGTERM, and the process when the last open connection has ended", async () => {
    await startZtunnel();
    await network.listen("b", appPort, echo);
    const target = { address: addresses.b[4], port: appPort };
    const open = await network.dial("a", target);
    await once(open, "data");
    ztunnel.terminate();
    await ztunnel.waitForEvent("close");
    await expect.poll(() => network.exec("b", ["ss", "-Hlntu", "sport", ">=", ":15000"])).toBe("");
    await expect(network.dial("a", target)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    const answer = readAll(open);
    open.end("still");
    expect((await answer).toString()).toBe("still");
    expect(await ztunnel.exited).toEqual({ code: 0, signal: null });
  });

  test("go at SIGTERM, and open connections with them when they last too long", async () => {
    await startZtunnel({ terminationMs: 200 });
    await network.listen("b", appPort, echo);
    const open = await network.dial("a", { address: addresses.b[4], port: appPort });
    await once(open, "data");
    ztunnel.terminate();
    await readAll(open);
    expect(await ztunnel.exited).toEqual({ code: 0, signal: null });
  });

  test("serve IPv6 only where the namespace says so", async () => {
    await network.exec("b", ["sysctl", "-qw", "net.ipv6.bindv6only=1"]);
    try {
      await startZtunnel({}, ["b"]);
      await network.listen("b", appPort, echo);
      await expect(network.dial("node", { address: addresses.b[4], port: appPort })).rejects.toMatchObject({
        code: "ECONNREFUSED",
      });
      expect(await ask("node", { address: addresses.b[6], port: appPort }, "on")).toEqual([
        addresses.node[6],
        "on",
      ]);
    } finally {
      await network.exec("b", ["sysctl", "-qw", "net.ipv6.bindv6only=0"]);
    }
  });

  test.each([
    ["has no ::1", "ip addr del ::1/128 dev lo", "[::1]:15053"],
    ["has no 127.0.0.1", "ip addr del 127.0.0.1/8 dev lo", "127.0.0.1:15053"],
    ["is down", "ip link set lo down", "[::1]:15053"],
  ])("are refused where the loopback interface %s", async (_name, command, where) => {
    await using pods = await PodNamespaces.create(1);
    using netns = pods.open(0);
    await startZtunnel({ allow: ["lo-down"] }, []);
    await network.exec("node", ["nsenter", `--net=${pods.path(0)}`, "sh", "-c", command]);
    const outcome = await outcomeOf(harness.server.add(podEntry("bare", netns)));
    const why = 'Os { code: 99, kind: AddrNotAvailable, message: "Cannot assign requested address" }';
    expect(outcome.message).toContain(`failure to start proxy : Bind(${where}, ${why})`);
  });

  test("a namespace without IPv6 gets the IPv4 ones", async () => {
    await using pods = await PodNamespaces.create(1);
    using netns = pods.open(0);
    await startZtunnel({}, []);
    await network.exec("node", [
      "nsenter",
      `--net=${pods.path(0)}`,
      "sh",
      "-c",
      "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    ]);
    await harness.server.add(podEntry("v4", netns));
    const listed = await network.exec("node", ["nsenter", `--net=${pods.path(0)}`, "ss", "-Hlntu"]);
    expect(listed).toContain("127.0.0.1:15053");
    expect(listed).not.toContain("[::1]");
    expect(listed.trim().split("\n")).toHaveLength(5);
  });
});

/**
 * The error that ends a connection; a reset may come before or after the dialling side has seen it established. Text that the other
 * side's end has overtaken is no longer answered with one: that connection is over without an error, and another is dialled.
 */
async function resetOf(dial: () => Promise<Socket>, text = ""): Promise<unknown> {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      const socket = await dial();
      if (text !== "") socket.end(text);
      // rejects with the error
      await once(socket, "close");
    } catch (error) {
      return error;
    }
  }
  return new Error("no connection was reset");
}

describe.each(families)("traffic over IPv%i", (family) => {
  const app = { address: addresses.b[family], port: appPort };

  test("without a ztunnel the rules refuse it", async () => {
    await network.listen("b", appPort, echo);
    await expect(network.dial("a", app)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    await expect(network.dial("node", app)).rejects.toMatchObject({ code: "ECONNREFUSED" });
  });

  test.each([
    ["15006 of the other pod", false, "15006"],
    ["15008 of the other pod", true, "15008"],
  ])("pod to pod goes through 15001 and %s, and the app sees the client", async (_name, hbone, inbound) => {
    await startZtunnel({ hbone });
    await network.listen("b", appPort, echo);
    const text = "x".repeat(300_000);
    expect(await ask("a", app, text)).toEqual([addresses.a[family], text]);
    const answerBytes = addresses.a[family].length + 1 + text.length;
    await ztunnel.waitForStats(({ workloads }) => workloads.b?.openConnections === 0);
    expect(await portsOf("a")).toEqual({
      "15001": { connections: 1, failures: 0, fromClientBytes: text.length, toClientBytes: answerBytes },
    });
    const ports = await portsOf("b");
    expect(Object.keys(ports)).toEqual([inbound]);
    expect(ports[inbound]).toMatchObject({ connections: 1, failures: 0, toClientBytes: answerBytes });
    expect(ports[inbound]?.fromClientBytes).toBe(text.length);
  });

  test("tunnels share a connection that stays when they have ended, until a pod goes", async () => {
    await startZtunnel();
    await network.listen("b", appPort, echo);
    const target = { address: app.address, port: appPort };
    const texts = ["one", "two", "three"];
    const answers = await Promise.all(texts.map((text) => ask("a", target, text)));
    expect(answers).toEqual(texts.map((text) => [addresses.a[family], text]));
    expect(await ask("a", target, "four")).toEqual([addresses.a[family], "four"]);
    expect(await portsOf("b")).toMatchObject({ "15008": { connections: 4 } });
    const { workloads } = await ztunnel.stats();
    expect(workloads.a?.hbone).toEqual({ outbound: 1, inbound: 0 });
    expect(workloads.b?.hbone).toEqual({ outbound: 0, inbound: 1 });
    expect(await pooledConnections("a")).toHaveLength(1);
    await harness.server.remove("b");
    await expect.poll(() => pooledConnections("a")).toEqual([]);
    expect((await ztunnel.stats()).workloads.a?.hbone).toEqual({ outbound: 0, inbound: 0 });
  });

  test("a connection whose other end is gone without a word is kept, and costs the next request", async () => {
    await startZtunnel();
    await network.listen("b", appPort, echo);
    await ask("a", app, "one");
    await network.exec("node", ["ip", "link", "set", "veth-b", "down"]);
    await network.exec("b", ["ss", "-K", "sport", "=", ":15008"]);
    await ztunnel.waitForStats(({ workloads }) => workloads.b?.hbone.inbound === 0);
    await network.exec("node", ["ip", "link", "set", "veth-b", "up"]);
    expect(await pooledConnections("a")).toHaveLength(1);
    expect(await resetOf(() => network.dial("a", app), "two")).toMatchObject({ code: "ECONNRESET" });
    expect(await ask("a", app, "three")).toEqual([addresses.a[family], "three"]);
  });

  test("from outside the mesh it is captured at 15006, with the client's address", async () => {
    await startZtunnel({ hbone: true });
    await network.listen("b", appPort, echo);
    expect(await ask("node", app, "hello")).toEqual([addresses.node[family], "hello"]);
    expect(await portsOf("b")).toMatchObject({ "15006": { connections: 1, fromClientBytes: 5 } });
    expect(await portsOf("a")).toEqual({});
  });

  test("to outside the mesh it is captured at 15001 and goes straight on", async () => {
    await startZtunnel({ hbone: true });
    await network.listen("node", appPort, echo);
    const target = { address: addresses.node[family], port: appPort };
    expect(await ask("a", target, "hello")).toEqual([addresses.a[family], "hello"]);
    expect(await portsOf("a")).toMatchObject({ "15001": { connections: 1, fromClientBytes: 5 } });
  });

  test("an app that is not there is an end, a reset for what was sent, and half-closed connections stay open", async () => {
    await startZtunnel({}, ["b"]);
    expect(await readAll(await network.dial("node", app))).toHaveLength(0);
    expect(await resetOf(() => network.dial("node", app), "hello")).toMatchObject({ code: "ECONNRESET" });
    const { connections, failures } = (await portsOf("b"))["15006"] ?? {};
    expect(connections).toBeGreaterThanOrEqual(2);
    expect(failures).toBe(connections);
    const held = Promise.withResolvers<Socket>();
    await network.listen("b", appPort, (client) => {
      client.resume();
      client.once("end", () => held.resolve(client));
    });
    const halfClosed = await network.dial("node", app);
    halfClosed.end("that is all");
    (await held.promise).end("thank you");
    expect((await readAll(halfClosed)).toString()).toBe("thank you");
  });

  test.each(["a", "node"] as const)(
    "a removed pod's connections end at once, that from %s too",
    async (from) => {
      await startZtunnel();
      await network.listen("b", appPort, echo);
      const socket = await network.dial(from, app);
      await once(socket, "data");
      expect((await ztunnel.stats()).workloads.b?.openConnections).toBe(1);
      const rest = readAll(socket);
      await harness.server.remove("b");
      // no reset: that would reject
      expect(await rest).toHaveLength(0);
      socket.end();
      await ztunnel.waitForStats(({ workloads }) => (workloads.a?.openConnections ?? 0) === 0);
    },
  );

  test("a removed pod leaves no descriptor", async () => {
    await startZtunnel();
    await network.listen("b", appPort, echo);
    const socket = await network.dial("a", app);
    await once(socket, "data");
    const before = await ztunnel.stats();
    await harness.server.remove("b");
    await once(socket.resume(), "end");
    socket.end();
    // a namespace, seven listening sockets, the tunnel's connection and the app's in b, and two ends in a
    await ztunnel.waitForStats((stats) => stats.openFds === before.openFds - 12);
  });

  test("inbound can be refused, for tests that look for another way in", async () => {
    await startZtunnel({ refuseInbound: true }, ["b"]);
    await network.listen("b", appPort, echo);
    expect(await resetOf(() => network.dial("node", app))).toMatchObject({ code: "ECONNRESET" });
    await ztunnel.command({ do: "refuse-inbound", on: false });
    expect(await ask("node", app, "now")).toEqual([addresses.node[family], "now"]);
  });

  test.each([15001, 15006, 15008])("a connection straight to %i gets nothing", async (port) => {
    await startZtunnel({}, ["b"]);
    const socket = await network.dial("node", { address: addresses.b[family], port });
    socket.end("GET / HTTP/1.0\r\n\r\n");
    // it ends, with a reset or without, and with no answer but that the protocol is another one
    const answer = await readAll(socket).catch(() => Buffer.alloc(0));
    expect(answer.length).toBeLessThan(100);
    await ztunnel.waitForStats(({ workloads }) => workloads.b?.ports[port]?.failures === 1);
  });
});

describe("what the mesh knows", () => {
  const app = { address: addresses.b[4], port: appPort };
  const known = (place: "a" | "b"): KnownWorkload => ({
    namespace: "shop",
    name: `name-${place}`,
    addresses: Object.values(addresses[place]),
  });
  const [a, b] = [known("a"), known("b")];

  test("connections of a pod that is not known wait until it is", async () => {
    await startZtunnel({ workloads: [a] });
    await network.listen("b", appPort, echo);
    const answer = ask("node", app, "patience");
    await ztunnel.waitForStats(({ workloads }) => workloads.b?.openConnections === 1);
    await ztunnel.command({ do: "workloads", set: [a, b] });
    expect(await answer).toEqual([addresses.node[4], "patience"]);
  });

  test("connections of a pod that stays unknown end after 5 s", async () => {
    await startZtunnel({ workloads: [a] });
    const start = performance.now();
    expect(await readAll(await network.dial("node", app))).toHaveLength(0);
    expect(performance.now() - start).toBeGreaterThan(4900);
    expect(await portsOf("b")).toMatchObject({ "15006": { failures: 1 } });
  }, 10_000);

  test("decides who is spoken to in HBONE, whoever holds the pod", async () => {
    await startZtunnel({ workloads: [a, { ...b, protocol: "TCP" }] });
    await network.listen("b", appPort, echo);
    await ask("a", app, "plain");
    expect(Object.keys(await portsOf("b"))).toEqual(["15006"]);
    await ztunnel.command({ do: "workloads", set: [a, b] });
    await ask("a", app, "tunnel");
    expect(Object.keys(await portsOf("b"))).toEqual(["15006", "15008"]);
    await harness.server.remove("b");
    // the mesh still says HBONE: that is refused
    expect(await resetOf(() => network.dial("a", app), "nobody")).toMatchObject({ code: "ECONNRESET" });
  });
});

describe.each(families)("DNS over IPv%i", (family) => {
  const resolver = family === 4 ? "10.77.0.53" : "fd77::53";
  const dns = ["web.shop=10.77.0.3", "web.shop=fd77::3", "only4.shop=10.77.0.9"];

  test.each(["udp", "tcp"] as const)(
    "a pod's %s queries are answered from the table, whatever the resolver",
    async (transport) => {
      await startZtunnel({ dns }, ["a"]);
      const query = (name: string, type: number) => queryDns({ family, resolver, transport, name, type });
      expect(await query("web.shop", 1)).toEqual({ code: 0, records: ["0a4d0003"] });
      expect(await query("WEB.shop", 28)).toEqual({ code: 0, records: ["fd770000000000000000000000000003"] });
      expect(await query("only4.shop", 28)).toEqual({ code: 0, records: [] });
      expect((await ztunnel.stats()).workloads.a?.dnsQueries).toBe(3);
    },
  );

  test.each(["udp", "tcp"] as const)(
    "other %s questions are passed on from inside the pod",
    async (transport) => {
      const nameserver = addresses.node[family];
      await startZtunnel({ dns, nameservers: [nameserver] }, ["a"]);
      await using upstream = await Nameserver.start(family);
      const query = (name: string, type: number) => queryDns({ family, resolver, transport, name, type });
      expect(await query("unknown.shop", 1)).toEqual({ code: 3, records: [] });
      expect(await query("web.shop", 16)).toEqual({ code: 3, records: [] });
      expect(upstream.clients).toEqual([addresses.a[family], addresses.a[family]]);
    },
  );

  test("other questions get no answer when nobody has one", async () => {
    await startZtunnel({ dns, nameservers: [addresses.node[family]] }, ["a"]);
    const unanswered = queryDns({ family, resolver, transport: "udp", name: "unknown.shop", type: 1 });
    await expect(unanswered).rejects.toMatchObject({ name: "AbortError" });
  });
});

test("110 pods fit into one stand-in, and leave no descriptor", async () => {
  await using pods = await PodNamespaces.create(110);
  const handles = Array.from({ length: 110 }, (_, index) => pods.open(index));
  try {
    ztunnel = await harness.standIn({ depth: "sockets" });
    await ztunnel.waitForReady();
    const before = (await ztunnel.stats()).openFds;
    await eventually("live", () => harness.server.ready);
    await Promise.all(handles.map((netns, index) => harness.server.add(podEntry(`p${index}`, netns))));
    const full = await ztunnel.stats();
    expect(full.openFds).toBe(before + 110 * 8);
    expect(full.ready).toBe(true);
    await Promise.all(handles.map((_, index) => harness.server.remove(`p${index}`)));
    expect((await ztunnel.stats()).openFds).toBe(before);
  } finally {
    for (const handle of handles) handle.close();
  }
}, 60_000);

/** A nameserver on the node that knows no name, and remembers who asked. */
class Nameserver implements AsyncDisposable {
  readonly clients: string[] = [];
  readonly #socket: DgramSocket;

  private constructor(socket: DgramSocket) {
    this.#socket = socket;
    socket.on("message", (query, { address, port }) => {
      this.clients.push(address);
      query.writeUInt16BE(0x8183, 2);
      socket.send(query, port, address);
    });
  }

  static async start(family: 4 | 6): Promise<Nameserver> {
    const address = addresses.node[family];
    const fd = socketInNetns(network.netns.node.fd, { family, type: "dgram", address, port: 53 });
    const socket = createSocket(family === 4 ? "udp4" : "udp6");
    socket.bind({ fd });
    return new Nameserver(socket);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(resolve));
  }
}

interface DnsQuestion {
  readonly family: 4 | 6;
  readonly resolver: string;
  readonly transport: "udp" | "tcp";
  readonly name: string;
  readonly type: number;
}

/** Asks from pod a; @returns the response code and the data of the records. */
async function queryDns(question: DnsQuestion): Promise<{ code: number; records: string[] }> {
  const labels = question.name
    .split(".")
    .map((label) => Buffer.concat([Uint8Array.of(label.length), Buffer.from(label)]));
  const query = Buffer.concat([
    Buffer.from("abcd01000001000000000000", "hex"),
    ...labels,
    Uint8Array.of(0, 0, question.type, 0, 1),
  ]);
  const answer = question.transport === "udp" ? await askUdp(question, query) : await askTcp(question, query);
  expect(answer.subarray(0, 2).toString("hex")).toBe("abcd");
  const records: string[] = [];
  let at = query.length;
  for (let count = answer.readUInt16BE(6); count > 0; count--) {
    const length = answer.readUInt16BE(at + 10);
    records.push(answer.subarray(at + 12, at + 12 + length).toString("hex"));
    at += 12 + length;
  }
  return { code: answer.readUInt16BE(2) & 0xf, records };
}

async function askUdp({ family, resolver }: DnsQuestion, query: Buffer): Promise<Buffer> {
  const fd = socketInNetns(network.netns.a.fd, { family, type: "dgram", port: 0 });
  const socket: DgramSocket = createSocket(family === 4 ? "udp4" : "udp6");
  socket.bind({ fd });
  try {
    socket.send(query, 53, resolver);
    const [answer, peer] = (await once(socket, "message", { signal: AbortSignal.timeout(3000) })) as [
      Buffer,
      { address: string },
    ];
    expect(peer.address).toBe(resolver);
    return answer;
  } finally {
    socket.close();
  }
}

async function askTcp({ resolver }: DnsQuestion, query: Buffer): Promise<Buffer> {
  const socket = await network.dial("a", { address: resolver, port: 53 });
  socket.end(Buffer.concat([Uint8Array.of(0, query.length), query]));
  return (await readAll(socket)).subarray(2);
}

async function addRouting(place: Place, family: 4 | 6): Promise<void> {
  await network.exec(place, [
    "ip",
    `-${family}`,
    "rule",
    "add",
    "fwmark",
    "0x111/0xfff",
    "pref",
    "32764",
    "lookup",
    "100",
  ]);
  const everything = family === 4 ? "0.0.0.0/0" : "::/0";
  await network.exec(place, [
    "ip",
    `-${family}`,
    "route",
    "add",
    "local",
    everything,
    "dev",
    "lo",
    "table",
    "100",
  ]);
}

/** The in-pod rules with DNS capture, as an operator would write them. */
function rules(family: 4 | 6): string {
  const loopback = family === 4 ? "127.0.0.1/32" : "::1/128";
  const probe = family === 4 ? "169.254.7.127" : "fd16:9254:7127:1337:ffff:ffff:ffff:ffff";
  const notOurs = "-m mark ! --mark 0x539/0xfff";
  const chains =
    ":ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -j ISTIO_OUTPUT";
  return `*mangle
${chains}
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
${chains}
-A ISTIO_PRERT -s ${probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_PRERT ! -d ${loopback} -p tcp ! --dport 15008 ${notOurs} -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -d ${probe} -p tcp -m tcp -j ACCEPT
-A ISTIO_OUTPUT ! -o lo -p udp ${notOurs} -m udp --dport 53 -j REDIRECT --to-port 15053
-A ISTIO_OUTPUT ! -d ${loopback} -p tcp --dport 53 ${notOurs} -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d ${loopback} -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d ${loopback} -p tcp ${notOurs} -j REDIRECT --to-ports 15001
COMMIT
*raw
${chains}
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
-A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1
COMMIT
`;
}
