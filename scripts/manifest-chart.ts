// SPDX-License-Identifier: Apache-2.0
// Renders deploy/chart without Helm: for the checked-in manifests and for tests.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import { type Definitions, renderTemplate } from "./manifest-render.ts";
import { type Node, parseTemplate } from "./manifest-template.ts";

/** A value as in a values file. */
export type Values = Record<string, unknown>;

/** What `helm template` would be told. */
export interface RenderOptions {
  readonly releaseName: string;
  readonly namespace: string;
  /** Version of the cluster, which decides how AppArmor is told. */
  readonly kubeVersion: string;
  /** Laid over the chart's own; null takes a value away. */
  readonly values?: Values;
}

/** A Kubernetes object and the text it came from. */
export interface Manifest {
  readonly object: Values;
  readonly text: string;
}

/** What must be there first comes first. Source: helm pkg/releaseutil/kind_sorter.go, InstallOrder */
const kinds = [
  "NetworkPolicy",
  "ResourceQuota",
  "ServiceAccount",
  "ConfigMap",
  "ClusterRole",
  "ClusterRoleBinding",
  "Role",
  "RoleBinding",
  "DaemonSet",
  "PodMonitor",
];

/** The chart of a folder. */
export class Chart {
  readonly folder: string;
  readonly values: Values;
  readonly #about: { name: string; version: string; appVersion: string };
  readonly #templates: ReadonlyMap<string, readonly Node[]>;
  readonly #definitions: Definitions;

  /** @throws Error for a template that is outside the part of the language known here */
  constructor(folder: string) {
    this.folder = folder;
    this.values = parse(this.#read("values.yaml")) as Values;
    this.#about = parse(this.#read("Chart.yaml")) as { name: string; version: string; appVersion: string };
    const names = readdirSync(join(folder, "templates")).sort();
    this.#templates = new Map(
      names.map((name) => [name, parseTemplate(this.#read(`templates/${name}`), name)]),
    );
    const defined = [...this.#templates.values()].flat().filter((node) => node.kind === "define");
    this.#definitions = new Map(defined.map((node) => [node.name, node.body]));
  }

  /** Objects in the order in which they are to be created. @throws Error of a template, with its name in front */
  render(options: RenderOptions): Manifest[] {
    const manifests: Manifest[] = [];
    for (const name of this.#templates.keys()) {
      if (!name.endsWith(".yaml")) continue;
      for (const document of parseAllDocuments(this.#renderOne(name, options))) {
        if (document.errors.length > 0)
          throw new Error(`Cannot read "${name}": ${document.errors[0]?.message}`);
        const object = document.toJS() as Values | null;
        if (object !== null)
          manifests.push({
            object,
            text: documentText(document.toString({ flowCollectionPadding: false, lineWidth: 0 })),
          });
      }
    }
    const place = ({ object }: Manifest) => kinds.indexOf(String(object.kind));
    const unknown = manifests.find((manifest) => place(manifest) < 0);
    if (unknown !== undefined) throw new Error(`Cannot place an object of kind "${unknown.object.kind}"`);
    return manifests.sort((a, b) => place(a) - place(b));
  }

  /** What Helm says after the installation. */
  notes(options: RenderOptions): string {
    return this.#renderOne("NOTES.txt", options);
  }

  #renderOne(name: string, options: RenderOptions): string {
    const dot = {
      Values: overlay(this.values, options.values ?? {}),
      Release: { Name: options.releaseName, Namespace: options.namespace, Service: "Helm" },
      Chart: { Name: this.#about.name, Version: this.#about.version, AppVersion: this.#about.appVersion },
      Capabilities: { KubeVersion: { Version: `v${options.kubeVersion}` } },
      Files: { Get: (path: string) => this.#read(path) },
    };
    try {
      return renderTemplate(this.#templates.get(name) ?? [], dot, this.#definitions);
    } catch (error) {
      throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
    }
  }

  #read(path: string): string {
    return readFileSync(join(this.folder, path), "utf8");
  }
}

function documentText(text: string): string {
  const withoutLicence = text.replace(/^# SPDX-License-Identifier: .*\n/m, "");
  return withoutLicence.replace(/^(---|\s)*\n/, "").trimEnd();
}

/** Source: helm pkg/chartutil/coalesce.go: maps are merged, all else is replaced, null removes. */
function overlay(base: Values, over: Values): Values {
  const merged = structuredClone(base);
  for (const [key, value] of Object.entries(over)) {
    const old = merged[key];
    if (value === null) delete merged[key];
    else merged[key] = isMap(old) && isMap(value) ? overlay(old, value) : structuredClone(value);
  }
  return merged;
}

function isMap(value: unknown): value is Values {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
