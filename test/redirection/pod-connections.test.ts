// SPDX-License-Identifier: Apache-2.0
// Which of a namespace's sockets are connections that pass ztunnel by, from lists of sockets that the tests write.
import { expect, test } from "vitest";
import type { InetSocket, SocketEnd } from "../../src/linux/netlink/inet-diag.ts";
import { earlierOf } from "../../src/redirection/pod-connections.ts";

function end(text: string): SocketEnd {
  const at = text.lastIndexOf(":");
  return { address: text.slice(0, at), port: Number(text.slice(at + 1)) };
}

/** `LOCAL REMOTE`, with `*` behind it for one of ztunnel's. */
function socket(text: string): InetSocket {
  const [local = "", remote = "", star] = text.split(" ");
  const mark = star === undefined ? 0 : 0x539;
  return {
    state: "established",
    local: end(local),
    remote: end(remote),
    mark,
    inode: 1,
    id: new Uint8Array(48),
    family: 2,
  };
}

function earlier(...texts: string[]): string[] {
  return earlierOf(texts.map(socket)).map(
    ({ local, remote }) => `${local.address}:${local.port} ${remote.address}:${remote.port}`,
  );
}

const OUT = "10.0.0.2:40000 10.9.9.9:80";
const IN = "10.0.0.2:8080 10.9.9.9:50000";

test.each([
  { what: "there is none", sockets: [], found: [] },
  { what: "both directions are direct", sockets: [OUT, IN], found: [OUT, IN] },
  { what: "what goes out was redirected", sockets: [OUT, "127.0.0.1:15001 10.0.0.2:40000 *"], found: [] },
  {
    what: "another connection was redirected",
    sockets: [OUT, "10.0.0.2:40001 10.9.9.9:80", "127.0.0.1:15001 10.0.0.2:40001 *"],
    found: [OUT],
  },
  {
    what: "ztunnel leads on to the app with the client's address",
    sockets: [IN, "10.9.9.9:50000 10.0.0.2:8080 *", "10.0.0.2:15006 10.9.9.9:50001 *"],
    found: [],
  },
  {
    what: "DNS over TCP was redirected",
    sockets: ["10.0.0.2:40000 10.9.9.9:53", "127.0.0.1:15053 10.0.0.2:40000 *"],
    found: [],
  },
  {
    what: "they are ztunnel's own",
    sockets: ["10.0.0.2:41000 10.9.9.9:15008 *", "10.0.0.2:15008 10.9.9.9:3 *"],
    found: [],
  },
  {
    what: "they wait for ztunnel to take them",
    sockets: ["10.0.0.2:15008 10.9.9.9:3", "10.0.0.2:15006 10.9.9.9:4"],
    found: [],
  },
  {
    what: "they stay on the loopback device",
    sockets: ["127.0.0.1:9 127.0.0.1:40000", "::1:9 ::1:4", "127.0.0.1:1 127.0.0.9:2"],
    found: [],
  },
  { what: "the pod calls its own address", sockets: ["10.0.0.2:8080 10.0.0.2:4"], found: [] },
  {
    what: "both ends are in the pod",
    sockets: ["10.0.0.2:8080 10.0.1.2:4", "10.0.1.2:4 10.0.0.2:8080"],
    found: [],
  },
  {
    what: "an app talks to the port of a ztunnel elsewhere",
    sockets: ["10.0.0.2:4 10.9.9.9:15008"],
    found: ["10.0.0.2:4 10.9.9.9:15008"],
  },
  {
    what: "it is the same over IPv6",
    sockets: ["fd00::2:4 fd00::9:80", "fd00::2:5 fd00::9:80", "::1:15001 fd00::2:5 *"],
    found: ["fd00::2:4 fd00::9:80"],
  },
])("connections that pass ztunnel by are found when $what", ({ sockets, found }) => {
  expect(earlier(...sockets)).toEqual(found);
});

test("a mark that has ztunnel's bits in another place is not ztunnel's", () => {
  const marked = (mark: number) => earlierOf([{ ...socket(OUT), mark }]).length;
  expect([0x539, 0xf0000539, 0x53900, 0x111, 0].map(marked)).toEqual([0, 0, 1, 1, 1]);
});
