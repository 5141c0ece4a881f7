// SPDX-License-Identifier: Apache-2.0
// Brings one rule of ours into one spelling, whether it is as we tell it or as iptables-save prints it.
import { isIPv6 } from "node:net";
import { canonicalAddress } from "../linux/address.ts";

interface Option {
  readonly name: string;
  readonly negated: boolean;
  readonly values: string[];
}

/** A match or a target with its options. */
interface Extension {
  readonly flag: string;
  readonly module: string;
  readonly options: Option[];
}

/** In the order of iptables-save. */
const BASE_OPTIONS: readonly string[] = ["-s", "-d", "-i", "-o", "-p"];
const EXTENSION_FLAGS: readonly string[] = ["-m", "-j", "-g"];
/** Options of `-m tcp` and `-m udp` may stand anywhere behind `-p`, which loads that match. */
const PROTOCOL_OPTIONS: readonly string[] = ["--dport", "--sport", "--tcp-flags"];

/**
 * Brings the arguments of a rule (everything that follows `-A CHAIN`) into normal form: equal rules have equal tokens, in the kernel's
 * order of matches. Only what our own words and the program's differ in is made equal: the order of addresses and devices, whole and
 * empty prefixes, spellings of IPv6, matches that a protocol loads, and the address that TPROXY has when none is told.
 * Source: iptables(8); iptables-extensions(8), TPROXY.
 */
export function normaliseRule(args: readonly string[]): string[] {
  const base: Option[] = [];
  const extensions: Extension[] = [];
  for (const option of splitOptions(args)) {
    const { name, values } = option;
    if (BASE_OPTIONS.includes(name)) base.push(option);
    else if (EXTENSION_FLAGS.includes(name))
      extensions.push({ flag: name, module: values[0] ?? "", options: [] });
    else extensionOf(option, base, extensions).options.push(option);
  }
  return [
    ...BASE_OPTIONS.flatMap((name) => base.filter((option) => option.name === name).flatMap(baseTokens)),
    ...extensions.flatMap(extensionTokens),
  ];
}

/** Splits arguments at options; `!` stands before the option. */
function splitOptions(args: readonly string[]): Option[] {
  const options: Option[] = [];
  let negated = false;
  for (const token of args) {
    if (token === "!") negated = true;
    else if (/^-{1,2}[A-Za-z]/.test(token) || options.length === 0) {
      options.push({ name: token, negated, values: [] });
      negated = false;
    } else options.at(-1)?.values.push(token);
  }
  return options;
}

/** The match or target that an option belongs to. */
function extensionOf({ name }: Option, base: readonly Option[], extensions: Extension[]): Extension {
  const last = extensions.at(-1);
  if (last !== undefined && !PROTOCOL_OPTIONS.includes(name)) return last;
  const [module = ""] = base.find((option) => option.name === "-p")?.values ?? [];
  const loaded = extensions.find((extension) => extension.module === module);
  if (loaded !== undefined) return loaded;
  const implied: Extension = { flag: "-m", module, options: [] };
  extensions.push(implied);
  return implied;
}

function baseTokens({ name, negated, values }: Option): string[] {
  if (name !== "-s" && name !== "-d") return render({ name, negated, values });
  const [address = "", prefix] = (values[0] ?? "").split("/");
  if (prefix === "0" && !negated) return [];
  const isWhole = prefix === undefined || prefix === (isIPv6(address) ? "128" : "32");
  const canonical = canonicalAddress(address);
  return render({ name, negated, values: [isWhole ? canonical : `${canonical}/${prefix}`] });
}

function extensionTokens({ flag, module, options }: Extension): string[] {
  // a protocol's match without options says no more than the protocol
  if (flag === "-m" && (module === "tcp" || module === "udp") && options.length === 0) return [];
  const isTold = ({ name, values: [value = ""] }: Option) =>
    name !== "--on-ip" || !["0.0.0.0", "::"].includes(value);
  return [flag, module, ...options.filter(isTold).flatMap(render)];
}

function render({ name, negated, values }: Option): string[] {
  return [...(negated ? ["!"] : []), name, ...values];
}
