// SPDX-License-Identifier: Apache-2.0
// What went through the stand-in's sockets, by pod and port.

/** Sums of one port of one pod, where 15008 counts tunnels and what they carry; `fromClientBytes` is what the side that connected to the stand-in sent. */
export interface PortTraffic {
  connections: number;
  /** Connections that were cut because there was nowhere to go. */
  failures: number;
  fromClientBytes: number;
  toClientBytes: number;
}

/** One connection, or one tunnel of a connection, with what it has carried so far. */
export interface Carried {
  /** What the client has sent. */
  readonly bytesRead: number;
  /** What was sent to the client. */
  readonly bytesWritten: number;
}

/** Counters of one pod; connections still open are counted up to now. */
export class TrafficCounters {
  readonly #ports = new Map<number, PortTraffic>();
  readonly #open = new Map<Carried, number>();
  #dnsQueries = 0;

  /** Counts one that begins now; @returns what to call when it has ended */
  watch(carried: Carried, port: number): () => void {
    this.#of(port).connections++;
    this.#open.set(carried, port);
    return () => {
      if (this.#open.delete(carried)) addBytes(this.#of(port), carried);
    };
  }

  failed(port: number): void {
    this.#of(port).failures++;
  }

  dnsQuery(): void {
    this.#dnsQueries++;
  }

  /** Connections open now. */
  get openConnections(): number {
    return this.#open.size;
  }

  read(): { ports: Record<string, PortTraffic>; dnsQueries: number; openConnections: number } {
    const ports = Object.fromEntries([...this.#ports].map(([port, sums]) => [String(port), { ...sums }]));
    for (const [client, port] of this.#open) addBytes(ports[String(port)] as PortTraffic, client);
    return { ports, dnsQueries: this.#dnsQueries, openConnections: this.#open.size };
  }

  #of(port: number): PortTraffic {
    let sums = this.#ports.get(port);
    if (sums === undefined) {
      sums = { connections: 0, failures: 0, fromClientBytes: 0, toClientBytes: 0 };
      this.#ports.set(port, sums);
    }
    return sums;
  }
}

function addBytes(sums: PortTraffic, client: Carried): void {
  sums.fromClientBytes += client.bytesRead;
  sums.toClientBytes += client.bytesWritten;
}
