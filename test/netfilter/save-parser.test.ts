// SPDX-License-Identifier: Apache-2.0
// Reading iptables-save: real dumps of both variants, equivalent spellings, and text that is none.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import { parseSave, splitWords } from "../../src/netfilter/save-parser.ts";
import { compareStates, desiredState, joinWords, observedState } from "../redirection/saved-state.ts";
import { FAMILIES, VARIANTS } from "../redirection/variants.ts";

function fixture(name: string): string {
  return readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8");
}

function normalise(text: string): string {
  return normaliseRule(splitWords(text)!).join(" ");
}

describe("real dumps", () => {
  const cases = Object.entries(VARIANTS).flatMap(([name, options]) =>
    FAMILIES.flatMap((family) => ["nft", "legacy"].map((tool) => ({ name, options, family, tool }))),
  );

  test.each(cases)(
    "$name v$family as iptables-$tool prints it equals what we want",
    ({ name, options, family, tool }) => {
      const state = observedState(parseSave(fixture(`${name}.v${family}.${tool}.save`)));
      const desired = desiredState(options, family);
      expect(compareStates(state, desired, family)).toEqual([]);
    },
  );

  test.each(["nft", "legacy"])(
    "rules of others in a %s dump are kept word by word and do not count",
    (tool) => {
      // printed with counters, which nobody asks for here
      const dump = parseSave(fixture(`foreign.v4.${tool}.save`).replaceAll(/^\[\d+:\d+\] /gm, ""));
      const nat = dump.get("nat")!;
      expect(nat.rules.find((rule) => rule.chain === "FOREIGN")!.tokens).toEqual(
        expect.arrayContaining(['it says "-j ISTIO_PRERT" ok', "10.0.0.1:8080"]),
      );
      expect(nat.rules.find((rule) => rule.tokens.includes("LOG"))!.tokens.at(-1)).toBe('odd "prefix" ');
      const drift = compareStates(observedState(dump), desiredState(VARIANTS["reset-default"]!, 4), 4);
      expect(drift).toEqual([
        {
          kind: "extra-rule",
          family: 4,
          table: "nat",
          chain: "PREROUTING",
          detail: "-A PREROUTING -p tcp -j ISTIO_PRERT",
        },
      ]);
    },
  );

  test("the fixtures are all in use", () => {
    const names = readdirSync(new URL("fixtures", import.meta.url));
    expect(names).toHaveLength(cases.length + 2);
  });
});

