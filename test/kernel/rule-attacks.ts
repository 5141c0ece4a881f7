// SPDX-License-Identifier: Apache-2.0
// What a process with CAP_NET_ADMIN in its own pod can do to keep the pod's rules from being read or judged, and how each ends.
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { cleanEnv } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

/** An attack under way. */
export interface Attack {
  /** Takes away what the attacker made; our own rules are the agent's to mend. */
  end(): Promise<void>;
}

const longMs = 120_000;
/** In a table of others and in a chain beside ours, each: more than 4 MiB of text. */
const manyRules = 100_000;
/** More than is read of a base chain; 200,000 come to the same, and take half a minute to make. */
const rulesBefore = 20_000;

/** Attacks by name. */
export const attacks: Readonly<Record<string, (pod: Pod) => Promise<Attack>>> = {
  "rules that iptables cannot print": async (pod) => {
    await nft(pod, "add chain ip nat odd ; add rule ip nat odd meta random > 5 accept");
    await nft(pod, "add rule ip nat ISTIO_OUTPUT meta random > 5 accept");
    return { end: () => nft(pod, "flush chain ip nat odd ; delete chain ip nat odd") };
  },
  "200,000 rules in a table of others and in a chain beside ours": async (pod) => {
    const others = addresses(manyRules, (ip) => `add rule inet junk c ip saddr ${ip} counter accept`);
    await nft(pod, ["add table inet junk", "add chain inet junk c", ...others].join("\n"));
    const beside = addresses(manyRules, (ip) => `add rule ip nat junk ip saddr ${ip} counter accept`);
    await nft(pod, ["add chain ip nat junk", ...beside].join("\n"));
    await nft(pod, "flush chain ip nat ISTIO_OUTPUT");
    return {
      end: () => nft(pod, "delete table inet junk ; flush chain ip nat junk ; delete chain ip nat junk"),
    };
  },
  "20,000 rules before our jump": async (pod) => {
    const rules = addresses(rulesBefore, (ip) => `insert rule ip nat OUTPUT ip daddr ${ip} counter`);
    await nft(pod, rules.join("\n"));
    return { end: () => nft(pod, "flush chain ip nat OUTPUT") };
  },
  "a generation that changes without end, and a flush": async (pod) => {
    await nft(pod, "add table inet churn ; add chain inet churn c");
    const churn = [background(pod, ["python3", "-c", `${netlink}${changing}`])];
    const before = await ruleGeneration(pod.netns);
    await waitFor("a thousand generations", async () => (await ruleGeneration(pod.netns)) > before + 1_000);
    await nft(pod, "flush chain ip nat ISTIO_OUTPUT");
    return {
      end: async () => {
        for (const each of churn) await stop(each);
        await nft(pod, "delete table inet churn");
      },
    };
  },
  "a table that another process owns": async (pod) => {
    const owner = background(pod, ["nft", "-i"]);
    // in one transaction: nobody is faster
    owner.stdin.write("add table ip nat ; delete table ip nat ; add table ip nat { flags owner ; }\n");
    return { end: () => stop(owner) };
  },
  "a table that is put to sleep": async (pod) => {
    await nft(pod, "add table ip nat { flags dormant ; }");
    return { end: () => nft(pod, "add table ip nat") };
  },
  "a base chain that hangs elsewhere": async (pod) => {
    const elsewhere = "add chain ip nat PREROUTING { type nat hook prerouting priority 7 ; }";
    // in one step: between two the agent would put the chain back
    await nft(pod, `flush chain ip nat PREROUTING ; delete chain ip nat PREROUTING ; ${elsewhere}`);
    return { end: () => nft(pod, "flush chain ip nat PREROUTING ; delete chain ip nat PREROUTING") };
  },
  "a flush between any two steps": async (pod) => {
    const flusher = background(pod, ["sh", "-c", "while :; do nft flush ruleset; done"]);
    return { end: () => stop(flusher) };
  },
  "names of chains with line breaks and ESC, that forge a listing": async (pod) => {
    const lines = (await pod.exec(["iptables-save", "-t", "nat"])).stdout.split("\n");
    const rules = lines.filter((line) => line.startsWith("-A"));
    const names = [
      ...rules.map((line, index) => `za${String(index).padStart(2, "0")} - [0:0]\n${line}\n:q${index}`),
      "zz - [0:0]\nCOMMIT\n*fake\n:q",
      "z\u001b[2J\u001b]0;owned\u0007",
    ];
    await chains(pod, "make", names);
    await nft(pod, "flush chain ip nat ISTIO_OUTPUT");
    return { end: () => chains(pod, "delete", names) };
  },
};

function addresses(length: number, rule: (ip: string) => string): string[] {
  return Array.from({ length }, (_, n) => rule(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`));
}

/** Lines of nft, as one transaction. */
async function nft(pod: Pod, text: string): Promise<void> {
  await pod.exec(["nft", "-f", "-"], { stdin: `${text.replaceAll(" ; ", "\n")}\n`, timeoutMs: longMs });
}

/** nf_tables messages by hand. */
const netlink = `
import socket, struct, sys
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
def attr(t, d):
    n = 4 + len(d)
    return struct.pack("HH", n, t) + d + b"\\0" * ((4 - n % 4) % 4)
def msg(t, f, seq, fam, body, res=0):
    b = struct.pack("!BBH", fam, 0, res) + body
    return struct.pack("IHHII", 16 + len(b), t, f, seq, 0) + b
`;
/** Empties a chain and adds a rule to it, thousands of times a second: each time is a generation. */
const changing = `
where = attr(1, b"churn\\0") + attr(2, b"c\\0")
change = msg((10 << 8) | 8, 1, 2, 1, where) + msg((10 << 8) | 6, 0xc01, 3, 1, where)
batch = msg(0x10, 1, 1, 0, b"", 10) + change + msg(0x11, 1, 4, 0, b"", 10)
while True: s.send(batch)
`;

type Background = ChildProcessByStdio<Writable, Readable, null>;

/** A process of the attacker's, with its children in a group of its own. */
function background(pod: Pod, argv: readonly string[]): Background {
  const child = spawn("nsenter", [`--net=${pod.netns}`, "--", ...argv], {
    env: cleanEnv(),
    stdio: ["pipe", "pipe", "ignore"],
    detached: true,
  });
  child.stdin.on("error", () => {});
  child.stdout.resume();
  return child;
}

async function stop(child: Background): Promise<void> {
  const gone = once(child, "close");
  process.kill(-(child.pid as number), "SIGKILL");
  await gone;
}

/** Chains of table ip nat whose names no tool would send. Source: linux net/netfilter/nf_tables_api.c takes any bytes but NUL. */
async function chains(pod: Pod, doing: "make" | "delete", names: readonly string[]): Promise<void> {
  const script = `${netlink}
kind, flags = ((10 << 8) | 3, 0x405) if sys.argv[1] == "make" else ((10 << 8) | 5, 0x5)
for name in sys.stdin.read().split("\\x01"):
    body = attr(1, b"nat\\0") + attr(3, name.encode() + b"\\0")
    s.send(msg(0x10, 1, 1, 0, b"", 10) + msg(kind, flags, 2, 2, body) + msg(0x11, 1, 3, 0, b"", 10))
    error = struct.unpack("i", s.recv(65536)[16:20])[0]
    if error: sys.exit("%d for %r" % (error, name))
`;
  await pod.exec(["python3", "-c", script, doing], { stdin: names.join("\x01") });
}
