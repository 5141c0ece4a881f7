// SPDX-License-Identifier: Apache-2.0
// Puts a pod's rules on the ways of its packets: stops in the order in which a packet meets them. No DOM.
import type { ObservedReport } from "../../status/state-report.ts";
import type { PacketPath, PathStage, PodRulesReport, RuleReport } from "../rules-report.ts";

/** Counters of one family on a stop. */
export interface StopCount {
  readonly family: 4 | 6;
  readonly packets: number;
  readonly bytes: number;
  readonly state: RuleReport["state"];
}

/** A rule, of both families where both have it. */
export interface RuleStop {
  readonly kind: "rule";
  readonly key: string;
  readonly title: string;
  /** Table and chain. */
  readonly where: string;
  /** What a packet must be like. */
  readonly matches: string;
  /** Where the rule sends the packet. */
  readonly verdict: string;
  readonly state: RuleReport["state"];
  readonly counts: readonly StopCount[];
}

/** Something that is no rule: the app, a socket, the network. */
export interface PlaceStop {
  readonly kind: "place";
  readonly key: string;
  readonly title: string;
  /** `null`: not known. */
  readonly isRight: boolean | null;
  readonly note: string;
}

export type Stop = RuleStop | PlaceStop;

/** One way of a packet. */
export interface Lane {
  readonly path: PacketPath;
  readonly title: string;
  readonly stops: readonly Stop[];
}

type Step = PathStage | ((observed: ObservedReport | null) => PlaceStop);

interface LanePlan {
  readonly path: PacketPath;
  readonly title: string;
  readonly steps: readonly Step[];
}

const plans: readonly LanePlan[] = [
  {
    path: "in",
    title: "In: a peer connects to the app",
    steps: [
      place("peer", "A peer in the network"),
      "capture",
      socket("ztunnel terminates it", [15006, 15008], "tcp"),
      "mark",
      place("app", "The app, which sees the peer's address"),
      "reply",
      routing,
      "let-go",
    ],
  },
  {
    path: "out",
    title: "Out: the app opens a connection",
    steps: [
      place("app", "The app"),
      "virtual-interface",
      "self",
      "capture",
      socket("ztunnel sends it on", [15001], "tcp"),
      place("peer", "The network"),
    ],
  },
  {
    path: "dns",
    title: "DNS: the app asks for a name",
    steps: [
      place("app", "The app"),
      "capture",
      socket("ztunnel answers", [15053], "any"),
      "apart",
      "apart-back",
    ],
  },
  {
    path: "probe",
    title: "Probe: the kubelet checks the app",
    steps: [probeSet, "arrive", place("app", "The app, without ztunnel between"), "answer"],
  },
  { path: "other", title: "Not ours: rules of others in our chains", steps: ["unknown"] },
];

/** The ways of a pod's packets; one without any rule is left out. */
export function packetLanes(rules: PodRulesReport, observed: ObservedReport | null): Lane[] {
  return plans.flatMap(({ path, title, steps }) => {
    const stages = steps.flatMap((step): Stop[] =>
      typeof step === "string" ? ruleStops(rules, { path, stage: step }) : [step(observed)],
    );
    return stages.some(({ kind }) => kind === "rule") ? [{ path, title, stops: stages }] : [];
  });
}

/** Faults that no single rule shows: a chain that nothing enters. */
export function missingHooks({ families }: PodRulesReport): string[] {
  return families.flatMap(({ family, hooks }) =>
    hooks
      .filter(({ present }) => !present)
      .map(
        ({ table, chain, from }) => `IPv${family}: nothing leads from ${from} to ${chain} in table ${table}`,
      ),
  );
}

/** The rule's target with what belongs to it: "REDIRECT 15001". */
export function verdictOf(text: string): string {
  const [, target = "", rest = ""] = /(?:^| )-j (\S+)(.*)$/.exec(text) ?? [];
  const port = /--to-ports (\d+)/.exec(rest)?.[1];
  if (port !== undefined) return `REDIRECT ${port}`;
  const mark = /--set-x?mark (0x[0-9a-f]+)/.exec(rest)?.[1];
  if (mark !== undefined) return `CONNMARK ${mark}`;
  if (rest.includes("--restore-mark")) return "MARK restored";
  const zone = /--zone (\d+)/.exec(rest)?.[1];
  return zone === undefined ? target : `CT zone ${zone}`;
}

