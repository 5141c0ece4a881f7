// SPDX-License-Identifier: Apache-2.0
// The host's rules through the engine of its variant: data and policy, and what a rule that names a set or a cgroup takes.
import type { Netns } from "../linux/netns.ts";
import { ToolError } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { LegacyEngine } from "../netfilter/legacy/legacy-engine.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { NftEngine } from "../netfilter/nft/nft-engine.ts";
import type { RuleEngine, WantedRules } from "../netfilter/rule-engine.ts";
import { type RedirectBackend, toolsOf } from "../netfilter/variant.ts";
import type { Variant } from "../netfilter/variant-tools.ts";
import { HostProgram } from "./host-program.ts";
import type { ProbeMatch } from "./kubelet-match.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { PROBE_TABLES, ruleDrift, toldProbeRules } from "./probe-rules.ts";
import { notConvergedError, ruleRefusedError } from "./probes-error.ts";

/** What the host's rules should be. */
export interface WantedHostRules {
  readonly families: readonly Family[];
  readonly match: ProbeMatch;
  /** The kernel's numbers of our sets, by which rules name them. */
  readonly setNumbers: ReadonlyMap<Family, number>;
}

const TIMEOUT_MS = 10_000;

interface Engine {
  readonly key: string;
  readonly engine: RuleEngine;
  readonly program: HostProgram;
}

/** Rules of one host. */
export class HostRules {
  readonly #backend: RedirectBackend;
  readonly #snat: Readonly<Record<Family, string>>;
  #last: Engine | undefined;
  #writes = 0;

  constructor(backend: RedirectBackend, snat: Readonly<Record<Family, string>>) {
    this.#backend = backend;
    this.#snat = snat;
  }

  /** Batches that the kernel took, and runs of iptables-restore. */
  get writes(): number {
    return this.#writes;
  }

  /** How the rules differ; writes nothing. @throws {ProbesError} RULE_REFUSED; what an engine throws */
  async observe(netns: Netns, wanted: WantedHostRules): Promise<ProbeDrift[]> {
    const { engine } = this.#engine(wanted);
    const { findings } = await refusalsTold(engine.verify({ netns }, this.#told(wanted)));
    return ruleDrift(findings);
  }

  /** Brings the rules about, and proves it. @throws {ProbesError} RULE_REFUSED, NOT_CONVERGED; what an engine throws */
  async write(netns: Netns, wanted: WantedHostRules): Promise<void> {
    const { engine, program } = this.#engine(wanted);
    const told = this.#told(wanted);
    if (wanted.match.kind !== "cgroup") {
      const { writes } = await refusalsTold(engine.apply({ netns }, told, { isNew: false }));
      this.#writes += writes;
      return;
    }
    await this.#rewrite(netns, wanted, { engine, program });
    const drift = await this.observe(netns, wanted);
    if (drift.length > 0) throw notConvergedError(drift);
  }

  /**
   * Takes our chain out of both families of a variant; with nf_tables that takes no program. @returns families that had it
   * @throws what an engine throws: ToolError when x_tables hold our chain and iptables-legacy is not installed
   */
  async remove(netns: Netns, variant: Variant): Promise<Family[]> {
    const { installed, runner } = this.#backend;
    const tools = installed[variant];
    const program = tools && new HostProgram(tools, { runner, timeoutMs: TIMEOUT_MS, setNumbers: new Map() });
    const engine = makeEngine(variant, program);
    const present = await engine.present({ netns });
    if (present.length > 0) this.#writes += await engine.remove({ netns });
    return [...new Set(present.map(({ family }) => family))];
  }

  /**
   * The kernel resolves a cgroup's path when the rule is made, as seen by whoever makes it: equal bytes are not enough, and the program
   * makes it where the path is meant. One atomic step that names our chain and jumps to it and nothing else.
   */
  async #rewrite(
    netns: Netns,
    wanted: WantedHostRules,
    { engine, program }: Pick<Engine, "engine" | "program">,
  ): Promise<void> {
    const told = this.#told(wanted);
    const { chains } = await refusalsTold(engine.verify({ netns }, told));
    await refusalsTold(program.rewrite({ netns }, told, chains));
    this.#writes += wanted.families.length;
  }

  /** Bytes are of sets with these numbers, and of one cgroup namespace: with others there are other bytes. */
  #engine(wanted: WantedHostRules): Engine {
    const { families, setNumbers, match } = wanted;
    const key = JSON.stringify([families, [...setNumbers], match.cgroupNsPath]);
    if (this.#last?.key !== key) {
      const { cgroupNsPath } = match;
      const tools = toolsOf(this.#backend);
      if (tools === undefined) throw new RangeError("Cannot write the host's rules natively with a program");
      const { runner } = this.#backend;
      const program = new HostProgram(tools, { runner, timeoutMs: TIMEOUT_MS, setNumbers, cgroupNsPath });
      this.#last = { key, program, engine: makeEngine(tools.variant, program) };
    }
    return this.#last;
  }

  #told({ families, match }: WantedHostRules): WantedRules {
    return {
      key: match.args.join(" "),
      told: () => toldProbeRules(families, { match: match.args, snat: this.#snat }),
      families,
    };
  }
}

function makeEngine(variant: Variant, program: HostProgram | undefined): RuleEngine {
  // the handle stays the caller's until a call has ended
  const common = { own: PROBE_TABLES, program, assertUsable: () => {}, timeoutMs: TIMEOUT_MS };
  return variant === "nft" ? new NftEngine(common) : new LegacyEngine({ ...common, leavesStrays: true });
}

/** A refusal that lies in the rule itself is told as such: a weaker match may be taken instead. */
async function refusalsTold<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const cause = error instanceof NetfilterFault ? error.cause : error;
    throw isRuleRefused(cause) ? ruleRefusedError(cause) : error;
  }
}

/** A lock that was not free comes with status 4. Source: iptables(8), exit status. */
function isRuleRefused(error: unknown): error is ToolError {
  return error instanceof ToolError && error.code === "TOOL_FAILED" && error.exitCode !== 4;
}
