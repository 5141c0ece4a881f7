// SPDX-License-Identifier: Apache-2.0
// The switches that make the stand-in misbehave, and how they are written on its command line.

/** What to do wrong; everything off is a faithful ztunnel. */
export interface Faults {
  /** Connect and stay silent. */
  noHello: boolean;
  /** Send these bytes instead of the hello. */
  badHello: Uint8Array | undefined;
  helloDelayMs: number;
  ackDelayMs: number;
  neverAck: boolean;
  /** Refuse to start pods with this text, so many times. */
  nack: { readonly text: string; left: number } | undefined;
  /** Pad the text of each refusal to this size, as a backtrace would. */
  nackSizeBytes: number;
  doubleAck: boolean;
  /** Answer with bytes that are no protobuf. */
  garbageAck: boolean;
  /** Answer with a response that holds no ack. */
  emptyAckPayload: boolean;
  /** Send one ack nobody asked for as soon as SnapshotSent has been answered. */
  unsolicitedAckWhenIdle: boolean;
  /** Close the connection on receiving a message of this kind, without an answer. */
  closeAfter: string | undefined;
  /** Stop reading after the hello and close while data lies unread. */
  closeWithUnreadData: boolean;
  /** Connect, say hello, never read. */
  halfStart: boolean;
  /** So many connections that end right after their hello; then behave. */
  reconnectStorm: number;
  noReusePort: boolean;
}

/** No faults. */
export function faithful(): Faults {
  return {
    noHello: false,
    badHello: undefined,
    helloDelayMs: 0,
    ackDelayMs: 0,
    neverAck: false,
    nack: undefined,
    nackSizeBytes: 0,
    doubleAck: false,
    garbageAck: false,
    emptyAckPayload: false,
    unsolicitedAckWhenIdle: false,
    closeAfter: undefined,
    closeWithUnreadData: false,
    halfStart: false,
    reconnectStorm: 0,
    noReusePort: false,
  };
}

type Setter = (faults: Faults, value: string) => void;

const setters: Readonly<Record<string, Setter>> = {
  "no-hello": (faults) => {
    faults.noHello = true;
  },
  "bad-hello": (faults, value) => {
    faults.badHello = Buffer.from(value === "" ? "ffff" : value, "hex");
  },
  "hello-delay": (faults, value) => {
    faults.helloDelayMs = number(value);
  },
  "ack-delay": (faults, value) => {
    faults.ackDelayMs = number(value);
  },
  "never-ack": (faults) => {
    faults.neverAck = true;
  },
  nack: (faults, value) => {
    const [, text = "", count] = /^(.*?)(?:,(\d+))?$/s.exec(value) ?? [];
    faults.nack = { text, left: count === undefined ? Number.POSITIVE_INFINITY : Number(count) };
  },
  "nack-size": (faults, value) => {
    faults.nackSizeBytes = number(value);
  },
  "double-ack": (faults) => {
    faults.doubleAck = true;
  },
  "garbage-ack": (faults) => {
    faults.garbageAck = true;
  },
  "empty-ack-payload": (faults) => {
    faults.emptyAckPayload = true;
  },
  "unsolicited-ack-when-idle": (faults) => {
    faults.unsolicitedAckWhenIdle = true;
  },
  "close-after": (faults, value) => {
    faults.closeAfter = value;
  },
  "close-with-unread-data": (faults) => {
    faults.closeWithUnreadData = true;
  },
  "half-start": (faults) => {
    faults.halfStart = true;
  },
  "reconnect-storm": (faults, value) => {
    faults.reconnectStorm = value === "" ? Number.POSITIVE_INFINITY : number(value);
  },
  "no-reuseport": (faults) => {
    faults.noReusePort = true;
  },
};

function number(value: string): number {
  const parsed = Number(value);
  if (value === "" || !(parsed >= 0)) throw new RangeError(`Cannot read the number "${value}" of a fault`);
  return parsed;
}

/**
 * Reads switches such as `ack-delay=1000`, `nack=some text,1`, `close-after=add`.
 * Delays are milliseconds.
 * @throws RangeError for an unknown switch
 */
export function parseFaults(switches: readonly string[]): Faults {
  const faults = faithful();
  for (const item of switches) {
    const equals = item.indexOf("=");
    const name = equals < 0 ? item : item.slice(0, equals);
    const setter = setters[name];
    if (setter === undefined) {
      throw new RangeError(`Cannot set the fault "${name}": known are ${Object.keys(setters).join(", ")}`);
    }
    setter(faults, equals < 0 ? "" : item.slice(equals + 1));
  }
  return faults;
}
