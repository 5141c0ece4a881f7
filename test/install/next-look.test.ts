// SPDX-License-Identifier: Apache-2.0
// What the keeper of the chain does after a look, as a table: no folder, no clock.
import { describe, expect, test } from "vitest";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { type ChainMemory, type ChainView, freshMemory, nextLook } from "../../src/install/next-look.ts";
import { folderOf } from "../conflist/by-text.ts";

const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/r",
  agent_wait_seconds: 1,
  exempt: [],
};
const list = (...plugins: object[]): string => JSON.stringify({ name: "n", plugins });
const bridge = { type: "bridge" };
const istio = { type: "istio-cni" };
const present: ChainMemory = { ...freshMemory, isPresent: true, mendsSettings: false };

function view(
  files: Record<string, string>,
  more: Partial<ChainView["wanted"]> = {},
  nowMs = 100_000,
): ChainView {
  return {
    folder: folderOf(files),
    nowMs,
    wanted: {
      confName: undefined,
      owned: false,
      ownedFileName: "02-istio-cni.conflist",
      chained: true,
      entry,
      replaceIstioCni: true,
      ...more,
    },
    graces: { halfWrittenMs: 2_000, settingsGraceMs: 60_000, ownedGraceMs: 60_000 },
  };
}
const chain = (...plugins: object[]) => ({ "10-a.conflist": list(bridge, ...plugins) });

describe("nextLook", () => {
  test.each<[string, ChainMemory, ChainView, object]>([
    [
      "writes at the first look",
      freshMemory,
      view(chain()),
      { waits: false, actions: [{ kind: "write" }], news: [] },
    ],
    ["does nothing when all is well", present, view(chain(entry)), { waits: false, actions: [], news: [] }],
    [
      "repairs at once what was rewritten",
      present,
      view(chain()),
      { waits: false, actions: [{ kind: "write" }], news: [{ what: "rewritten", rewrites: 1, pauseMs: 0 }] },
    ],
    [
      "takes istio-cni out that was put beside it, as one rewrite",
      present,
      view(chain(entry, istio)),
      { waits: false, actions: [{ kind: "write" }], news: [{ what: "rewritten", rewrites: 1, pauseMs: 0 }] },
    ],
    [
      "takes istio-cni out at its first look without counting it",
      freshMemory,
      view(chain(istio, entry)),
      { waits: false, actions: [{ kind: "write" }], news: [] },
    ],
    [
      "stands aside for istio-cni, once",
      present,
      view(chain(entry, istio), { replaceIstioCni: false }),
      { waits: false, actions: [{ kind: "write" }], news: [{ what: "stood-aside" }] },
    ],
    [
      "waits for a file that may be half written",
      present,
      view({ "05-b.conflist": "{", ...chain() }),
      { waits: true, againMs: 30, actions: [] },
    ],
    [
      "leaves the settings of another agent of ours, whatever its name, for a minute",
      present,
      view(chain({ ...entry, type: "istio-cni" })),
      { waits: false, actions: [], againMs: 60_000 },
    ],
    [
      "mends them after that",
      { ...present, differsSinceMs: 40_000 },
      view(chain({ ...entry, type: "istio-cni" })),
      { waits: false, actions: [{ kind: "write" }], news: [] },
    ],
  ])("%s", (_what, memory, seen, expected) => {
    expect(nextLook(memory, seen)).toMatchObject(expected);
  });

  test("pauses before the sixth repair in a minute, and counts no rewrite twice", () => {
    let memory = present;
    for (let count = 0; count < 5; count++) memory = nextLook(memory, view(chain())).done;
    const sixth = nextLook(memory, view(chain()));
    expect(sixth).toMatchObject({
      waits: true,
      againMs: 200,
      news: [{ what: "rewritten" }, { what: "fight" }],
    });
    const early = nextLook(sixth.memory, view(chain(), {}, 100_100));
    expect(early).toMatchObject({ waits: true, againMs: 100, news: [] });
    const late = nextLook(early.memory, view(chain(), {}, 100_200));
    expect(late).toMatchObject({ waits: false, actions: [{ kind: "write" }], done: { isPresent: true } });
    expect(late.done.fight.rewrites).toBe(6);
  });

  test("what was seen counts at once, what is done only when it is done", () => {
    const look = nextLook(present, view(chain()));
    expect([look.memory.isPresent, look.done.isPresent]).toEqual([false, true]);
  });
});
