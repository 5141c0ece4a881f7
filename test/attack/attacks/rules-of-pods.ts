// SPDX-License-Identifier: Apache-2.0
// Attacks of a process with NET_ADMIN in its own pod: on its rules, on the look at them, and past them.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { attacks as ruleAttacks } from "../../kernel/rule-attacks.ts";
import type { Pod } from "../../support/node/pod.ts";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { Attack } from "../attack.ts";
import { endGroup, PLAIN, repeat, type Scene } from "../scene.ts";

const mendLimitMs = 10_000;

/** Another pod loses its rules while the attack lasts: it has to be mended. @returns how long that took, in ms */
async function mendAnother(scene: Scene): Promise<number> {
  const victim = await scene.evilPod();
  try {
    const rules = async (): Promise<number> =>
      (await victim.exec(["iptables-nft", "-t", "nat", "-S", "ISTIO_OUTPUT"])).stdout.split("\n").length;
    const before = await rules();
    const startMs = performance.now();
    await victim.exec(["nft", "flush", "chain", "ip", "nat", "ISTIO_OUTPUT"]);
    await waitFor("the other pod to be mended", async () => (await rules()) === before, {
      timeoutMs: 20_000,
      intervalMs: 20,
    });
    return performance.now() - startMs;
  } finally {
    await scene.remove(victim);
  }
}

const shortNames: Readonly<Record<string, string>> = {
  "rules that iptables cannot print": "unprintable-rules",
  "200,000 rules in a table of others and in a chain beside ours": "many-foreign-rules",
  "20,000 rules before our jump": "many-rules-before",
  "a generation that changes without end, and a flush": "endless-generations",
  "a table that another process owns": "owned-table",
  "a table that is put to sleep": "dormant-table",
  "a base chain that hangs elsewhere": "moved-hook",
  "a flush between any two steps": "flush-loop",
  "names of chains with line breaks and ESC, that forge a listing": "forged-listing",
};

function onRules(what: string): Attack {
  const name = shortNames[what];
  const attack = ruleAttacks[what];
  if (name === undefined || attack === undefined) throw new Error(`There is no attack "${what}"`);
  return {
    name,
    what,
    bound: `another pod's flushed rules are mended within ${mendLimitMs / 1000} s`,
    run: async (scene, atHeight) => {
      const evil = await scene.evilPod();
      const under = await attack(evil);
      try {
        const ms = await mendAnother(scene);
        await atHeight();
        return { measured: `mended in ${Math.round(ms)} ms`, ok: ms < mendLimitMs };
      } finally {
        await under.end().catch(() => {});
        await scene.remove(evil);
      }
    },
  };
}

/** Something that the pod makes once and that makes each look at it cost more. */
function burden(name: string, what: string, make: (pod: Pod) => Promise<unknown>): Attack {
  return {
    name,
    what,
    bound: `another pod's flushed rules are mended within ${mendLimitMs / 1000} s`,
    run: async (scene, atHeight) => {
      const evil = await scene.evilPod();
      try {
        await make(evil);
        const ms = await mendAnother(scene);
        await atHeight();
        return { measured: `mended in ${Math.round(ms)} ms`, ok: ms < mendLimitMs };
      } finally {
        await scene.remove(evil);
      }
    },
  };
}

const lines = (count: number, of: (index: number) => string): string =>
  `${Array.from({ length: count }, (_, index) => of(index)).join("\n")}\n`;
const timeoutMs = 60_000;

/** A rule before ours by which traffic passes ztunnel. */
function bypass(name: string, what: string, command: readonly string[]): Attack {
  return {
    name,
    what,
    bound: "named as AmbientMayBeBypassed within 8 s",
    run: async (scene, atHeight) => {
      const evil = await scene.evilPod();
      try {
        const named = async (): Promise<boolean> =>
          ((await scene.report(evil)).observed?.bypasses?.found ?? []).length > 0;
        if (await named()) throw new Error("a bypass is named before there is one");
        const startMs = performance.now();
        await evil.exec(command);
        await waitFor("the bypass to be named", named, { timeoutMs: 15_000, intervalMs: 50 });
        const ms = performance.now() - startMs;
        const isTold = (): boolean =>
          scene.mesh.api.store.list("events").some((object) => {
            const { reason, involvedObject } = object as unknown as {
              reason: string;
              involvedObject: { uid: string };
            };
            return reason === "AmbientMayBeBypassed" && involvedObject.uid === evil.uid;
          });
        await atHeight();
        // what no kernel announces (iptables-legacy) is found by the clock: five intervals of the scene's 2 s, and its jitter
        const told = await waitFor("the Event", isTold, { timeoutMs: 20_000 }).catch(() => false);
        return {
          measured: `named after ${Math.round(ms)} ms, ${told ? "with" : "WITHOUT"} an Event`,
          ok: told && ms < 8_000,
        };
      } finally {
        await scene.remove(evil);
      }
    },
  };
}

