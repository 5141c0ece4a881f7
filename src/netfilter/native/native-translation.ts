// SPDX-License-Identifier: Apache-2.0
// A rule in iptables' words as parts of a native one: the few words that our rules are made of.
import type { Family } from "../family.ts";
import {
  CONNECTION_STATES,
  type ConnectionState,
  type NativeAction,
  type NativeMatch,
  type NativePart,
  TCP_FLAGS,
  type TcpFlag,
  type TransportProtocol,
} from "./native-rule.ts";

/** What the words said so far. */
interface Spoken {
  protocol: TransportProtocol | undefined;
  /** The next match is the opposite. */
  isNot: boolean;
  /** The match that `-m` named last: which mark is meant. */
  module: string;
  readonly matches: NativeMatch[];
  /** What becomes of a packet, of each rule that it takes. */
  ends: readonly (readonly NativeAction[])[];
}

const COUNTER: NativeAction = { kind: "counter" };
const ALL_BITS = 0xffffffff;
/** Bits of an address. */
const WHOLE_LENGTH: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };

type Word = (spoken: Spoken, next: () => string) => void;

const MATCHES: Readonly<Record<string, Word>> = {
  "-i": (spoken, next) => device(spoken, "in", next()),
  "-o": (spoken, next) => device(spoken, "out", next()),
  "-s": (spoken, next) => address(spoken, "source", next()),
  "-d": (spoken, next) => address(spoken, "destination", next()),
  "-p": (spoken, next) => {
    const protocol = next();
    if ((protocol !== "tcp" && protocol !== "udp") || spoken.isNot) throw unknownWord(`-p ${protocol}`);
    spoken.protocol = protocol;
  },
  "-m": (spoken, next) => {
    spoken.module = next();
  },
  "--mark": (spoken, next) => {
    const of = spoken.module === "connmark" ? "connection" : "packet";
    spoken.matches.push({ kind: "mark", of, ...masked(next()), isNot: spoken.isNot });
  },
  "--uid-owner": (spoken, next) => owner(spoken, "user", next()),
  "--gid-owner": (spoken, next) => owner(spoken, "group", next()),
  "--ctstate": (spoken, next) => {
    if (spoken.isNot) throw unknownWord("! --ctstate");
    spoken.matches.push({ kind: "state", states: next().split(",").map(stateOf) });
  },
  "--sport": (spoken, next) => port(spoken, "source", next()),
  "--dport": (spoken, next) => port(spoken, "destination", next()),
  // none of several: each of them is another port
  "--dports": (spoken, next) => {
    if (!spoken.isNot) throw unknownWord("--dports");
    for (const each of next().split(",")) port(spoken, "destination", each);
  },
  "--tcp-flags": (spoken, next) => {
    if (spoken.isNot) throw unknownWord("! --tcp-flags");
    spoken.matches.push({ kind: "tcp-flags", mask: flagsOf(next()), flags: flagsOf(next()) });
  },
};

const TARGETS: Readonly<Record<string, (next: () => string) => NativeAction>> = {
  ACCEPT: () => ({ kind: "accept" }),
  DROP: () => ({ kind: "drop" }),
  RETURN: () => ({ kind: "return" }),
  REDIRECT: (next) => ({ kind: "redirect", port: numberAfter(next, "--to-ports") }),
  CT: (next) => ({ kind: "zone", zone: numberAfter(next, "--zone") }),
  MARK: (next) => ({ kind: "set-mark", value: wholeMarkAfter(next, "--set-xmark") }),
  CONNMARK: (next) => {
    const option = next();
    if (option === "--set-xmark") return { kind: "mark-connection", ...masked(next()) };
    if (option !== "--restore-mark" && option !== "--save-mark") throw unknownWord(option);
    for (const mask of ["--nfmask", "--ctmask"])
      if (numberAfter(next, mask) !== ALL_BITS) throw unknownWord(`${mask} of some bits`);
    return { kind: option === "--restore-mark" ? "restore-mark" : "save-mark" };
  },
};

/**
 * The same rule for a table of family inet, in the order in which istio-cni writes it: one rule for most.
 * @param args what follows `-A CHAIN`
 * @param chains names of chains that it may lead into, by the name that is told
 * @throws RangeError for a word that none of our rules has
 * Source: istio/istio cni/pkg/nftables/nftables.go AppendInpodRules; tools/istio-nftables/pkg/capture/run.go.
 */
export function translateRule(
  args: readonly string[],
  chains: ReadonlyMap<string, string> = new Map(),
): NativePart[][] {
  const spoken: Spoken = { protocol: undefined, isNot: false, module: "", matches: [], ends: [] };
  const words = args[Symbol.iterator]();
  const next = () => words.next().value ?? "";
  for (const word of words) {
    if (word === "!") {
      spoken.isNot = true;
      continue;
    }
    if (word === "-j") {
      const target = next();
      const chain = chains.get(target);
      if (target === "TPROXY") spoken.ends = transparent(spoken, next);
      else if (chain !== undefined) spoken.ends = [[COUNTER, { kind: "jump", chain }]];
      else spoken.ends = [[COUNTER, (TARGETS[target] ?? unknownTarget(target))(next)]];
    } else (MATCHES[word] ?? unknownMatch(word))(spoken, next);
    spoken.isNot = false;
  }
  if (spoken.ends.length === 0) throw unknownWord("(no target)");
  const matches = inOrder(spoken);
  return spoken.ends.map((actions) => [...matches, ...actions]);
}

