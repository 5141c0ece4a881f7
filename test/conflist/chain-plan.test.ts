// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { ChainOptions, ChainPlan } from "../../src/conflist/chain-options.ts";
import { planChain } from "../../src/conflist/chain-plan.ts";
import { parseConf } from "../../src/conflist/conf.ts";
import type { Action } from "../../src/conflist/conf-folder.ts";
import { confTextOf, isConfName } from "../../src/conflist/conf-text.ts";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { planRemoval } from "../../src/conflist/removal-plan.ts";
import { chainEntries, folderOf, insertPlugin, wrapConf } from "./by-text.ts";

const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/var/run/istio-cni",
  agent_wait_seconds: 10,
  exempt: [],
};
const owned = "02-istio-cni.conflist";
const chained: ChainOptions = {
  confName: undefined,
  owned: false,
  ownedFileName: owned,
  chained: true,
  entry,
  replaceIstioCni: false,
};

const folder = join(import.meta.dirname, "fixtures");
const fixture = (name: string): string => confTextOf(readFileSync(join(folder, name)));
const list = (name: string, ...types: string[]): string =>
  JSON.stringify({ name, plugins: types.map((type) => ({ type })) });
const single = (name: string, type: string): string => JSON.stringify({ name, type });

type Files = Record<string, string>;