const setMark = ["-p", "tcp", "-j", "MARK", "--set-mark", "0x539"];

export const rulesOfPods: readonly Attack[] = [
  ...Object.keys(shortNames).map(onRules),
  burden("many-addresses", "4,000 addresses on the pod's loopback", (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: lines(4_000, (i) => `address add 10.100.${(i >> 8) & 255}.${i & 255}/32 dev lo`),
      timeoutMs,
    }),
  ),
  burden("many-ip-rules", "5,000 ip rules", (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: lines(5_000, (i) => `rule add pref ${1 + i} from 10.0.${(i >> 8) & 255}.${i & 255} lookup 77`),
      timeoutMs,
    }),
  ),
  burden("many-routes", "10,000 routes in our table", (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: lines(10_000, (i) => `route add local 11.0.${(i >> 8) & 255}.${i & 255}/32 dev lo table 100`),
      timeoutMs,
    }),
  ),
  burden("routes-without-end", "300,000 routes in our table", (pod) =>
    pod.exec(["ip", "-batch", "-"], {
      stdin: lines(
        300_000,
        (i) => `route add local 11.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 dev lo table 100`,
      ),
      timeoutMs,
    }),
  ),
  burden("many-legacy-rules", "50,000 rules of iptables-legacy", (pod) =>
    pod.exec(["iptables-legacy-restore", "--noflush"], {
      stdin: `*nat\n:EVIL -\n${lines(50_000, () => "-A EVIL -s 10.1.2.3 -j RETURN")}COMMIT\n`,
      timeoutMs,
    }),
  ),
  bypass("accept-before-us", "an ACCEPT before our jump", [
    "iptables",
    ...["-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT"],
  ]),
  bypass("mark-in-mangle", "ztunnel's mark, set in mangle before us", [
    "iptables",
    ...["-t", "mangle", "-I", "OUTPUT", "1", ...setMark],
  ]),
  bypass("mark-by-legacy", "ztunnel's mark, set by iptables-legacy", [
    "iptables-legacy",
    ...["-t", "mangle", "-A", "OUTPUT", ...setMark],
  ]),
  bypass("mark-in-own-table", "ztunnel's mark, set in a table of its own at an earlier hook", [
    "nft",
    "add table ip z; add chain ip z o { type route hook output priority -300; }; add rule ip z o meta mark set 0x539",
  ]),
  bypass("untracked", "connections that are not tracked", [
    "iptables",
    ...["-t", "raw", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "CT", "--notrack"],
  ]),
  {
    name: "conntrack-full",
    what: "a captured pod fills its connection tracking, and leaves and enters the mesh meanwhile",
    bound: "it ends captured within 20 s",
    run: async (scene, atHeight) => {
      const pod = await scene.evilPod();
      try {
        const most = Number((await run(["cat", "/proc/sys/net/netfilter/nf_conntrack_max"])).stdout);
        const { stdout } = await pod.exec(["python3", "-c", fillConntrack, String(most)], { timeoutMs });
        const count = Number(stdout);
        const startMs = performance.now();
        await repeat(2, 700, (index) =>
          scene.mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": index === 0 ? "none" : null }),
        );
        await atHeight();
        await scene.untilState(pod, "enrolled", 20_000);
        const ms = performance.now() - startMs;
        return {
          measured: `${count} of ${most} entries, captured again within ${Math.round(ms)} ms`,
          ok: count > most * 0.9 && ms < 20_000,
        };
      } finally {
        await scene.remove(pod);
      }
    },
  },
  {
    name: "thousands-of-sockets",
    what: "a pod with 5,000 connections within itself and 500 listeners enters the mesh",
    bound: "captured within 10 s",
    run: async (scene, atHeight) => {
      const pod = await scene.mesh.kubelet.runPod({ namespace: PLAIN, name: scene.fresh("sockets") });
      const app = scene.inPod(pod, ["prlimit", "--nofile=20000:20000", "--", "python3", "-c", manySockets]);
      try {
        let out = "";
        app.stdout?.on("data", (part) => {
          out += String(part);
        });
        await waitFor("the sockets", () => out.includes("open"), { timeoutMs: 20_000 });
        const startMs = performance.now();
        scene.mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": "ambient" });
        await Promise.all([scene.untilState(pod, "enrolled"), atHeight()]);
        const ms = performance.now() - startMs;
        return { measured: `${out.trim()}, captured within ${Math.round(ms)} ms`, ok: ms < 10_000 };
      } finally {
        await endGroup(app);
        await scene.remove(pod);
      }
    },
  },
  {
    name: "ip-reuse",
    what: "15 pods one after the other get and leave the same address",
    bound: "each is captured, and only those that are there are in the node's probe sets",
    run: async (scene, atHeight) => {
      let captured = 0;
      const addresses = new Set<string>();
      const lastReserved = join(scene.mesh.node.scratch, "ipam/podnet/last_reserved_ip.0");
      const churn = async (): Promise<void> => {
        for (let round = 0; round < 15; round++) {
          // the plugin begins again with the lowest address
          await rm(lastReserved, { force: true });
          const pod = await scene.evilPod({ name: "same-name" });
          addresses.add(pod.ip4);
          if ((await scene.report(pod)).state === "enrolled") captured++;
          await scene.remove(pod);
        }
      };
      await Promise.all([churn(), atHeight()]);
      const wanted = scene.bystanders.map(({ ip4 }) => ip4).sort();
      let listed: string[] = [];
      const isRight = async (): Promise<boolean> => {
        const { stdout } = await run(["ipset", "list"]);
        const found = stdout.matchAll(/^(10\.210\.\d+\.\d+)(?: |$)/gm);
        listed = [...new Set(Array.from(found, ([, ip]) => ip ?? ""))].sort();
        return listed.join() === wanted.join();
      };
      const right = await waitFor("the probe sets", isRight, { timeoutMs: 10_000, intervalMs: 50 }).catch(
        () => false,
      );
      return {
        measured: `${captured} of 15 captured, ${addresses.size} addresses, ${listed.length} in the sets (${wanted.length} wanted)`,
        ok: captured === 15 && right && addresses.size < 10,
      };
    },
  },
];

