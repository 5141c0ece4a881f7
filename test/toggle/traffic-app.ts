// SPDX-License-Identifier: Apache-2.0
// The program in the pods whose traffic is watched: a server, and clients of other pods; served by module-host.ts.
import { Lane, type LaneKind } from "./lanes.ts";
import { type LabelChange, type Tally, TallyRecorder } from "./tally.ts";
import { TrafficServer } from "./traffic-server.ts";

/** Clients of this pod that go to one server. */
export interface WayStart {
  readonly way: string;
  /** The server's addresses; lanes take them in turn. */
  readonly hosts: readonly string[];
  readonly port: number;
  /** How many lanes of each kind. */
  readonly lanes: Readonly<Partial<Record<LaneKind, number>>>;
  /** Between two requests of a lane. */
  readonly pauseMs: number;
  readonly hungAfterMs: number;
}

interface Way {
  readonly lanes: readonly Lane[];
  readonly tally: TallyRecorder;
}

const ways = new Map<string, Way>();
let server: TrafficServer | undefined;

/** Starts the server. */
export async function serve(port: number): Promise<void> {
  server = await TrafficServer.listen(port);
}

/** Connections that the server believes to be open. */
export function openConnections(): number {
  return server?.openConnections ?? 0;
}

/** Starts the clients of a way. */
export function startWay(start: WayStart): void {
  const { way, hosts, port, pauseMs, hungAfterMs } = start;
  const tally = new TallyRecorder(way);
  const kinds = Object.entries(start.lanes) as [LaneKind, number][];
  const lanes = kinds.flatMap(([kind, count]) =>
    Array.from({ length: count }, (_, i) => {
      const host = hosts[i % hosts.length];
      if (host === undefined) throw new RangeError(`Cannot start the way "${way}": it has no address`);
      return new Lane({ name: `${kind}-${i}`, kind, host, port, pauseMs, hungAfterMs, tally });
    }),
  );
  ways.set(way, { lanes, tally });
}

/** Notes down a change of a label that concerns a way. */
export function mark(way: string, change: LabelChange): void {
  find(way).tally.change = change;
}

/** Has every lane that does not keep its connection take a new one. */
export function renew(way: string): void {
  for (const lane of find(way).lanes) lane.renew();
}

/** How far each lane has come: answers and stream lines. */
export function progress(way: string): Record<string, number> {
  return Object.fromEntries(find(way).lanes.map((lane) => [lane.name, lane.steps]));
}

/** The counts so far. */
export function tallyOf(way: string): Tally {
  return find(way).tally.tally;
}

/** Lets requests under way come to their end, and returns the counts. */
export async function stopWay(way: string): Promise<Tally> {
  const { lanes, tally } = find(way);
  await Promise.all(lanes.map((lane) => lane.stop()));
  ways.delete(way);
  return tally.tally;
}

function find(name: string): Way {
  const way = ways.get(name);
  if (way === undefined) throw new RangeError(`Cannot find the way "${name}"`);
  return way;
}
