// SPDX-License-Identifier: Apache-2.0
// What a runtime of libcni 1.3, and CRI-O by its setting, takes out of a folder: parts, versions, networks, files out of sight.
import { describe, expect, it } from "vitest";
import type { ChainOptions, ChainPlan } from "../../src/conflist/chain-options.ts";
import { planChain, runtimesConf } from "../../src/conflist/chain-plan.ts";
import { chosenVersion } from "../../src/conflist/cni-versions.ts";
import { type Action, parseFolder, type UnreadFile } from "../../src/conflist/conf-folder.ts";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { planRemoval } from "../../src/conflist/removal-plan.ts";
import { chainEntries } from "./by-text.ts";

const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/var/run/istio-cni",
  agent_wait_seconds: 10,
  exempt: [],
};
const owned = "02-istio-cni.conflist";
const base: ChainOptions = {
  confName: undefined,
  owned: false,
  ownedFileName: owned,
  chained: true,
  entry,
  replaceIstioCni: false,
};

type Files = Readonly<Record<string, string>>;
type Unread = Readonly<Record<string, UnreadFile>>;

const list = (name: string, ...types: string[]): string =>
  JSON.stringify({ name, plugins: types.map((type) => ({ type })) });
const bare = (name: string, more: object = {}): string =>
  JSON.stringify({ cniVersion: "1.1.0", name, ...more });
const part = (type: string): string => JSON.stringify({ type });
const folderOf = (files: Files, unread: Unread = {}) =>
  parseFolder(new Map(Object.entries(files)), new Map(Object.entries(unread)));

function applied(files: Files, actions: readonly Action[]): Record<string, string> {
  const result: Record<string, string> = { ...files };
  for (const action of actions) {
    if (action.kind === "write") result[action.name] = action.text;
    else if (action.kind === "remove") delete result[action.name];
    else {
      result[action.to] = result[action.from] ?? "";
      delete result[action.from];
    }
  }
  return result;
}

function plan(
  files: Files,
  options: Partial<ChainOptions> = {},
  unread: Unread = {},
): ChainPlan & { files: Files } {
  const made = planChain(folderOf(files, unread), { ...base, ...options });
  return { ...made, files: applied(files, made.actions) };
}

const leave = (files: Files): Files =>
  applied(files, planRemoval(folderOf(files), { ownedFileName: owned }).actions);

