// SPDX-License-Identifier: Apache-2.0
// What is run on a runtime's root: which files of which suite, with which chains. Pure.

/** One program that is run in a root. */
export interface Step {
  /** Version of the chain. */
  readonly chain: string;
  readonly kind: "demo" | "containerd" | "podman" | "rules";
  /** Names of the test files; the demo has none. */
  readonly files: readonly string[];
}

/** What the machine has, and what was asked for. */
export interface PlanInput {
  /** Versions of CNI that the root's plugins speak, newest first. */
  readonly chains: readonly string[];
  /** All files of the suite. */
  readonly files: readonly string[];
  readonly short: boolean;
  /** Whether there is a podman that runs chains of CNI. */
  readonly hasPodman: boolean;
  /** Whether containerd tells of its sandboxes by NRI. */
  readonly hasNri: boolean;
}

/** What a runtime's version can make a difference to, without what takes long because of its many pods. */
const shortFiles = ["agent-away", "chain", "end", "failed-add", "nri", "runtime"];
/** Tests of test/kernel for which the versions of iptables and nftables can make a difference. */
export const ruleFiles: readonly string[] = [
  ...["bypass", "earlier-rules", "native-redirect", "redirect", "redirect-backend"],
  ...["repair", "sidecar-redirect"],
];
/** What takes NRI. */
const nriFiles: readonly string[] = ["nri"];
/** What a chain's version can make a difference to. */
const chainFiles = ["runtime"];

/** The steps, in order. All but the containerd suite have the chain that every test node has. */
export function planSteps({ chains, short, hasPodman, hasNri, ...input }: PlanInput): Step[] {
  const files = input.files.filter((file) => hasNri || !nriFiles.includes(file));
  const forChain = (index: number): readonly string[] =>
    short ? files.filter((file) => (index === 0 ? shortFiles : chainFiles).includes(file)) : files;
  return [
    { chain: "1.0.0", kind: "demo", files: [] },
    ...(short ? [] : ([{ chain: "1.0.0", kind: "rules", files: ruleFiles }] as const)),
    ...(hasPodman ? ([{ chain: "1.0.0", kind: "podman", files: ["podman"] }] as const) : []),
    ...chains.map((chain, index) => ({ chain, kind: "containerd", files: forChain(index) }) as const),
  ];
}

/** What of all versions and files the plan leaves out, as lines for people. */
export function leftOut(
  suite: string,
  input: PlanInput & {
    /** Versions of CNI in which chains are tried, newest first. */
    readonly versions: readonly string[];
    readonly pluginVersion: string;
  },
): string[] {
  const unspoken = input.versions
    .filter((version) => !input.chains.includes(version))
    .map(
      (version) =>
        `${suite}, a chain of CNI ${version}: its plugins (${input.pluginVersion}) speak ${input.chains[0] ?? "none of these"} at most`,
    );
  const missed = planSteps(input).flatMap(({ chain, kind, files }) => {
    const able = input.files.filter((file) => input.hasNri || !nriFiles.includes(file));
    const rest = kind === "containerd" ? able.filter((file) => !files.includes(file)) : [];
    return rest.length === 0
      ? []
      : [`${suite}, a chain of CNI ${chain}: ${rest.join(", ")} (left out in the short form)`];
  });
  const rules = input.short
    ? [`${suite}, test/kernel: ${ruleFiles.join(", ")} (left out in the short form)`]
    : [];
  const podman = input.hasPodman ? [] : [`${suite}, podman: its podman, if any, runs no chains of CNI`];
  const nri = input.hasNri ? [] : [`${suite}, ${nriFiles.join(", ")}: its containerd has no NRI by default`];
  return [...unspoken, ...missed, ...rules, ...podman, ...nri];
}
