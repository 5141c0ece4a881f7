// SPDX-License-Identifier: Apache-2.0
// Reading iptables-save: real dumps of both variants, equivalent spellings, and text that is none.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import { parseSave, SaveParseError, splitWords } from "../../src/netfilter/save-parser.ts";
import { compareStates, desiredState, joinWords, observedState } from "../redirection/saved-state.ts";
import { FAMILIES, VARIANTS } from "../redirection/variants.ts";

function fixture(name: string): string {
  return readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8");
}

function normalise(text: string): string {
  return normaliseRule(splitWords(text)!).tokens.join(" ");
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
      const dump = parseSave(fixture(`foreign.v4.${tool}.save`));
      const nat = dump.tables.get("nat")!;
      expect(nat.rules.find((rule) => rule.chain === "FOREIGN")!.words).toEqual(
        expect.arrayContaining(['it says "-j ISTIO_PRERT" ok', "10.0.0.1:8080"]),
      );
      expect(nat.rules.find((rule) => rule.words.includes("LOG"))!.words.at(-1)).toBe('odd "prefix" ');
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
    ["! -d 127.0.0.1/32 -p tcp", "-p tcp -d ! 127.0.0.1"],
    ["! -d 127.0.0.1/255.255.255.255 -p tcp", "! -d 127.0.0.1 -p 6"],
    ["-s 10.0.0.0/8 -j ACCEPT", "--source 10.0.0.0/255.0.0.0 --jump ACCEPT"],
    ["! -d ::1/128 -o lo -j ACCEPT", "-o lo ! -d ::1 -j ACCEPT"],
    ["-s fd16:9254:0:0:0::1/128 -j ACCEPT", "-s FD16:9254::1 -j ACCEPT"],
    ["-s fe80::/10 -j ACCEPT", "-s fe80::/ffc0:: -j ACCEPT"],
    ["-s 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"],
    ["-p all -j ACCEPT", "-j ACCEPT"],
    ["-s 169.254.7.127/32 -p tcp -m tcp -j ACCEPT", "-s 169.254.7.127 -p tcp -j ACCEPT"],
    ["-p tcp -m tcp ! --dport 15008 -j DROP", "-p tcp ! --dport 15008 -j DROP"],
    ["-p tcp -m tcp ! --dport 15008 -j DROP", "-p tcp -m tcp --dport ! 15008 -j DROP"],
    ["-p tcp --destination-port=53 -j DROP", "-p tcp -m tcp --dport 53 -j DROP"],
    ["-p udp -m udp --sport 1 --dport 2 -j DROP", "-p udp -m udp --dport 2 --sport 1 -j DROP"],
    ["-p udp -m udp --dport 53 -j REDIRECT --to-port 15053", "-p 17 --dport 53 -j REDIRECT --to-ports 15053"],
    ["-m mark --mark 0x539/0xfff -j ACCEPT", "-m mark --mark 1337/4095 -j ACCEPT"],
    ["-m mark ! --mark 0x539/0xFFF -j ACCEPT", "-m mark --mark ! 0x539/0xfff -j ACCEPT"],
    ["-m mark --mark 0x539/0xffffffff -j ACCEPT", "-m mark --mark 0x539 -j ACCEPT"],
    [
      "-m mark --mark 0x539 -j CONNMARK --set-xmark 0x111/0xfff",
      "-m mark --mark 0x539 -j CONNMARK --set-mark 0x111/0xfff",
    ],
    ["-j CONNMARK --set-xmark 0x111/0xffffffff", "-j CONNMARK --set-mark 273"],
    ["-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", "-j CONNMARK --restore-mark"],
    ["-j CONNMARK --restore-mark --mask 0xff", "-j CONNMARK --restore-mark --ctmask 255 --nfmask 0xff"],
    ["-j CT --zone 1", "-j CT --zone 0x1"],
    ['-m comment --comment "ours, keep" -j ACCEPT', "-j ACCEPT"],
    ["-c 12 3456 -j ACCEPT", "-j ACCEPT"],
    ["-p TCP -j ACCEPT", "-p tcp -j ACCEPT"],
    ["-p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "-p tcp -m tcp --syn -j DROP"],
    ["-p tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "-p tcp -m tcp ! --syn -j DROP"],
    ["-p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "-p tcp --tcp-flags ack,rst,SYN,fin syn -j DROP"],
    ["-p tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP", "-p tcp --tcp-flags ALL NONE -j DROP"],
    ["-p tcp -m mark --mark 1 --syn -j DROP", "-p tcp -m mark --mark 1 -m tcp --syn -j DROP"],
    [
      "-p tcp ! --dport 15008 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
      "-p tcp -m tcp --syn ! --dport 15008 -j DROP",
    ],
  ])("%s  =  %s", (one, other) => {
    expect(normalise(one)).toBe(normalise(other));
  });

  test.each([
    ["! -d 127.0.0.1 -j ACCEPT", "-d 127.0.0.1 -j ACCEPT"],
    ["-d 127.0.0.1 -j ACCEPT", "-s 127.0.0.1 -j ACCEPT"],
    ["-d 127.0.0.0/8 -j ACCEPT", "-d 127.0.0.0 -j ACCEPT"],
    ["! -s 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"],
    ["! -p all -j ACCEPT", "-j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp --sport 53 -j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp -j ACCEPT"],
    ["-p tcp --dport 53 -j ACCEPT", "-p tcp ! --dport 53 -j ACCEPT"],
    ["-p tcp --dport 53 -m mark --mark 1 -j ACCEPT", "-p tcp -m mark --mark 1 -m tcp --dport 53 -j ACCEPT"],
    ["-m mark --mark 0x539/0xfff -j ACCEPT", "-m mark --mark 0x539 -j ACCEPT"],
    ["-m mark --mark 0x539 -j ACCEPT", "-m connmark --mark 0x539 -j ACCEPT"],
    ["-j CONNMARK --set-xmark 0xfff/0x1", "-j CONNMARK --set-mark 0xfff/0x1"],
    ["-j CONNMARK --restore-mark", "-j CONNMARK --save-mark"],
    ["-j CONNMARK --restore-mark --nfmask 0xff", "-j CONNMARK --restore-mark --ctmask 0xff"],
    ["-j REDIRECT --to-ports 15001", "-j REDIRECT --to-ports 15006"],
    ["-j REDIRECT --to-ports 15001", "-j REDIRECT --to-ports 15001 --random"],
    ["-j CT --zone 1", "-j CT --zone 2"],
    ["-j CT --zone 1", "-j CT --zone-orig 1"],
    ["-j ISTIO_PRERT", "-g ISTIO_PRERT"],
    ["-i eth0 -j ACCEPT", "-o eth0 -j ACCEPT"],
    ["-m conntrack --ctstate NEW -j ACCEPT", "-j ACCEPT"],
    ["-f -j ACCEPT", "-j ACCEPT"],
    ["-p tcp --syn -j DROP", "-p tcp -j DROP"],
    ["-p tcp --syn -j DROP", "-p tcp ! --syn -j DROP"],
    ["-p tcp --syn -j DROP", "-p tcp --tcp-flags SYN,ACK SYN -j DROP"],
    ["-p tcp --syn -j DROP", "-p tcp --tcp-flags FIN,SYN,RST,ACK SYN,ACK -j DROP"],
  ])("%s  is not  %s", (one, other) => {
    expect(normalise(one)).not.toBe(normalise(other));
  });

  test.each([
    ["-j ISTIO_PRERT", "ISTIO_PRERT"],
    ["-g ISTIO_PRERT", "ISTIO_PRERT"],
    ["-m comment --comment -j -j ACCEPT", "ACCEPT"],
    ['-m comment --comment "-j ISTIO_PRERT" -j DROP', "DROP"],
    ["-p tcp", undefined],
  ])("%s leads to %s", (text, target) => {
    expect(normaliseRule(splitWords(text)!).target).toBe(target);
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
  test("counters, chains made by -N, blank lines and repeated tables are understood", () => {
    const text =
      "\n*nat\n:OUTPUT ACCEPT [1:60]\n-N OWN\n[3:4] -A OUTPUT -j OWN\nCOMMIT\n*nat\n-A OWN -j RETURN\nCOMMIT";
    const nat = parseSave(text).tables.get("nat")!;
    expect([...nat.chains]).toEqual([
      ["OUTPUT", "ACCEPT"],
      ["OWN", "-"],
    ]);
    expect(nat.rules.map((rule) => [rule.chain, rule.words])).toEqual([
      ["OUTPUT", ["-j", "OWN"]],
      ["OWN", ["-j", "RETURN"]],
    ]);
  });

  test("an empty dump has no tables", () => {
    expect(parseSave("").tables.size).toBe(0);
    expect(parseSave("# Warning: nothing here\n").tables.size).toBe(0);
  });

  test("a table that iptables-nft cannot show is named", () => {
    expect(parseSave("# Table `nat' is incompatible, use 'nft' tool.\n").unreadable).toEqual(["nat"]);
  });

  test.each([
    ["-A OUTPUT -j X\n", 1, "it belongs to no table"],
    ["*nat\nhello\nCOMMIT\n", 2, "it is no statement"],
    ["*nat\n:OUTPUT\nCOMMIT\n", 2, "a name and a policy"],
    ["*nat\n-A\nCOMMIT\n", 2, "names no chain"],
    ["*nat\n[1:2] -D OUTPUT -j X\nCOMMIT\n", 2, "it is no statement"],
    ['*nat\n-A OUTPUT -m comment --comment "x\nCOMMIT\n', 2, "a quote is not closed"],
    ["*nat\n:OUTPUT ACCEPT [0:0]\n*raw\nCOMMIT\n", 3, "table nat is not finished"],
    ["*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j", 3, "ends inside table nat"],
    ["Segmentation fault\n", 1, "it belongs to no table"],
  ])("%j is refused at line %i", (text, line, why) => {
    const attempt = () => parseSave(text);
    expect(attempt).toThrow(SaveParseError);
    expect(attempt).toThrow(why);
    expect(attempt).toThrow(`line ${line} `);
  });
});
