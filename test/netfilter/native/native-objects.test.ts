// SPDX-License-Identifier: Apache-2.0
// Reading native tables while others write rules without end.

import { constants } from "node:os";
import { expect, test } from "vitest";
import { NativeError } from "../../../src/linux/native.ts";
import { NativeEngine } from "../../../src/netfilter/native/native-engine.ts";
import { askedTables } from "../../../src/netfilter/native/native-layout.ts";
import { nativeTables } from "../../../src/netfilter/native/native-rules.ts";
import { verifyNative } from "../../../src/netfilter/native/native-verify.ts";
import type { Ask } from "../../../src/netfilter/nft/nft-wire.ts";
import { ask } from "../../../src/netfilter/nft/nft-wire.ts";
import { readOwnObjects } from "../../../src/netfilter/nft/own-objects.ts";
import { NATIVE_LAYOUT } from "../../../src/redirection/native-rules.ts";
import { toldRedirection } from "../../../src/redirection/told-redirection.ts";
import { TestNetns } from "../../redirection/test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES } from "../../redirection/variants.ts";

const told = toldRedirection(DEFAULT_OPTIONS, FAMILIES);
const tables = nativeTables(told, { layout: NATIVE_LAYOUT, families: FAMILIES });

const read = (ask: Ask) => readOwnObjects({ fd: -1 }, askedTables(NATIVE_LAYOUT), { ask });

/** The kernel's answers in a pod with the rules, and how often it was asked. */
async function kernel(): Promise<{ pod: TestNetns; asked: () => number; ask: Ask }> {
  const pod = await TestNetns.make();
  const wanted = { key: "", told: () => told, families: FAMILIES };
  await new NativeEngine({ layout: NATIVE_LAYOUT }).apply({ netns: pod.netns }, wanted, { isNew: true });
  let count = 0;
  return {
    pod,
    asked: () => count,
    ask: (requests, enoughBytes) => {
      count++;
      return ask(pod.netns.fd, requests, { enoughBytes });
    },
  };
}

test("a list that changes while it is made, or is lost, is asked for again, five times in all", async () => {
  const { pod, asked, ask: askKernel } = await kernel();
  using _ = pod;
  for (const spoil of ["interrupted", "lost"] as const) {
    for (const times of [4, 5]) {
      const before = asked();
      const reading = read(async (requests, enoughBytes) => {
        const answers = await askKernel(requests, enoughBytes);
        if (asked() - before > times) return answers;
        if (spoil === "lost") throw new NativeError("hear", -constants.errno.ENOBUFS, "recvmsg");
        return answers.map((answer) => ({ ...answer, interrupted: true }));
      });
      if (times === 4) expect((await reading).tables).toHaveLength(3);
      else await expect(reading).rejects.toMatchObject({ code: "UNSTEADY" });
      expect(asked() - before).toBe(5);
    }
  }
});

test("rules that change all the time are judged where nothing is wrong, and are a fault where something seems to be", async () => {
  const { pod, ask: askKernel } = await kernel();
  using _ = pod;
  let generation = 0;
  const seen = await read(async (requests, enoughBytes) => {
    const answers = await askKernel(requests, enoughBytes);
    for (const { messages } of answers) for (const { body } of messages) body[3] = generation++ & 0xff;
    return answers;
  });
  expect(seen.isSteady).toBe(false);
  expect(verifyNative(NATIVE_LAYOUT, seen, { known: tables, families: [4] }).findings).toEqual([]);
  expect(() => verifyNative(NATIVE_LAYOUT, seen, { known: tables.slice(1), families: [4] })).toThrow(
    expect.objectContaining({ code: "UNSTEADY" }),
  );
});