function ruleStops(
  { families }: PodRulesReport,
  { path, stage }: { path: PacketPath; stage: PathStage },
): RuleStop[] {
  const stops = new Map<string, RuleReport & { counts: StopCount[] }>();
  for (const { family, rules } of families) {
    const here = rules.filter((rule) => rule.path === path && rule.stage === stage);
    const seen = new Map<string, number>();
    for (const rule of here) {
      // families differ in addresses only: what a rule is for makes it the same rule
      const purpose = `${rule.table} ${rule.chain} ${rule.comment ?? rule.text}`;
      const ordinal = seen.get(purpose) ?? 0;
      seen.set(purpose, ordinal + 1);
      const key = `${purpose} ${ordinal}`;
      const { packets, bytes, state } = rule;
      const known = stops.get(key);
      if (known === undefined) stops.set(key, { ...rule, counts: [{ family, packets, bytes, state }] });
      else known.counts.push({ family, packets, bytes, state });
    }
  }
  return [...stops].map(([key, { table, chain, text, comment, counts }]) => ({
    kind: "rule",
    key,
    title: titleOf(comment),
    where: `${table} ${chain}`,
    matches: text.replace(/(^| )-[jg] .*$/, ""),
    verdict: verdictOf(text),
    state: counts.find(({ state }) => state !== "present")?.state ?? "present",
    counts,
  }));
}

function titleOf(comment: string | null): string {
  if (comment === null) return "A rule that the agent does not know";
  return comment.startsWith("ztunnel") ? comment : comment.charAt(0).toUpperCase() + comment.slice(1);
}

function place(key: string, title: string): () => PlaceStop {
  return () => ({ kind: "place", key: `place ${key} ${title}`, title, isRight: null, note: "" });
}

function socket(
  title: string,
  ports: readonly number[],
  protocol: "tcp" | "any",
): (observed: ObservedReport | null) => PlaceStop {
  return (observed) => {
    const sockets = observed?.sockets?.filter(
      (each) => ports.includes(each.port) && (protocol === "any" || each.protocol === protocol),
    );
    const silent = sockets
      ?.filter(({ listening }) => !listening)
      .map(({ port, protocol }) => `${port}/${protocol}`);
    const isKnown = sockets !== undefined && sockets.length > 0;
    return {
      kind: "place",
      key: `socket ${ports.join()}`,
      title: `${title}, port ${ports.join(" or ")}`,
      isRight: isKnown ? silent?.length === 0 : null,
      note: !isKnown ? "" : silent?.length === 0 ? "listening" : `nobody listens on ${silent?.join(", ")}`,
    };
  };
}

function routing(observed: ObservedReport | null): PlaceStop {
  const families = observed?.families.filter(({ ipRule, route }) => ipRule !== null && route !== null) ?? [];
  const wrong = families.filter(({ ipRule, route }) => ipRule !== true || route !== true);
  const faults = wrong.map(
    ({ family, ipRule }) => `IPv${family} ${ipRule === true ? "route" : "ip rule"} missing`,
  );
  return {
    kind: "place",
    key: "routing",
    title: "Replies that carry the mark are routed to ztunnel's socket",
    isRight: families.length === 0 ? null : wrong.length === 0,
    note: families.length === 0 ? "" : wrong.length === 0 ? "ip rule and route in place" : faults.join(", "),
  };
}

function probeSet(observed: ObservedReport | null): PlaceStop {
  const member = observed?.probes.member ?? null;
  const note =
    member === null ? "" : member ? "the pod is in the host's set" : "the pod is missing in the host's set";
  return {
    kind: "place",
    key: "probe set",
    title: "The kubelet on the host, under the address for probes",
    isRight: member,
    note,
  };
}