describe("equivalent spellings", () => {
  test.each([
    ["! -d 127.0.0.1/32 -p tcp", "-p tcp ! -d 127.0.0.1"],
    ["! -d ::1/128 -o lo -j ACCEPT", "-o lo ! -d ::1 -j ACCEPT"],
    ["-s fd16:9254:0:0:0::1/128 -j ACCEPT", "-s FD16:9254::1 -j ACCEPT"],
    ["-s 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"],
    ["-d ::/0 -p tcp -j ACCEPT", "-p tcp -j ACCEPT"],
    ["-s 169.254.7.127/32 -p tcp -m tcp -j ACCEPT", "-s 169.254.7.127 -p tcp -j ACCEPT"],
    ["-p tcp -m tcp ! --dport 15008 -j DROP", "-p tcp ! --dport 15008 -j DROP"],
    ["-p tcp -m mark --mark 1 --dport 53 -j DROP", "-p tcp -m mark --mark 1 -m tcp --dport 53 -j DROP"],
    [
      "-p tcp ! --dport 15008 --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j DROP",
      "-p tcp -m tcp ! --dport 15008 --tcp-flags FIN,SYN,RST,ACK SYN -m mark ! --mark 0x539/0xfff -j DROP",
    ],
    [
      "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff",
      "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
    ],
  ])("%s  =  %s", (one, other) => {
    expect(normalise(one)).toBe(normalise(other));
  });

  test.each([
    ["! -d 127.0.0.1 -j ACCEPT", "-d 127.0.0.1 -j ACCEPT"],
    ["-d 127.0.0.1 -j ACCEPT", "-s 127.0.0.1 -j ACCEPT"],
    ["-d 127.0.0.0/8 -j ACCEPT", "-d 127.0.0.0 -j ACCEPT"],
    ["-d ::1/32 -j ACCEPT", "-d ::1 -j ACCEPT"],
    ["! -s 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp --sport 53 -j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp -j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp ! --dport 53 -j ACCEPT"],
    ["-p tcp --dport 53 -m mark --mark 1 -j ACCEPT", "-p tcp -m mark --mark 1 -m tcp --dport 53 -j ACCEPT"],
    ["-m mark --mark 0x539/0xfff -j ACCEPT", "-m mark --mark 0x539 -j ACCEPT"],
    ["-m mark --mark 0x539 -j ACCEPT", "-m connmark --mark 0x539 -j ACCEPT"],
    ["-j CONNMARK --restore-mark", "-j CONNMARK --save-mark"],
    ["-j REDIRECT --to-ports 15001", "-j REDIRECT --to-ports 15006"],
    ["-j REDIRECT --to-ports 15001", "-j REDIRECT --to-ports 15001 --random"],
    ["-j TPROXY --on-port 15006 --on-ip 10.0.0.1", "-j TPROXY --on-port 15006"],
    ["-j CT --zone 1", "-j CT --zone 2"],
    ["-j ISTIO_PRERT", "-g ISTIO_PRERT"],
    ["-i eth0 -j ACCEPT", "-o eth0 -j ACCEPT"],
    ["-m conntrack --ctstate NEW -j ACCEPT", "-j ACCEPT"],
    ["-f -j ACCEPT", "-j ACCEPT"],
    ["-p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "-p tcp --tcp-flags SYN,ACK SYN -j DROP"],
  ])("%s  is not  %s", (one, other) => {
    expect(normalise(one)).not.toBe(normalise(other));
  });
});

describe("words", () => {
  test.each([
    ["-A X -j Y", ["-A", "X", "-j", "Y"]],
    ['--comment "a b" -j Y', ["--comment", "a b", "-j", "Y"]],
    ['--comment "say \\"hi\\" \\\\ it\\\'s"', ["--comment", 'say "hi" \\ it\'s']],
    ['--comment ""', ["--comment", ""]],
    ["  -A\tX  ", ["-A", "X"]],
    ["", []],
  ])("%s splits", (line, words) => {
    expect(splitWords(line)).toEqual(words);
    expect(splitWords(joinWords(words))).toEqual(words);
  });

  test.each(['--comment "a', 'a"b', '"a"b', '"a\\"'])("%s has an open or stray quote", (line) => {
    expect(splitWords(line)).toBeUndefined();
  });
});

describe("the dump's frame", () => {
  test("an empty dump has no tables, and neither has one that iptables-nft cannot show", () => {
    expect(parseSave("").size).toBe(0);
    expect(parseSave("# Table `nat' is incompatible, use 'nft' tool.\n").size).toBe(0);
  });

  test.each([
    ["-A OUTPUT -j X\n", "line 1"],
    ["*nat\nhello\nCOMMIT\n", "line 2"],
    ["*nat\n:OUTPUT\nCOMMIT\n", "line 2"],
    ["*nat\n-A\nCOMMIT\n", "line 2"],
    ["*nat\n-D OUTPUT -j X\nCOMMIT\n", "line 2"],
    ['*nat\n-A OUTPUT -m comment --comment "x\nCOMMIT\n', "line 2"],
    ["*nat\n:OUTPUT ACCEPT [0:0]\n*raw\nCOMMIT\n", "line 3"],
    ["*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j", "ends inside"],
    ["Segmentation fault\n", "line 1"],
  ])("%j is refused: %s", (text, why) => {
    const attempt = () => parseSave(text);
    expect(attempt).toThrow(SyntaxError);
    expect(attempt).toThrow(why);
  });
});
