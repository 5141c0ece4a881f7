// SPDX-License-Identifier: Apache-2.0
// A rule in iptables' words as parts of a native one: the few words that our rules are made of.
import {
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
  action: NativeAction | undefined;
}

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
  "--sport": (spoken, next) => port(spoken, "source", next()),
  "--dport": (spoken, next) => port(spoken, "destination", next()),
  "--tcp-flags": (spoken, next) => {
    if (spoken.isNot) throw unknownWord("! --tcp-flags");
    spoken.matches.push({ kind: "tcp-flags", mask: flagsOf(next()), flags: flagsOf(next()) });
  },
};

const TARGETS: Readonly<Record<string, (next: () => string) => NativeAction>> = {
  ACCEPT: () => ({ kind: "accept" }),
  RETURN: () => ({ kind: "return" }),
  REDIRECT: (next) => ({ kind: "redirect", port: numberAfter(next, "--to-ports") }),
  CT: (next) => ({ kind: "zone", zone: numberAfter(next, "--zone") }),
  CONNMARK: (next) => {
    const option = next();
    if (option === "--set-xmark") return { kind: "mark-connection", ...masked(next()) };
    if (option !== "--restore-mark") throw unknownWord(option);
    for (const mask of ["--nfmask", "--ctmask"])
      if (numberAfter(next, mask) !== 0xffffffff) throw unknownWord(`${mask} of some bits`);
    return { kind: "restore-mark" };
  },
};

/**
 * The same rule for a table of family inet, in the order in which istio-cni writes it.
 * @param args what follows `-A CHAIN`
 * @throws RangeError for a word that none of our rules has
 * Source: istio/istio cni/pkg/nftables/nftables.go AppendInpodRules.
 */
export function translateRule(args: readonly string[]): NativePart[] {
  const spoken: Spoken = {
    protocol: undefined,
    isNot: false,
    module: "",
    matches: [],
    action: undefined,
  };
  const words = args[Symbol.iterator]();
  const next = () => words.next().value ?? "";
  for (const word of words) {
    if (word === "!") {
      spoken.isNot = true;
      continue;
    }
    if (word === "-j") {
      const target = next();
      spoken.action = (TARGETS[target] ?? unknownTarget(target))(next);
    } else (MATCHES[word] ?? unknownMatch(word))(spoken, next);
    spoken.isNot = false;
  }
  const { action } = spoken;
  if (action === undefined) throw unknownWord("(no target)");
  return [...inOrder(spoken), { kind: "counter" }, action];
}

/** A protocol is told by itself only where no field of its header is: nft lists it so. Of marks beside a device's name, the mark is first. */
function inOrder({ protocol, matches }: Spoken): NativeMatch[] {
  const of = (...kinds: NativeMatch["kind"][]) => matches.filter(({ kind }) => kinds.includes(kind));
  const devices = of("device");
  const fields = of("port", "tcp-flags");
  const isTold = protocol !== undefined && fields.length === 0;
  const marks = of("mark");
  return [
    ...devices,
    ...(isTold ? [{ kind: "protocol", protocol } as const] : []),
    ...of("address"),
    ...(devices.length > 0 ? [...marks, ...fields] : [...fields, ...marks]),
  ];
}

/** nft's wildcard is another than iptables'. Istio-cni hands a name with `+` on as it is, which nft takes for a part of the name. */
function device({ matches, isNot }: Spoken, way: "in" | "out", name: string): void {
  matches.push({ kind: "device", way, name: name.replace(/\+$/, "*"), isNot });
}

function address({ matches, isNot }: Spoken, end: "source" | "destination", text: string): void {
  const [one = "", length] = text.split("/");
  if (length !== undefined && length !== (one.includes(":") ? "128" : "32")) throw unknownWord(text);
  matches.push({ kind: "address", end, address: one, isNot });
}

function port({ protocol, matches, isNot }: Spoken, end: "source" | "destination", text: string): void {
  if (protocol === undefined) throw unknownWord("a port of no protocol");
  matches.push({ kind: "port", protocol, end, port: toNumber(text), isNot });
}

function masked(text: string): { value: number; mask: number } {
  const [value = "", mask = "0xffffffff"] = text.split("/");
  return { value: toNumber(value), mask: toNumber(mask) };
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