/** For an agent whose programs wait for that lock. */
export const lockByPod: Attack = {
  name: "lock-by-pod",
  what: "a process without rights holds the lock of its namespace's file while it is captured",
  bound: "captured within 10 s",
  run: async (scene, atHeight) => {
    const pod = await scene.mesh.kubelet.runPod({ namespace: PLAIN, name: scene.fresh("locker") });
    const script =
      "import fcntl,time;f=open('/proc/self/ns/net');fcntl.flock(f,fcntl.LOCK_EX);print('locked',flush=True);time.sleep(600)";
    const nobody = [
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      "--bounding-set=-all",
      "--no-new-privs",
    ];
    const locker = scene.inPod(pod, [...nobody, "python3", "-c", script]);
    try {
      let out = "";
      locker.stdout?.on("data", (part) => {
        out += String(part);
      });
      await waitFor("the lock", () => out.includes("locked"));
      const startMs = performance.now();
      scene.mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": "ambient" });
      await Promise.all([atHeight(), scene.untilState(pod, "enrolled")]);
      const ms = performance.now() - startMs;
      return { measured: `captured within ${Math.round(ms)} ms`, ok: ms < 10_000 };
    } finally {
      await endGroup(locker);
      await scene.remove(pod);
    }
  },
};

/** One datagram to each of very many ports of the pod's own loopback addresses. Prints how many entries there are. */
const fillConntrack = `
import socket, sys
most = int(sys.argv[1])
sent = 0
for net in range(1, 250):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for port in range(1024, 65000):
        if sent >= most + 1000: break
        try: s.sendto(b"", ("127.0.%d.2" % net, port))
        except OSError: pass
        sent += 1
print(open("/proc/sys/net/netfilter/nf_conntrack_count").read())
`;

const manySockets = `
import socket, time
keep = []
for i in range(500):
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(("0.0.0.0", 20000 + i)); l.listen(64); keep.append(l)
for i in range(5000):
    c = socket.socket(); c.connect(("127.0.0.1", 20000 + i % 500)); a, _ = keep[i % 500].accept()
    keep += [c, a]
print("%d open" % len(keep), flush=True)
time.sleep(600)
`;
