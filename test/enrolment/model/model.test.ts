// SPDX-License-Identifier: Apache-2.0
// Random sequences against the decisions about pods, over fakes and a fake clock; and three planted faults that they have to find.
import { expect, test } from "vitest";
import { Attachments } from "../../../src/enrolment/attachments.ts";
import { type Decisions, decisions } from "../../../src/enrolment/reconciler.ts";
import { patience } from "../../support/node/patience.ts";
import { explain, makeSequence, type PlayOptions, play, shrink } from "./sequence.ts";

const sequences = 20_000;
const withNri = 10_000;
const enoughToFind = 2_000;

/** The first seed whose sequence breaks a claim. */
async function firstBroken(
  count: number,
  options: Omit<PlayOptions, "seed"> = {},
): Promise<string | undefined> {
  for (let seed = 1; seed <= count; seed++) {
    const broken = await play(makeSequence(seed, options), { ...options, seed });
    if (broken !== undefined) return await explain(seed, options);
  }
  return undefined;
}

test(`no sequence of ${sequences} breaks a claim`, { timeout: 180_000 * patience() }, async () => {
  expect(await firstBroken(sequences)).toBeUndefined();
});

test(`nor do ${withNri} with a runtime that tells of its sandboxes besides`, {
  timeout: 180_000 * patience(),
}, async () => {
  expect(await firstBroken(withNri, { hasNri: true })).toBeUndefined();
});

/** GC that does not ask which network it is about, as agents before this one had it. */
class GcOfAnyNetwork extends Attachments {
  override collected(...[, valid, options]: Parameters<Attachments["collected"]>): string[] {
    const networks = new Set(
      this.places().flatMap(({ containerId }) =>
        this.attachmentsOf(containerId).map(({ network }) => network),
      ),
    );
    return [...networks].flatMap((network) => super.collected(network, valid, options));
  }
}

/** DEL that knows the container alone. */
class DelOfAnyInterface extends Attachments {
  override removed(attachment: Parameters<Attachments["removed"]>[0]): ReturnType<Attachments["removed"]> {
    if (this.ofContainer(attachment.containerId) === undefined) return "unknown";
    this.ended(attachment.containerId);
    return "last";
  }
}

/** A run that writes about whichever sandbox the pod has when a step ends, not about the one that it was about. */
const anySandbox: Decisions = {
  ...decisions,
  advance: (workload, { step, ...rest }) => {
    const isAboutAnother = "sandbox" in step && workload.sandbox !== undefined && step.do !== "clear";
    return decisions.advance(workload, {
      ...rest,
      step: isAboutAnother ? ({ ...step, sandbox: workload.sandbox } as typeof step) : step,
    });
  },
};

/** Whoever was told to be in a namespace of that number owns it for ever. */
class OwnerForEver extends Attachments {
  override ownerOf(netnsKey: string): string | undefined {
    return super.ownerOf(netnsKey, () => true);
  }
}

const planted: readonly { readonly fault: string; readonly options: Omit<PlayOptions, "seed"> }[] = [
  { fault: "a GC of another network", options: { attachments: GcOfAnyNetwork } },
  { fault: "a DEL of a second interface", options: { attachments: DelOfAnyInterface } },
  { fault: "a number that comes back and is still its former pod's", options: { attachments: OwnerForEver } },
  { fault: "a step's word taken for another sandbox", options: { decisions: anySandbox } },
];

test.each(planted)(
  `$fault is found within ${enoughToFind} sequences, and told in few steps`,
  async ({ options }) => {
    const found = await firstBroken(enoughToFind, options);
    expect(found).toMatch(/^seed \d+: /);
    expect(found?.split("shortest: ")[1]?.split(" ").length).toBeLessThanOrEqual(10);
  },
);

test("a sequence is the same for the same seed, and shrinks to what breaks by itself", async () => {
  expect(makeSequence(7)).toEqual(makeSequence(7));
  const found = await firstBroken(enoughToFind, { attachments: DelOfAnyInterface });
  const seed = Number(/^seed (\d+)/.exec(found ?? "")?.[1]);
  const options = { seed, attachments: DelOfAnyInterface };
  const shortest = await shrink(makeSequence(seed), options);
  expect(shortest.length).toBeLessThan(makeSequence(seed).length);
  expect(await play(shortest, options)).toBeDefined();
  expect(await play(shortest, { seed })).toBeUndefined();
});
