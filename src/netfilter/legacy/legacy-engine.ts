// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-legacy: the kernel's own bytes are compared with known ones, and its restore program writes what differs.
import { ToolError } from "../../linux/run-tool.ts";
import { Limit } from "../../loop/limit.ts";
import { statesOfChains } from "../chain-verdict.ts";
import { Engine, type Talk } from "../engine.ts";
import type { Family } from "../family.ts";
import { KnownBytes } from "../known-bytes.ts";
import { type NetfilterFault, notAsToldFault } from "../netfilter-fault.ts";
import type { NetnsCall } from "../rule-engine.ts";
import { checkInstalled, type ProgramEngineOptions, type TablesProgram } from "../tables-program.ts";
import { planXtables, planXtablesOpening, type RestoreText } from "./legacy-plan.ts";
import { type SeenXtables, verifyXtables, type XtablesVerdict } from "./legacy-verify.ts";
import { type KnownXtables, readKnownXtables } from "./xtables-known.ts";
import { readOwnXtables } from "./xtables-read.ts";

export interface LegacyEngineOptions extends ProgramEngineOptions {
  /**
   * Others write the same tables all the time, as on a host: their rules, which the program can only take away by a position that may be
   * another rule's by then, stay until {@link RuleEngine.remove}. Default false.
   */
  readonly leavesStrays?: boolean;
}

const ALL_FAMILIES: readonly Family[] = [4, 6];

/** Rules by iptables-legacy. What the namespace holds is never printed or read as text. */
export class LegacyEngine extends Engine<KnownXtables, SeenXtables, XtablesVerdict, RestoreText> {
  constructor(options: LegacyEngineOptions) {
    const { own, program, assertUsable, timeoutMs, leavesStrays = false } = options;
    const nothing = { known: { own, tables: [] }, families: ALL_FAMILIES };
    const bytes = new KnownBytes({
      record: (told) => checkInstalled(program).record(told, (netns) => readKnownXtables(netns, told)),
    });
    // one for each engine, so that pods keep the host's waiting no longer than one table takes
    const large = new Limit(1);
    super({
      variant: "legacy",
      holds: "chains",
      nothing,
      keep: (key) => bytes.keep(key),
      known: (rules, { signal }) => bytes.within(rules, { ms: timeoutMs, signal }),
      nothingSeen: new Map(),
      talk: (call, { families }) => {
        const asked = own.filter(({ family }) => families.includes(family));
        return talkOf(call, program, () => readOwnXtables(call, asked, { assertUsable, large }));
      },
      judge: (seen, wanted) =>
        verifyXtables(seen, wanted, { leavesStrays: leavesStrays && wanted !== nothing }),
      chainsOf: ({ tables }) => tables.flatMap((table) => statesOfChains(table, table.chains)),
      plan: planXtables,
      planOpening: planXtablesOpening,
      stillLeads,
      isSame,
    });
  }
}

function talkOf(
  call: NetnsCall,
  program: TablesProgram | undefined,
  read: () => Promise<SeenXtables>,
): Talk<SeenXtables, RestoreText> {
  return {
    read,
    write: async (texts) => {
      const outcomes = await Promise.allSettled(texts.map((each) => restore(call, program, each)));
      const refusal = outcomes.find((outcome) => outcome.status === "rejected")?.reason;
      if (refusal !== undefined && !isRefusal(refusal)) throw refusal;
      const taken = outcomes.filter(({ status }) => status === "fulfilled").length;
      return { seen: await read(), taken, refusal };
    },
  };
}

async function restore(
  call: NetnsCall,
  installed: TablesProgram | undefined,
  { family, text }: RestoreText,
): Promise<void> {
  const program = checkInstalled(installed);
  if (program.tools[family] === undefined)
    throw new ToolError(
      "TOOL_MISSING",
      `Cannot write rules of IPv${family}: its programs of iptables-legacy are not installed; use an image that holds them`,
    );
  await program.restore(call, { family, text });
}

/** The program ended by itself: what it was told to delete may have gone, or the table changed under its hands. */
function isRefusal(error: unknown): boolean {
  return error instanceof ToolError && error.code === "TOOL_FAILED";
}

function isSame(texts: readonly RestoreText[], others: readonly RestoreText[]): boolean {
  return texts.every(({ family, text }) =>
    others.some((each) => each.family === family && each.text === text),
  );
}

function stillLeads({ tables, findings }: XtablesVerdict, opened: string): NetfilterFault | undefined {
  const isLedInto = tables.some(
    ({ table, chains }) =>
      table === opened && chains.some(({ jumps, strays }) => jumps.length + strays.length > 0),
  );
  return isLedInto ? notAsToldFault(findings, "chains") : undefined;
}