/** A protocol is told by itself only where no field of its header is: nft lists it so. Of marks beside a device's name, the mark is first. */
function inOrder({ protocol, matches }: Spoken): NativeMatch[] {
  const of = (...kinds: NativeMatch["kind"][]) => matches.filter(({ kind }) => kinds.includes(kind));
  // an address of no bits is any of its family
  const families = of("family");
  const devices = of("device");
  const fields = of("port", "tcp-flags");
  const isTold = protocol !== undefined && fields.length === 0;
  const marks = of("mark");
  return [
    ...devices,
    ...(isTold ? [{ kind: "protocol", protocol } as const] : []),
    ...families,
    ...of("address"),
    ...(devices.length > 0 ? [...marks, ...fields] : [...fields, ...marks]),
    ...of("state", "owner"),
  ];
}

/** nft's wildcard is another than iptables'. Istio-cni hands a name with `+` on as it is, which nft takes for a part of the name. */
function device({ matches, isNot }: Spoken, way: "in" | "out", name: string): void {
  matches.push({ kind: "device", way, name: name.replace(/\+$/, "*"), isNot });
}

function address({ matches, isNot }: Spoken, end: "source" | "destination", text: string): void {
  const [one = "", told] = text.split("/");
  const family = one.includes(":") ? 6 : 4;
  const length = told === undefined ? WHOLE_LENGTH[family] : toNumber(told);
  if (length > WHOLE_LENGTH[family] || (length === 0 && isNot)) throw unknownWord(text);
  if (length === 0) matches.push({ kind: "family", family });
  else matches.push({ kind: "address", end, address: one, length, isNot });
}

function owner({ matches, isNot }: Spoken, of: "user" | "group", text: string): void {
  matches.push({ kind: "owner", of, id: toNumber(text), isNot });
}

/**
 * A packet that no transparent socket takes goes nowhere, as with iptables: natively its rule ends there, and the packet would reach the
 * app past its proxy, so that a second rule drops it.
 * Source: linux net/netfilter/xt_TPROXY.c, tproxy_tg4, which drops; nft_tproxy.c, nft_tproxy_eval_v4, which ends the rule.
 */
function transparent({ matches }: Spoken, next: () => string): NativeAction[][] {
  const address = matches.find((match) => match.kind === "address");
  if (address === undefined) throw unknownWord("TPROXY of no family");
  const family: Family = address.address.includes(":") ? 6 : 4;
  const port = numberAfter(next, "--on-port");
  const value = wholeMarkAfter(next, "--tproxy-mark");
  return [
    [{ kind: "transparent", family, port }, { kind: "set-mark", value }, COUNTER, { kind: "accept" }],
    [COUNTER, { kind: "drop" }],
  ];
}

function port({ protocol, matches, isNot }: Spoken, end: "source" | "destination", text: string): void {
  if (protocol === undefined) throw unknownWord("a port of no protocol");
  matches.push({ kind: "port", protocol, end, port: toNumber(text), isNot });
}

function masked(text: string): { value: number; mask: number } {
  const [value = "", mask = `${ALL_BITS}`] = text.split("/");
  return { value: toNumber(value), mask: toNumber(mask) };
}

/** A mark of which all bits count. */
function wholeMarkAfter(next: () => string, option: string): number {
  const word = next();
  if (word !== option) throw unknownWord(word);
  const { value, mask } = masked(next());
  if (mask !== ALL_BITS) throw unknownWord(`${option} of some bits`);
  return value;
}

function stateOf(text: string): ConnectionState {
  const state = CONNECTION_STATES.find((each) => each === text.toLowerCase());
  if (state === undefined) throw unknownWord(text);
  return state;
}

function flagsOf(text: string): TcpFlag[] {
  return text.split(",").map((name) => {
    const flag = TCP_FLAGS.find((each) => each === name.toLowerCase());
    if (flag === undefined) throw unknownWord(text);
    return flag;
  });
}

function numberAfter(next: () => string, option: string): number {
  const word = next();
  if (word !== option) throw unknownWord(word);
  return toNumber(next());
}

function toNumber(text: string): number {
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(text)) throw unknownWord(text);
  return Number(text);
}

function unknownMatch(word: string): never {
  throw unknownWord(word);
}

function unknownTarget(target: string): never {
  throw unknownWord(`-j ${target}`);
}

function unknownWord(word: string): RangeError {
  return new RangeError(`Cannot say "${word}" natively: no rule of ours was made of it so far`);
}