describe("a list whose plugins lie in the folder of its network", () => {
  const files = {
    "10-net.conflist": bare("net"),
    "net/10-a.conf": part("bridge"),
    "net/20-b.conf": part("tuning"),
  };

  it("is a chain of these plugins, in the order of their files", () => {
    expect(folderOf(files).confs[0]).toMatchObject({ network: "net", types: ["bridge", "tuning"] });
  });

  it("gets our entry as its last file, keeps every other byte, settles, and is left without a trace", () => {
    const made = plan(files);
    expect(made).toMatchObject({ fileName: "net/zz-ambient-cni.conf", missing: true, fault: undefined });
    expect(made.files).toMatchObject(files);
    expect(JSON.parse(made.files["net/zz-ambient-cni.conf"] ?? "")).toEqual(entry);
    expect(folderOf(made.files).confs[0]?.types).toEqual(["bridge", "tuning", "ambient-cni"]);
    expect(plan(made.files)).toMatchObject({ missing: false, actions: [] });
    expect(leave(made.files)).toEqual(files);
  });

  it("has our entry behind a file that sorts behind the usual name", () => {
    const made = plan({ ...files, "net/zzz.conf": part("x") });
    expect(made.fileName).toBe("net/~ambient-cni.conf");
    expect(folderOf(made.files).confs[0]?.types.at(-1)).toBe("ambient-cni");
  });

  it("has exactly one entry of ours, with our settings, and istio-cni's goes when asked", () => {
    const twice = {
      ...files,
      "net/30-c.conf": JSON.stringify({ ...entry, agent_wait_seconds: 3 }),
      "net/40-d.conf": JSON.stringify(entry),
      "net/50-e.conf": part("istio-cni"),
    };
    const made = plan(twice, { replaceIstioCni: true });
    expect(Object.keys(made.files)).toEqual([...Object.keys(files), "net/30-c.conf"]);
    expect(JSON.parse(made.files["net/30-c.conf"] ?? "")).toEqual(entry);
    const kept = plan(twice, { replaceIstioCni: true, keepSettings: true });
    expect(kept.files["net/30-c.conf"]).toBe(twice["net/30-c.conf"]);
  });

  it("is left to istio-cni where its entry stays", () => {
    const theirs = { ...files, "net/50-e.conf": part("istio-cni") };
    const aside = plan({ ...theirs, "net/30-c.conf": JSON.stringify(entry) });
    expect(aside).toMatchObject({ istioCni: true, replaces: false, fileName: undefined, files: theirs });
    // under its name, with a key of ours
    const ours = { ...files, "net/50-e.conf": JSON.stringify({ ...entry, type: "istio-cni" }) };
    expect(plan(ours)).toMatchObject({ istioCni: false, fileName: "net/50-e.conf" });
  });

  it("gets it there with an own file as well, which would load the same folder", () => {
    expect(plan(files, { owned: true }).fileName).toBe("net/zz-ambient-cni.conf");
  });

  it.each<[string, Files, string]>([
    ["has no files", { "10-net.conflist": bare("net") }, 'the folder "net"'],
    [
      "may load no files",
      { "10-net.conflist": bare("net", { loadOnlyInlinedPlugins: true }), "net/a.conf": part("x") },
      "loadOnlyInlinedPlugins",
    ],
    ["has a broken one", { ...files, "net/30.conf": "{" }, '"net/30.conf" cannot be loaded'],
    ["has one without a type", { ...files, "net/30.conf": "{}" }, 'no "type"'],
  ])("is refused as a runtime does when it %s, and the next one is used", (_what, broken, why) => {
    const made = plan({ ...broken, "20-next.conflist": list("next", "x") });
    expect(made.fileName).toBe("20-next.conflist");
    expect(made.invalid.get("10-net.conflist")?.why).toContain(why);
  });

  it("does not count files of other endings, of other networks, or deeper down", () => {
    const made = folderOf({
      ...files,
      "net/x.conflist": list("x", "y"),
      "other/a.conf": part("z"),
      "net/d/a.conf": "{",
    });
    expect(made.confs.map(({ types }) => types)).toEqual([["bridge", "tuning"]]);
    expect(made.invalid.size).toBe(0);
  });
});

describe("a list with plugins of its own and a folder besides", () => {
  const files = { "10-net.conflist": list("net", "bridge"), "net/10-a.conf": part("tuning") };

  it("gets our entry in the list, which older runtimes read too, and nowhere else", () => {
    const made = plan({ ...files, "net/90-ours.conf": JSON.stringify(entry) });
    expect(chainEntries(made.files["10-net.conflist"] ?? "").ours).toBe(1);
    expect(Object.keys(made.files)).toEqual(Object.keys(files));
    expect(folderOf(made.files).confs[0]?.types).toEqual(["bridge", "ambient-cni", "tuning"]);
    expect(leave(made.files)).toEqual(files);
  });

  it("has no further plugins when it may not load them", () => {
    const only = JSON.stringify({
      name: "net",
      loadOnlyInlinedPlugins: "True",
      plugins: [{ type: "bridge" }],
    });
    expect(folderOf({ ...files, "10-net.conflist": only }).confs[0]?.types).toEqual(["bridge"]);
  });
});

describe("the version of a list", () => {
  it.each<[unknown, unknown, string]>([
    ["0.4.0", undefined, "0.4.0"],
    [undefined, ["0.4.0", "1.1.0", "1.0.0"], "1.1.0"],
    ["1.0.0", ["0.3.1"], "1.0.0"],
    ["0.3.1", ["1.2.0", "0.4.0"], "0.4.0"],
    ["1.2.0", ["1.3.0"], "1.2.0"],
    [undefined, [], ""],
    ["0.3.0", ["0.10.0"], "0.10.0"],
    ["", ["0.2.0"], "0.2.0"],
  ])("of %j and %j is %s", (one, several, expected) => {
    expect(chosenVersion(one, several)).toBe(expected);
  });

  it.each<[unknown, unknown, string]>([
    ["1.0.0", "1.1.0", "no list"],
    ["1.0.0", [1], "strings"],
    ["1.0.0", ["x"], '"x" is no version'],
    ["1.0.0", ["1.0.0.0"], "no version"],
    ["y", ["1.0.0"], '"y" is no version'],
  ])("of %j and %j is refused", (one, several, why) => {
    expect(() => chosenVersion(one, several)).toThrow(why);
  });

  it("is what decides whether our calls are served", () => {
    const file = (cniVersions: string[]) => ({
      "10-a.conflist": JSON.stringify({
        cniVersion: "0.5.0",
        cniVersions,
        name: "a",
        plugins: [{ type: "x" }],
      }),
    });
    expect(plan(file(["1.0.0"])).fault).toBeUndefined();
    expect(plan(file(["0.4.0"])).fault).toContain('"0.5.0"');
  });
});

