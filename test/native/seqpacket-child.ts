// SPDX-License-Identifier: Apache-2.0
// The parts of the SEQPACKET tests that need a process of their own; the first argument says which, output is JSON.
import { closeSync, openSync, readdirSync, rmSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { connectSeqpacket, listenSeqpacket, type SeqpacketConnection } from "../../src/linux/seqpacket.ts";

const [, , role = "", path = ""] = process.argv;

const roles: Record<string, () => unknown> = {
  /** Sends three packets, reads nothing and waits to be killed. */
  lastWords() {
    const connection = connectSeqpacket(path);
    connection.setReading(false);
    for (const word of ["one", "two", "three"]) connection.send(Buffer.from(word));
    console.log("sent");
    setInterval(() => {}, 1_000);
  },

  /** Has no descriptor left when a peer comes; then has some again. */
  async outOfDescriptors() {
    const listener = listenSeqpacket(path);
    const client = connectSeqpacket(path);
    const errors: string[] = [];
    let accepted = 0;
    const fillers: number[] = [];
    try {
      for (;;) fillers.push(openSync("/dev/null", "r"));
    } catch (error) {
      errors.push(`fill: ${(error as NodeJS.ErrnoException).code}`);
    }
    listener.onerror = (error) => errors.push(`${error.syscall}: ${error.code}`);
    listener.onconnection = (connection) => {
      accepted++;
      connection.close();
    };
    const before = process.cpuUsage();
    await delay(200);
    const spent = process.cpuUsage(before);
    const acceptedWhenFull = accepted;
    for (const fd of fillers) closeSync(fd);
    listener.setReading(true);
    client.onend = () => {
      client.close();
      listener.close();
      const cpuMs = (spent.user + spent.system) / 1_000;
      console.log(JSON.stringify({ errors, acceptedWhenFull, accepted, cpuMs }));
    };
  },

  /** Every handler throws; all of it must arrive at uncaughtException and nothing may be left open. */
  async throwing() {
    const thrown: string[] = [];
    process.on("uncaughtException", (error) => thrown.push(error.message));
    const before = countFds();
    const listener = listenSeqpacket(path, { maxFds: 2 });
    const accepted: SeqpacketConnection[] = [];
    listener.onconnection = (connection) => {
      connection.onpacket = ({ fds }) => {
        for (const fd of fds) closeSync(fd);
        throw new Error("packet");
      };
      connection.onend = () => {
        connection.close();
        throw new Error("end");
      };
      accepted.push(connection);
      if (accepted.length === 2) throw new Error("connection");
    };
    const client = connectSeqpacket(path);
    client.send(Buffer.from("x"), 0);
    client.send(Buffer.from("y"));
    const refused = connectSeqpacket(path);
    refused.onend = () => {
      refused.close();
      throw new Error("refused");
    };
    while (thrown.length < 4) await delay(5);
    client.close();
    while (thrown.length < 5) await delay(5);
    listener.close();
    await delay(5);
    console.log(JSON.stringify({ thrown: thrown.sort(), leaked: countFds() - before }));
  },

  /** Ends with handles of each kind open, in the middle of a handler. */
  exitInHandler() {
    const listener = listenSeqpacket(path);
    connectSeqpacket(path).send(Buffer.from("x"));
    listener.onconnection = (connection) => {
      connection.onpacket = () => process.exit(7);
    };
  },

  /** Ends by itself: nothing that is unreferenced or closed keeps the process. */
  naturalEnd() {
    const listener = listenSeqpacket(path);
    listener.onconnection = (connection) => {
      connection.unref();
      listener.unref();
      client.unref();
      console.log("accepted");
    };
    const client = connectSeqpacket(path);
  },

  /** Drops every reference to open connections: they live on and work, and can be collected once closed. */
  async collect() {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    const listener = listenSeqpacket(path);
    let echoed = 0;
    const before = countFds();
    listener.onconnection = (connection) => {
      connection.onpacket = ({ data }) => connection.send(data);
      connection.onend = () => connection.close();
    };
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    const dropOne = () => {
      const client = connectSeqpacket(path);
      registry.register(client, 0);
      client.onpacket = () => {
        echoed++;
        client.close();
      };
      setTimeout(() => client.send(Buffer.from("x")), 30);
    };
    for (let i = 0; i < 10; i++) dropOne();
    for (let i = 0; i < 5; i++) {
      gc();
      await delay(2);
    }
    while (echoed < 10 || countFds() > before || collected < 10) {
      gc();
      await delay(5);
    }
    listener.close();
    console.log(JSON.stringify({ echoed, collected }));
  },
};

function countFds(): number {
  return readdirSync("/proc/self/fd").length;
}

await roles[role]?.();
if (role !== "lastWords") process.on("exit", () => rmSync(path, { force: true }));
