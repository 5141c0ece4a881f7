// SPDX-License-Identifier: Apache-2.0
// Listens in a namespace of a sidecar test on both families and says to whoever connects who it is: `NAME PORT PEER`.
// Arguments: its name, TCP ports, UDP ports, each with commas between them.
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";

const [name = "", tcp = "", udp = ""] = process.argv.slice(2);
const portsOf = (text: string) => text.split(",").filter(Boolean).map(Number);
const plain = (address = "") => address.replace(/^::ffff:/, "");

for (const port of portsOf(tcp)) {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.end(`${name} ${port} ${plain(socket.remoteAddress)}\n`);
  }).listen(port, "::");
  await once(server, "listening");
}
// an agent answers from the address that its queries were led to: Istio's listens on the loopback addresses alone
const hosts = name === "proxy" ? ["127.0.0.1", "::1"] : ["::"];
for (const port of portsOf(udp)) {
  for (const host of hosts) {
    const socket = createSocket({ type: host.includes(":") ? "udp6" : "udp4" });
    socket.on("message", (_, { address, port: peerPort }) =>
      socket.send(`${name} ${port} ${plain(address)}\n`, peerPort, address),
    );
    socket.bind(port, host);
    await once(socket, "listening");
  }
}
process.stdin.resume().on("end", () => process.exit());
process.stdout.write("ready\n");