describe("CRI-O's cni_default_network", () => {
  const files = {
    "05-b.conflist": list("b", "x"),
    "10-a.conf": '{"name":"a","type":"y"}',
    "20-a.conflist": list("a", "z"),
  };
  const named = { defaultNetwork: "a" };

  it("is the chain that gets our entry, although others come first", () => {
    const made = plan(files, named);
    expect(made).toMatchObject({ fileName: "10-a.conflist", fault: undefined });
    expect(runtimesConf(folderOf(made.files).confs, "a")?.name).toBe("10-a.conflist");
    expect(made.files["05-b.conflist"]).toBe(files["05-b.conflist"]);
    expect(plan(made.files, named)).toMatchObject({ missing: false, actions: [] });
    expect(leave(made.files)).toEqual(files);
  });

  it("names a network without a name by its file, as CRI-O does", () => {
    expect(plan({ "10-a.conf": part("y") }, { defaultNetwork: "10-a.conf" }).types).toEqual(["y"]);
  });

  it("yields to CNI_CONF_NAME", () => {
    expect(plan(files, { ...named, confName: "05-b.conflist" }).fileName).toBe("05-b.conflist");
  });

  it("is waited for, by name, while nothing has it", () => {
    const made = plan({ "05-b.conflist": list("b", "x") }, named);
    expect(made).toMatchObject({ fileName: undefined, actions: [] });
    expect(made.fault).toMatch(/Waiting for .*network "a".*cni_default_network/);
  });

  it("lets an own file be behind other networks, not behind its own", () => {
    expect(
      plan({ ...files, "01-c.conflist": list("c", "x") }, { ...named, owned: true }).fault,
    ).toBeUndefined();
    expect(plan({ ...files, "01-a.conf": files["10-a.conf"] }, { ...named, owned: true }).fault).toContain(
      "before",
    );
  });
});

describe("a file that cannot be read here", () => {
  const files = { "10-a.conflist": list("a", "x") };

  it("hides no other", () => {
    const made = plan(files, {}, { "05-bad.conflist": { why: "permission denied" } });
    expect(made.fileName).toBe("10-a.conflist");
    expect(made.invalid.get("05-bad.conflist")?.why).toBe("permission denied");
  });

  const unseen = {
    "05-link.conflist": { why: 'is a link to "/opt/x", which cannot be seen', isOutOfSight: true },
  };

  it("is never taken for absent when the runtime can read it: the plan waits and says what to do", () => {
    const made = plan(files, {}, unseen);
    expect(made).toMatchObject({ fileName: undefined, actions: [], missing: true });
    expect(made.fault).toMatch(/"05-link.conflist".*\/opt\/x.*CNI_CONF_NAME/);
  });

  it("does not matter behind the chain, or where the file to use is named", () => {
    expect(plan(files, {}, { "20-link.conflist": { why: "x", isOutOfSight: true } }).fault).toBeUndefined();
    expect(plan(files, { confName: "10-a.conflist" }, unseen).fault).toBeUndefined();
    expect(plan(files, { confName: "05-link.conflist" }, unseen).fault).toContain("/opt/x");
  });

  it("matters as a part of the chain too", () => {
    const made = plan(
      { "05-n.conflist": bare("n"), ...files },
      {},
      { "n/a.conf": { why: "is out of sight", isOutOfSight: true } },
    );
    expect(made.fault).toContain("n/a.conf");
  });
});
