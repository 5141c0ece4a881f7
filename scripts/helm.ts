// SPDX-License-Identifier: Apache-2.0
// What Helm makes of a chart: for the checked-in manifests and for tests.
import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";

/** A value as in a values file. */
export type Values = Record<string, unknown>;

/** What `helm template` is told. */
export interface RenderOptions {
  readonly releaseName: string;
  readonly namespace: string;
  /** Version of the cluster, which decides how AppArmor is told. */
  readonly kubeVersion: string;
  /** Laid over the chart's own; null takes a value away. */
  readonly values?: Values;
}

/** A Kubernetes object and the text it came from, without Helm's own comments. */
export interface Manifest {
  readonly object: Values;
  readonly text: string;
}

/** Path of the program that `scripts/helm.sh` builds, or what this machine lacks to build it. */
export type HelmMeans = { readonly program: string } | { readonly lacks: string };

/** Looks for Helm and builds it where it can be: for two minutes, once. @throws Error when the build fails */
export async function findHelm(): Promise<HelmMeans> {
  const script = join(import.meta.dirname, "helm.sh");
  return await new Promise((resolve, reject) => {
    execFile("sh", [script], (error, stdout, stderr) => {
      const said = stderr.trim();
      if (error === null) resolve({ program: stdout.trim() });
      else if (error.code === 3) resolve({ lacks: said });
      else reject(new Error(`Cannot build Helm: ${said}`, { cause: error }));
    });
  });
}

/** The chart of a folder, as a program of `findHelm` sees it. */
export class Chart {
  readonly folder: string;
  readonly #program: string;

  constructor(program: string, folder: string) {
    this.#program = program;
    this.folder = folder;
  }

  /** Objects in the order in which they are to be created. @throws Error with what Helm says: of the values, or of a template */
  render(options: RenderOptions): Manifest[] {
    const texts = this.#helm("template", options)
      .split(/^---\n/m)
      .slice(1);
    return texts.flatMap((text) => {
      // Kubernetes reads YAML 1.1, where "on" and "yes" are booleans
      const [document] = parseAllDocuments(
        text.replace(/^# (?:Source|SPDX-License-Identifier): .*\n/gm, ""),
        {
          version: "1.1",
        },
      );
      const object = document?.toJS() as Values | null | undefined;
      if (document === undefined || object === null || object === undefined) return [];
      return [{ object, text: document.toString({ flowCollectionPadding: false, lineWidth: 0 }).trimEnd() }];
    });
  }

  /** What Helm says after the installation. */
  notes(options: RenderOptions): string {
    return this.#helm("notes", options);
  }

  /** @throws Error when Helm finds more than a recommendation */
  lint(): void {
    execFileSync(this.#program, ["lint", this.folder], { encoding: "utf8", stdio: "pipe" });
  }

  #helm(verb: string, { releaseName, namespace, kubeVersion, values = {} }: RenderOptions): string {
    return execFileSync(this.#program, [verb, releaseName, this.folder, namespace, kubeVersion], {
      input: JSON.stringify(values),
      encoding: "utf8",
      stdio: "pipe",
    });
  }
}