function applied(files: Files, actions: readonly Action[]): Files {
  const result = { ...files };
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

function plan(files: Files, options: Partial<ChainOptions> = {}): ChainPlan & { readonly files: Files } {
  const made = planChain(folderOf(files), { ...chained, ...options });
  return { ...made, files: applied(files, made.actions) };
}

/** How often the chain that starts in the first file calls us, Multus' delegates followed by hand. */
const oursIn = (files: Files, name: string): number => chainEntries(files[name] ?? "{}").ours;

function uninstall(files: Files): Files {
  return applied(files, planRemoval(folderOf(files), { ownedFileName: owned }).actions);
}

function firstOf(files: Files): string | undefined {
  return Object.keys(files)
    .filter((name) => {
      try {
        parseConf(name, files[name] ?? "");
        return isConfName(name);
      } catch {
        return false;
      }
    })
    .sort()[0];
}

describe("planChain", () => {
  it.each(readdirSync(folder).filter(isConfName))(
    "%s alone: in the chain after the plan, settled, and gone without a trace",
    (name) => {
      const files = { [name]: fixture(name), "calico-kubeconfig": "apiVersion: v1" };
      for (const options of [{}, { owned: true }, { confName: name }]) {
        const first = plan(files, options);
        expect(first.missing).toBe(true);
        expect(first.fault).toBeUndefined();
        const used = options.confName === undefined ? firstOf(first.files) : first.fileName;
        expect(used).toBe(first.fileName);
        expect(oursIn(first.files, first.fileName ?? "")).toBe(1);
        const second = plan(first.files, options);
        expect(second).toMatchObject({ missing: false, actions: [], fileName: first.fileName });
        expect(uninstall(first.files)).toEqual(files);
      }
    },
  );

  it.each<[string, Files, Partial<ChainOptions>, string | undefined]>([
    [
      "the first by name",
      { "10-a.conflist": list("a", "x"), "05-b.conflist": list("b", "x") },
      {},
      "05-b.conflist",
    ],
    ["in byte order", { "a.conflist": list("a", "x"), "B.conflist": list("b", "x") }, {}, "B.conflist"],
    [
      "past a file that is broken",
      { "05-b.conflist": "{", "10-a.conflist": list("a", "x") },
      {},
      "10-a.conflist",
    ],
    [
      "past a list without plugins",
      { "05-b.conflist": '{"name":"b","plugins":[]}', "10-a.conflist": list("a", "x") },
      {},
      "10-a.conflist",
    ],
    [
      "past a list in a .conf",
      { "05-b.conf": list("b", "x"), "10-a.conflist": list("a", "x") },
      {},
      "10-a.conflist",
    ],
    [
      "past names no runtime reads",
      {
        "05-b.conflist.cilium_bak": list("b", "x"),
        ".x.conflist.tmp1": list("b", "x"),
        "10-a.conflist": list("a", "x"),
      },
      {},
      "10-a.conflist",
    ],
    [
      "past istio-cni's standalone file",
      { "00-istio-cni.conf": single("istio-cni", "istio-cni"), "10-a.conflist": list("a", "x") },
      {},
      "10-a.conflist",
    ],
    [
      "the named one",
      { "05-b.conflist": list("b", "x"), "10-a.conflist": list("a", "x") },
      { confName: "10-a.conflist" },
      "10-a.conflist",
    ],
    [
      "the list that was made of the named .conf",
      { "10-a.conflist": list("a", "x") },
      { confName: "10-a.conf" },
      "10-a.conflist",
    ],
    [
      "the .conf where the named list is not there",
      { "10-a.conf": single("a", "x") },
      { confName: "10-a.conflist" },
      "10-a.conflist",
    ],
    ["none while there is none", { "10-a.txt": list("a", "x") }, {}, undefined],
    [
      "none while the named one is not there",
      { "10-a.conflist": list("a", "x") },
      { confName: "11.conflist" },
      undefined,
    ],
    ["a .json, as a list", { "10-a.json": single("a", "x") }, {}, "10-a.conflist"],
  ])("chooses %s", (_what, files, options, expected) => {
    const made = plan(files, options);
    expect(made.fileName).toBe(expected);
    if (expected === undefined) expect(made.fault).toMatch(/^Waiting for /);
    else expect(oursIn(made.files, expected)).toBe(1);
    expect(uninstall(made.files)).toEqual(files);
  });

  it("names the files that cannot be loaded, and why, while it waits", () => {
    const made = plan({ "10-a.conflist": '{"plugins":[{"type":"x"}]}', "11-b.conf": "" });
    expect([...made.invalid.keys()]).toEqual(["10-a.conflist", "11-b.conf"]);
    expect(made.fault).toContain('"10-a.conflist" cannot be loaded: it has no "name"');
  });

  it.each<[string, Files, string]>([
    [
      "a foreign list of the same name",
      { "10-a.conf": single("a", "x"), "10-a.conflist": list("a", "y") },
      "10-a.ambient-cni.conflist",
    ],
    [
      "a file that would come between",
      { "10-a.conf": single("a", "x"), "10-a.conf-2.conf": single("b", "y") },
      "10-a.ambient-cni.conflist",
    ],
    [
      "our own earlier list, the .conf written anew",
      {
        "10-a.conf": single("a", "x"),
        "10-a.conflist": insertPlugin(wrapConf(single("a", "old")), entry),
        "10-a.conf.ambient-cni-saved": single("a", "old"),
      },
      "10-a.conflist",
    ],
    [
      "our own list of a run that was killed",
      {
        "10-a.conf": single("a", "x"),
        "10-a.conflist": insertPlugin(wrapConf(single("a", "x")), { ...entry, agent_wait_seconds: 5 }),
      },
      "10-a.conflist",
    ],
  ])("a .conf becomes a list in spite of %s", (_what, files, expected) => {
    const made = plan(files);
    expect(made.fileName).toBe(expected);
    expect(firstOf(made.files)).toBe(expected);
    expect(made.files["10-a.conf.ambient-cni-saved"]).toBe(files["10-a.conf"]);
    expect(plan(made.files).actions).toEqual([]);
    const left = uninstall(made.files);
    expect(left["10-a.conf"]).toBe(files["10-a.conf"]);
    expect(Object.values(left).join()).not.toContain("ambient-cni");
  });

  it("the folder has a valid first chain after every single action of installing and removing", () => {
    for (const name of readdirSync(folder).filter(isConfName)) {
      for (const options of [{}, { owned: true }]) {
        const files = { [name]: fixture(name) };
        const installed = plan(files, options);
        for (let count = 0; count <= installed.actions.length; count++) {
          const partly = applied(files, installed.actions.slice(0, count));
          expect(firstOf(partly)).toBeDefined();
          expect(plan(partly, options).files).toEqual(installed.files);
          expect(uninstall(partly)).toEqual(files);
        }
        const { actions } = planRemoval(folderOf(installed.files), { ownedFileName: owned });
        for (let count = 0; count <= actions.length; count++) {
          const partly = applied(installed.files, actions.slice(0, count));
          expect(firstOf(partly)).toBeDefined();
          expect(uninstall(partly)).toEqual(files);
        }
      }
    }
  });
});

describe("planChain with Multus", () => {
  const calico = fixture("10-calico.conflist");
  const thick = fixture("multus-thick.conf");
  const thin = fixture("multus-thin.conf");
  const shim = single("multus-cni-network", "multus-shim");

  it.each<[string, Files, string, Files]>([
    [
      "thick: the file it delegates to",
      { "00-multus.conf": thick, "10-calico.conflist": calico },
      "10-calico.conflist",
      { "00-multus.conf": thick },
    ],
    [
      "thick without a delegate: the next file",
      { "00-multus.conf": shim, "10-calico.conflist": calico },
      "10-calico.conflist",
      { "00-multus.conf": shim },
    ],
    [
      "thin: behind Multus",
      { "00-multus.conf": thin, "10-calico.conflist": calico },
      "00-multus.conflist",
      { "10-calico.conflist": calico },
    ],
    [
      "a delegate that is no list: behind Multus",
      { "00-multus.conf": thick.replace("10-calico.conflist", "10-b.conf"), "10-b.conf": single("b", "x") },
      "00-multus.conflist",
      { "10-b.conf": single("b", "x") },
    ],
    [
      "a network of the API: behind Multus, and nowhere else",
      {
        "00-multus.conf": thick.replace(/"\/host[^"]*"/, '"default-net"'),
        "10-calico.conflist": insertPlugin(calico, entry),
      },
      "00-multus.conflist",
      { "10-calico.conflist": calico },
    ],
    [
      "a network by its name in this folder",
      { "00-multus.conf": thick.replace(/"\/host[^"]*"/, '"k8s-pod-network"'), "10-calico.conflist": calico },
      "10-calico.conflist",
      {},
    ],
    [
      "entries in both: only in the delegate",
      {
        "00-multus.conflist": insertPlugin(wrapConf(thick), entry),
        "10-calico.conflist": insertPlugin(calico, entry),
      },
      "10-calico.conflist",
      { "00-multus.conflist": wrapConf(thick) },
    ],
  ])("%s", (_what, files, expected, unchanged) => {
    const made = plan(files);
    expect(made.fileName).toBe(expected);
    expect(made.files).toMatchObject(unchanged);
    expect(oursIn(made.files, expected)).toBe(1);
    expect(plan(made.files).actions).toEqual([]);
  });

  it("a copy of our entry in the delegates is enough, and is taken out on leaving", () => {
    const copied = thin.replace(
      '"portMappings": true} }',
      `"portMappings": true} }, ${JSON.stringify(entry)}`,
    );
    const files = { "00-multus.conf": copied, "10-calico.conflist": insertPlugin(calico, entry) };
    expect(plan(files)).toMatchObject({ missing: false, actions: [], fileName: "00-multus.conf" });
    expect(uninstall(files)).toEqual({ "00-multus.conf": thin, "10-calico.conflist": calico });
  });

  describe("istio-cni behind Multus, which delegates to another file", () => {
    // Source: istio/istio cni/pkg/install/cniconfig.go: it wraps the first file, 00-multus.conf of Multus' daemon, and renames it
    const theirs = { ...JSON.parse(wrapConf(thick)), name: "k8s-pod-network" };
    theirs.plugins.push({ type: "istio-cni", name: "istio-cni", cni_agent_run_dir: "/var/run/istio-cni" });
    const files = { "00-multus.conflist": JSON.stringify(theirs), "10-calico.conflist": calico };

    it("stays alone where its place is not ours to take", () => {
      const made = plan(files);
      expect(made).toMatchObject({ istioCni: true, missing: true, actions: [] });
      expect(made.fault).toMatch(/istio-cni is in the CNI chain "00-multus.conflist".*REPLACE_ISTIO_CNI/);
    });

    it("is replaced by our entry in that file", () => {
      const made = plan(files, { replaceIstioCni: true });
      expect(made).toMatchObject({ fileName: "10-calico.conflist", replaces: true, fault: undefined });
      expect(chainEntries(made.files["00-multus.conflist"] ?? "")).toMatchObject({ ours: 0, istioCni: 0 });
      expect(oursIn(made.files, "10-calico.conflist")).toBe(1);
      expect(plan(made.files, { replaceIstioCni: true }).actions).toEqual([]);
    });
  });

  it("what Multus copies its delegates from has our entry's settings of now, and an entry only where it had one", () => {
    const before = { ...entry, agent_wait_seconds: 7 };
    const source = insertPlugin(calico, before);
    // Source: multus-cni 95a09323, cmd/thin_entrypoint, createMultusConfig: the file's text, whole
    const copy = (text: string): Files => ({
      "00-multus.conf": thin.replace(/"delegates": .*/s, `"delegates": [ ${text} ] }`),
    });
    const started = plan({ ...copy(source), "10-calico.conflist": source, "20-b.conflist": list("b", "x") });
    expect(started).toMatchObject({ missing: false, fileName: "00-multus.conf" });
    expect(started.files["10-calico.conflist"]).toBe(insertPlugin(calico, entry));
    expect(started.files["20-b.conflist"]).toBe(list("b", "x"));
    // Multus starts anew
    const again = { ...started.files, ...copy(started.files["10-calico.conflist"] ?? "") };
    expect(plan(again).actions).toEqual([]);
    expect(again["00-multus.conf"]).toContain(String(entry.agent_wait_seconds));
  });
});

describe("planChain with an own file", () => {
  const options = { owned: true };
  const primary = list("a", "x");

  it("follows the primary and leaves it alone", () => {
    const files = plan({ "10-a.conflist": primary }, options).files;
    expect(files["10-a.conflist"]).toBe(primary);
    const changed = plan({ ...files, "10-a.conflist": list("a", "y") }, options);
    expect(changed).toMatchObject({ missing: false, fileName: owned });
    expect(changed.files[owned]).toBe(insertPlugin(list("a", "y"), entry));
  });

  it("moves an entry of the other mode out of the primary, and back", () => {
    const before = plan({ "10-a.conf": single("a", "x") }).files;
    const inOwned = plan(plan(before, options).files, options);
    expect(Object.keys(inOwned.files).sort()).toEqual([owned, "10-a.conf"]);
    expect(inOwned.files["10-a.conf"]).toBe(single("a", "x"));
    expect(plan(inOwned.files).files).toEqual(before);
  });

  it.each<[string, Files, RegExp]>([
    [
      "a foreign file has its name",
      { [owned]: list("b", "z"), "10-a.conflist": primary },
      /not ours.*FILENAME/,
    ],
    [
      "istio-cni's file has its name",
      { [owned]: list("b", "z", "istio-cni"), "10-a.conflist": primary },
      /REPLACE_ISTIO_CNI/,
    ],
    ["another file comes first", { "00-m.conflist": primary }, /"00-m.conflist" before/],
  ])("says what to do when %s", (_what, files, fault) => {
    const made = plan(files, options);
    expect(made.fault).toMatch(fault);
    expect(made.files).toMatchObject(files);
  });

  it("takes over istio-cni's file when asked", () => {
    const files = { [owned]: list("b", "z", "istio-cni"), "10-a.conflist": primary };
    expect(plan(files, { ...options, replaceIstioCni: true }).files[owned]).toBe(
      insertPlugin(primary, entry),
    );
    expect(plan(files, { replaceIstioCni: true }).files).toEqual({
      "10-a.conflist": insertPlugin(primary, entry),
    });
  });

  it("reports that its original is gone", () => {
    const { files } = plan({ "10-a.conflist": primary }, options);
    expect(plan({ [owned]: files[owned] ?? "" }, options)).toMatchObject({ orphaned: true, actions: [] });
  });
});

describe("planChain without a chain", () => {
  const options = { chained: false };

  it("writes a file with our plugin alone, under the network's name that Multus' definitions use", () => {
    const made = plan({ "10-a.conflist": list("a", "x") }, options);
    expect(made.fileName).toBe("YYY-istio-cni.conf");
    expect(JSON.parse(made.files["YYY-istio-cni.conf"] ?? "")).toEqual({
      cniVersion: "0.3.1",
      name: "istio-cni",
      ...entry,
    });
    expect(made.files["10-a.conflist"]).toBe(list("a", "x"));
    expect(plan(made.files, options).actions).toEqual([]);
    expect(uninstall(made.files)).toEqual({ "10-a.conflist": list("a", "x") });
  });

  it("uses CNI_CONF_NAME, takes entries out of other chains, and never overwrites a foreign file", () => {
    const named = { ...options, confName: "istio-cni.conflist" };
    const made = plan({ "10-a.conflist": insertPlugin(list("a", "x"), entry) }, named);
    expect(made.files["10-a.conflist"]).toBe(list("a", "x"));
    expect(oursIn(made.files, "istio-cni.conflist")).toBe(1);
    expect(uninstall(made.files)).toEqual({ "10-a.conflist": list("a", "x") });
    expect(plan({ "istio-cni.conflist": list("a", "x") }, named).fault).toContain("not ours");
    const theirs = { "YYY-istio-cni.conf": single("istio-cni", "istio-cni") };
    expect(plan(theirs, options).fault).toContain("REPLACE_ISTIO_CNI");
    expect(plan(theirs, { ...options, replaceIstioCni: true }).fault).toBeUndefined();
  });
});

describe("planRemoval", () => {
  const saved = "10-a.conf.ambient-cni-saved";
  const conf = single("a", "x");
  const wrapped = insertPlugin(wrapConf(conf), entry);

  it.each<[string, Files, Files]>([
    [
      "a copy under another name",
      { "10-a.conflist.cilium_bak": insertPlugin(list("a", "x"), entry) },
      { "10-a.conflist.cilium_bak": list("a", "x") },
    ],
    [
      "a list that others added to",
      { [saved]: conf, "10-a.conflist": wrapped.replace(/\]\}$/, ',{"type":"z"}]}') },
      { "10-a.conflist": wrapConf(conf).replace(/\]\}$/, ',{"type":"z"}]}') },
    ],
    ["a saved file alone", { [saved]: conf }, { "10-a.conf": conf }],
    [
      "a saved file whose list is gone, beside another chain",
      { [saved]: conf, "11.conflist": list("b", "x") },
      { [saved]: conf, "11.conflist": list("b", "x") },
    ],
    [
      "a saved file whose original was written anew, beside another chain",
      { [saved]: conf, "10-a.conf": single("a", "new"), "11.conflist": insertPlugin(list("b", "x"), entry) },
      { "10-a.conf": single("a", "new"), "11.conflist": list("b", "x") },
    ],
    [
      "a saved file whose list has all but our entry",
      { [saved]: conf, "10-a.conflist": wrapConf(conf), "11.conflist": list("b", "x") },
      { "10-a.conf": conf, "11.conflist": list("b", "x") },
    ],
    [
      "a saved file whose list was written anew, without us",
      {
        [saved]: conf,
        "10-a.conflist": list("a", "new"),
        "11.conflist": insertPlugin(list("b", "x"), entry),
      },
      { "10-a.conflist": list("a", "new"), "11.conflist": list("b", "x") },
    ],
    [
      "a .conf written anew",
      { [saved]: conf, "10-a.conf": single("a", "new"), "10-a.conflist": wrapped },
      { "10-a.conf": single("a", "new") },
    ],
    [
      "an own file that is the only one",
      { [owned]: insertPlugin(list("a", "x"), entry) },
      { [owned]: list("a", "x") },
    ],
    [
      "files that only mention us",
      { "a.conflist": '{"ambient-cni', "b.txt": "ambient-cni" },
      { "a.conflist": '{"ambient-cni', "b.txt": "ambient-cni" },
    ],
  ])("%s", (_what, files, expected) => {
    expect(uninstall(files)).toEqual(expected);
  });
});

describe("a chain in a version whose calls the agent would refuse", () => {
  it.each(["0.5.0", "1.2.0"])("%s is left alone, and that is said", (cniVersion) => {
    const files = {
      "10-net.conflist": JSON.stringify({ cniVersion, name: "net", plugins: [{ type: "bridge" }] }),
    };
    const { actions, missing, fault } = planChain(folderOf(files), chained);
    expect({ actions, missing }).toEqual({ actions: [], missing: true });
    expect(fault).toMatch(new RegExp(`10-net.conflist": its cniVersion is "${cniVersion}".*Set one of them`));
  });
});
