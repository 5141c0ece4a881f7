// SPDX-License-Identifier: Apache-2.0
// Brings one iptables rule into one spelling, whichever tool or person wrote it.
import { normaliseAddress } from "./address-text.ts";

/** A rule in normal form. */
export interface NormalRule {
  /** Normal form of everything that follows `-A CHAIN`: equal rules have equal tokens, in the kernel's order of matches. */
  readonly tokens: readonly string[];
  /** Where the rule jumps or goes to. */
  readonly target: string | undefined;
}

interface Option {
  readonly name: string;
  readonly negated: boolean;
  readonly values: readonly string[];
}

interface Match {
  readonly module: string;
  readonly options: Option[];
}

const BASE_OPTIONS: Readonly<Record<string, string>> = {
  "-s": "-s",
  "--source": "-s",
  "--src": "-s",
  "-d": "-d",
  "--destination": "-d",
  "--dst": "-d",
  "-i": "-i",
  "--in-interface": "-i",
  "-o": "-o",
  "--out-interface": "-o",
  "-p": "-p",
  "--protocol": "-p",
  "--proto": "-p",
};
const BASE_ORDER = ["-s", "-d", "-i", "-o", "-p"];
const PROTOCOL_NAMES: Readonly<Record<string, string>> = { "6": "tcp", "17": "udp", "0": "all" };
const PORT_OPTIONS: Readonly<Record<string, string>> = {
  "--dport": "--dport",
  "--destination-port": "--dport",
  "--sport": "--sport",
  "--source-port": "--sport",
};
/** Options of `-m tcp` and `-m udp` may stand anywhere behind `-p`. */
const PROTOCOL_OPTIONS: ReadonlySet<string> = new Set([...Object.keys(PORT_OPTIONS), "--tcp-flags", "--syn"]);
/** In the order of iptables-save. */
const TCP_FLAGS = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
const FULL_MASK = 0xffffffff;

/**
 * Brings the arguments of a rule (everything that follows `-A CHAIN`) into normal form. Matches and targets that our
 * rules use are understood; of all others the tokens are kept as they are. Comments and counters are left out.
 * Source: iptables(8); iptables-extensions(8); iptables/iptables extensions/libxt_CONNMARK.c connmark_tg_parse, libxt_MARK.c.
 */
export function normaliseRule(args: readonly string[]): NormalRule {
  const { base, matches, target } = groupTokens(args);
  const tokens: string[] = [];
  for (const name of BASE_ORDER) {
    for (const option of base) if (option.name === name) tokens.push(...baseTokens(option));
  }
  for (const match of matches) tokens.push(...matchTokens(match));
  if (target !== undefined) tokens.push(...targetTokens(target));
  return { tokens, target: target?.module };
}

function groupTokens(args: readonly string[]): {
  base: Option[];
  matches: Match[];
  target: Match | undefined;
} {
  const base: Option[] = [];
  const matches: Match[] = [];
  let target: Match | undefined;
  for (const option of splitOptions(args)) {
    const [value = ""] = option.values;
    const baseName = BASE_OPTIONS[option.name];
    if (baseName !== undefined) {
      base.push({ ...option, name: baseName });
    } else if (option.name === "-m" || option.name === "--match") {
      matches.push({ module: value, options: [] });
    } else if (["-j", "--jump", "-g", "--goto"].includes(option.name)) {
      target = {
        module: value,
        options: option.name.includes("g") ? [{ ...option, name: "-g", values: [] }] : [],
      };
    } else if (!["-c", "--set-counters", "-4", "-6", "--ipv4", "--ipv6"].includes(option.name)) {
      groupOf(option, { base, matches, target }).options.push(option);
    }
  }
  return { base, matches, target };
}

/** The group an option belongs to: those of protocols may stand anywhere and load their protocol's match. */
function groupOf(
  option: Option,
  groups: { base: Option[]; matches: Match[]; target: Match | undefined },
): Match {
  if (groups.target !== undefined) return groups.target;
  const last = groups.matches.at(-1);
  if (!PROTOCOL_OPTIONS.has(option.name) && last !== undefined) return last;
  const protocol = protocolName(groups.base.find((other) => other.name === "-p")?.values[0] ?? "");
  const loaded = groups.matches.find((match) => match.module === protocol);
  if (loaded !== undefined) return loaded;
  const implied: Match = { module: protocol, options: [] };
  groups.matches.push(implied);
  return implied;
}

/** Splits arguments at options; `!` may stand before the option (today) or before its value (iptables before 1.4). */
function splitOptions(args: readonly string[]): Option[] {
  const options: { name: string; negated: boolean; values: string[] }[] = [];
  let negated = false;
  for (const token of args) {
    const last = options.at(-1);
    if (token === "!") {
      negated = true;
    } else if (/^-{1,2}[A-Za-z0-9]/.test(token) && !/^-\d+$/.test(token)) {
      const [name = token, inline] = token.startsWith("--") ? splitInline(token) : [token];
      options.push({ name, negated, values: inline === undefined ? [] : [inline] });
      negated = false;
    } else if (last === undefined) {
      options.push({ name: token, negated, values: [] });
      negated = false;
    } else {
      if (negated) last.negated = true;
      negated = false;
      last.values.push(token);
    }
  }
  return options;
}

function splitInline(token: string): [string, string?] {
  const equals = token.indexOf("=");
  return equals < 0 ? [token] : [token.slice(0, equals), token.slice(equals + 1)];
}

