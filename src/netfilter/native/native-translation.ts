// SPDX-License-Identifier: Apache-2.0
// A rule in iptables' words as parts of a native one: the few words that our rules are made of.
import type { Family } from "../family.ts";
import * as part from "./native-parts.ts";

/** What the words said so far. */
interface Spoken {
  protocol: part.TransportProtocol | undefined;
  /** The next match is the opposite. */
  isNot: boolean;
  /** The match that `-m` named last: which mark is meant. */
  module: string;
  readonly matches: part.NativePart[];
  /** What becomes of a packet, of each rule that it takes. */
  ends: readonly (readonly part.NativePart[])[];
}

/** Bits of an address. */
const WHOLE_LENGTH: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };

type Word = (spoken: Spoken, next: () => string) => unknown;

const MATCHES: Readonly<Record<string, Word>> = {
  "-i": ({ matches, isNot }, next) => matches.push(part.device("in", deviceName(next()), isNot)),
  "-o": ({ matches, isNot }, next) => matches.push(part.device("out", deviceName(next()), isNot)),
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
    spoken.matches.push(part.mark(of, masked(next()), spoken.isNot));
  },
  "--uid-owner": ({ matches, isNot }, next) => matches.push(part.owner("user", toNumber(next()), isNot)),
  "--gid-owner": ({ matches, isNot }, next) => matches.push(part.owner("group", toNumber(next()), isNot)),
  "--ctstate": (spoken, next) => {
    if (spoken.isNot) throw unknownWord("! --ctstate");
    spoken.matches.push(part.inState(next().split(",").map(stateOf)));
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
    spoken.matches.push(part.tcpFlags(flagsOf(next()), flagsOf(next())));
  },
};

const TARGETS: Readonly<Record<string, (next: () => string) => part.NativePart>> = {
  ACCEPT: () => part.ending("accept"),
  DROP: () => part.ending("drop"),
  RETURN: () => part.ending("return"),
  REDIRECT: (next) => part.redirectTo(numberAfter(next, "--to-ports")),
  CT: (next) => part.zone(numberAfter(next, "--zone")),
  MARK: (next) => part.setMark(wholeMarkAfter(next, "--set-xmark")),
  CONNMARK: (next) => {
    const option = next();
    if (option === "--set-xmark") return part.markConnection(masked(next()));
    if (option !== "--restore-mark" && option !== "--save-mark") throw unknownWord(option);
    for (const mask of ["--nfmask", "--ctmask"])
      if (numberAfter(next, mask) !== part.ALL_BITS) throw unknownWord(`${mask} of some bits`);
    return option === "--restore-mark" ? part.restoreMark() : part.saveMark();
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
): part.NativePart[][] {
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
      if (target === "TPROXY") spoken.ends = throughProxy(spoken, next);
      else if (chain !== undefined) spoken.ends = [[part.counting(), part.jumpTo(chain)]];
      else spoken.ends = [[part.counting(), (TARGETS[target] ?? unknownTarget(target))(next)]];
    } else (MATCHES[word] ?? unknownMatch(word))(spoken, next);
    spoken.isNot = false;
  }
  if (spoken.ends.length === 0) throw unknownWord("(no target)");
  const matches = inOrder(spoken);
  return spoken.ends.map((actions) => [...matches, ...actions]);
}

/** A protocol is told by itself only where no field of its header is: nft lists it so. Of marks beside a device's name, the mark is first. */
function inOrder({ protocol, matches }: Spoken): part.NativePart[] {
  const of = (...kinds: part.NativePart["kind"][]) => matches.filter(({ kind }) => kinds.includes(kind));
  // an address of no bits is any of its family
  const families = of("family");
  const devices = of("device");
  const fields = of("field");
  const isTold = protocol !== undefined && fields.length === 0;
  const marks = of("mark");
  return [
    ...devices,
    ...(isTold ? [part.ofProtocol(protocol)] : []),
    ...families,
    ...of("address"),
    ...(devices.length > 0 ? [...marks, ...fields] : [...fields, ...marks]),
    ...of("state", "owner"),
  ];
}

/** nft's wildcard is another than iptables'. Istio-cni hands a name with `+` on as it is, which nft takes for a part of the name. */
function deviceName(name: string): string {
  return name.replace(/\+$/, "*");
}

function address({ matches, isNot }: Spoken, end: part.End, word: string): void {
  const [text = "", told] = word.split("/");
  const family = text.includes(":") ? 6 : 4;
  const length = told === undefined ? WHOLE_LENGTH[family] : toNumber(told);
  if (length > WHOLE_LENGTH[family] || (length === 0 && isNot)) throw unknownWord(word);
  matches.push(length === 0 ? part.ofFamily(family) : part.address(end, { text, length }, isNot));
}

/**
 * A packet that no transparent socket takes goes nowhere, as with iptables: natively its rule ends there, and the packet would reach the
 * app past its proxy, so that a second rule drops it.
 * Source: linux net/netfilter/xt_TPROXY.c, tproxy_tg4, which drops; nft_tproxy.c, nft_tproxy_eval_v4, which ends the rule.
 */
function throughProxy({ matches }: Spoken, next: () => string): part.NativePart[][] {
  const family = matches.find(({ kind }) => kind === "address")?.family;
  if (family === undefined) throw unknownWord("TPROXY of no family");
  const taken = part.transparent(family, numberAfter(next, "--on-port"));
  const marked = part.setMark(wholeMarkAfter(next, "--tproxy-mark"));
  return [
    [taken, marked, part.counting(), part.ending("accept")],
    [part.counting(), part.ending("drop")],
  ];
}

function port({ protocol, matches, isNot }: Spoken, end: part.End, text: string): void {
  if (protocol === undefined) throw unknownWord("a port of no protocol");
  matches.push(part.port(protocol, end, toNumber(text), isNot));
}

function masked(text: string): part.Masked {
  const [value = "", mask = `${part.ALL_BITS}`] = text.split("/");
  return { value: toNumber(value), mask: toNumber(mask) };
}

/** A mark of which all bits count. */
function wholeMarkAfter(next: () => string, option: string): number {
  const word = next();
  if (word !== option) throw unknownWord(word);
  const { value, mask } = masked(next());
  if (mask !== part.ALL_BITS) throw unknownWord(`${option} of some bits`);
  return value;
}

function stateOf(text: string): part.ConnectionState {
  const state = part.CONNECTION_STATES.find((each) => each === text.toLowerCase());
  if (state === undefined) throw unknownWord(text);
  return state;
}

function flagsOf(text: string): part.TcpFlag[] {
  return text.split(",").map((name) => {
    const flag = part.TCP_FLAGS.find((each) => each === name.toLowerCase());
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