function baseTokens(option: Option): string[] {
  const [value = ""] = option.values;
  switch (option.name) {
    case "-s":
    case "-d":
      return /\/0+$/.test(value) && !option.negated ? [] : render(option, [normaliseAddress(value)]);
    case "-p": {
      const protocol = protocolName(value);
      return protocol === "all" && !option.negated ? [] : render(option, [protocol]);
    }
    default:
      return render(option, option.values);
  }
}

function matchTokens(match: Match): string[] {
  switch (match.module) {
    case "comment":
      return [];
    case "tcp":
    case "udp": {
      const options = match.options.map((option) => flagsOption(portOption(option)));
      options.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
      return options.length === 0 ? [] : ["-m", match.module, ...options.flatMap((option) => render(option))];
    }
    case "mark":
    case "connmark":
      return [
        "-m",
        match.module,
        ...match.options.flatMap((option) => render(option, option.values.map(maskedMark))),
      ];
    default:
      return ["-m", match.module, ...match.options.flatMap((option) => render(option))];
  }
}

function targetTokens(target: Match): string[] {
  const goto = target.options.some((option) => option.name === "-g");
  const head = [goto ? "-g" : "-j", target.module];
  switch (target.module) {
    case "REDIRECT":
      return [...head, ...target.options.flatMap((option) => render(portsOption(option)))];
    case "CONNMARK":
    case "MARK":
      return [...head, ...markTokens(target.options)];
    case "TPROXY":
      return [...head, ...tproxyTokens(target.options)];
    case "CT":
      return [...head, ...target.options.flatMap((option) => render(option, option.values.map(decimal)))];
    default:
      return [
        ...head,
        ...target.options.filter((option) => option.name !== "-g").flatMap((option) => render(option)),
      ];
  }
}

function markTokens(options: readonly Option[]): string[] {
  const optionValue = (name: string) => options.find((option) => option.name === name)?.values[0];
  const setMark = optionValue("--set-mark");
  if (setMark !== undefined) {
    const { value, mask } = parseMark(setMark);
    return ["--set-xmark", `${hex(value)}/${hex((value | mask) >>> 0)}`];
  }
  const setXmark = optionValue("--set-xmark");
  if (setXmark !== undefined) {
    const { value, mask } = parseMark(setXmark);
    return ["--set-xmark", `${hex(value)}/${hex(mask)}`];
  }
  const action = options.find((option) => ["--restore-mark", "--save-mark"].includes(option.name));
  if (action === undefined) return options.flatMap((option) => render(option));
  const mask = optionValue("--mask");
  const maskOf = (name: string) => hex(parseMark(optionValue(name) ?? mask ?? hex(FULL_MASK)).value);
  return [action.name, "--nfmask", maskOf("--nfmask"), "--ctmask", maskOf("--ctmask")];
}

/** No address of its own is what the target has when none is told. Source: iptables-extensions(8), TPROXY. */
function tproxyTokens(options: readonly Option[]): string[] {
  const told = options.filter(
    ({ name, values: [value = ""] }) => name !== "--on-ip" || !["0.0.0.0", "::"].includes(value),
  );
  const named = told.map((option) =>
    option.name === "--tproxy-mark" ? { ...option, values: option.values.map(fullMark) } : option,
  );
  return named.sort((a, b) => (a.name < b.name ? -1 : 1)).flatMap((option) => render(option));
}

/** With its mask, also a full one. */
function fullMark(text: string): string {
  const { value, mask } = parseMark(text);
  return `${hex(value)}/${hex(mask)}`;
}

function portOption(option: Option): Option {
  return { ...option, name: PORT_OPTIONS[option.name] ?? option.name };
}

/** `--syn` is short for those packets that open a connection. Source: iptables-extensions(8), tcp. */
function flagsOption(option: Option): Option {
  if (option.name === "--syn") {
    return { ...option, name: "--tcp-flags", values: ["FIN,SYN,RST,ACK", "SYN"] };
  }
  return option.name === "--tcp-flags" ? { ...option, values: option.values.map(sortFlags) } : option;
}

function sortFlags(text: string): string {
  const given = text.toUpperCase().split(",");
  const flags = TCP_FLAGS.filter((flag) => given.includes(flag) || given.includes("ALL"));
  return flags.length === 0 ? "NONE" : flags.join(",");
}

function portsOption(option: Option): Option {
  return option.name === "--to-port" ? { ...option, name: "--to-ports" } : option;
}

function render(option: Option, values: readonly string[] = option.values): string[] {
  return [...(option.negated ? ["!"] : []), option.name, ...values];
}

function protocolName(value: string): string {
  const lower = value.toLowerCase();
  return PROTOCOL_NAMES[lower] ?? lower;
}

/** `0x539/0xfff` whatever the base of the numbers; a full mask is left out. */
function maskedMark(text: string): string {
  const { value, mask } = parseMark(text);
  return mask === FULL_MASK ? hex(value) : `${hex(value)}/${hex(mask)}`;
}

function parseMark(text: string): { value: number; mask: number } {
  const [value = "", mask] = text.split("/");
  return { value: Number(value), mask: mask === undefined ? FULL_MASK : Number(mask) };
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function decimal(text: string): string {
  const value = Number(text);
  return Number.isInteger(value) ? String(value) : text;
}
