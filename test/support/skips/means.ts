// SPDX-License-Identifier: Apache-2.0
// What a test may be skipped for: the means that a machine lacks, and whether a run accepts that. Pure.

/** A test that did not run. */
export interface Skip {
  /** Relative to the project. */
  readonly file: string;
  /** With the names of what it stands in, joined by " > ". */
  readonly name: string;
  /** What the test said of it. */
  readonly note?: string | undefined;
}

/** What tests of a file need that a machine may not have. */
interface Row {
  readonly file: RegExp;
  /** Part of the test's name; default: every test of the file. */
  readonly name?: RegExp;
  readonly means: Means;
}

/** Each with what brings it. */
export const meansOf = {
  root: "run as root",
  valgrind: "sh scripts/setup.sh --test, as root",
  "musl-gcc": "sh scripts/setup.sh, as root",
  "systemd-tmpfiles": "apt-get install systemd, or systemd-standalone-tmpfiles",
  openssl: "sh scripts/setup.sh --test, as root",
  helm: "sh scripts/helm.sh, which says what it needs",
  debian: "Debian's archive: sh scripts/debian-root.sh sid iptables netbase, which says what it needs",
  containerd: "sh scripts/setup.sh --test, as root; a container must be privileged",
  nri: "containerd 2; npm run test:runtimes has one",
  kubernetes: "sh scripts/cluster-setup.sh, which says what it needs",
  chromium: "apt-get install chromium, which Ubuntu has as a snap only",
} as const;

/** Name of a row of `meansOf`. */
export type Means = keyof typeof meansOf;

/** The first row that fits counts. */
const rows: readonly Row[] = [
  { file: /^test\/deploy\/openshift\.test/, name: /at boot systemd/, means: "systemd-tmpfiles" },
  { file: /^test\/deploy\/(?:chart|openshift)\.test/, means: "helm" },
  { file: /^test\/cluster\/drop-in\//, name: /has a chart whose objects/, means: "helm" },
  { file: /^test\/redirection\/newer-iptables\.test/, means: "debian" },
  { file: /^test\/plugin\/binary\.test/, name: /under valgrind/, means: "valgrind" },
  { file: /^test\/plugin\/binary\.test/, name: /built with musl/, means: "musl-gcc" },
  { file: /^test\/kube\/in-cluster\.test/, means: "openssl" },
  { file: /^test\/cri\/nri\.test/, means: "nri" },
  { file: /^test\/cri\//, means: "containerd" },
  { file: /^test\/cluster\//, means: "kubernetes" },
  { file: /\.browser\.ts$/, means: "chromium" },
  { file: /^test\/kernel\/doctor-self-test\.test/, means: "root" },
  { file: /^test\/(?:install\/chain-keeper|plugin\/agent-away|cli\/bundle|main)\.test/, means: "root" },
  { file: /^test\/(?:native\/(?:make-netns|namespace-owner)|support-tests\/node)\.test/, means: "root" },
  { file: /^test\/demo\/(?:dashboard-relay|keep-up)\.test/, means: "root" },
];

/** What a run does about skips: REQUIRE_ALL=1 accepts none but of the means that ALLOW_LACKING names. */
export interface Demand {
  readonly requireAll: boolean;
  readonly allowLacking: readonly string[];
}

/** @throws Error for a means that nobody knows */
export function readDemand(env: Readonly<Record<string, string | undefined>>): Demand {
  const allowLacking = (env.ALLOW_LACKING ?? "").split(",").filter((name) => name !== "");
  const unknown = allowLacking.find((name) => !Object.hasOwn(meansOf, name));
  if (unknown !== undefined)
    throw new Error(`Cannot allow for lacking "${unknown}": known are ${Object.keys(meansOf).join(", ")}`);
  return { requireAll: env.REQUIRE_ALL === "1", allowLacking };
}

/** What lacked for a test; undefined: it is in no row. */
export function lackedBy({ file, name }: Skip): Means | undefined {
  return rows.find((row) => row.file.test(file) && row.name?.test(name) !== false)?.means;
}

/** Lines for people, and with REQUIRE_ALL=1 whether the run counts as failed. */
export function judgeSkips(skips: readonly Skip[], { requireAll, allowLacking }: Demand) {
  const lines: string[] = [];
  let failed = false;
  for (const skip of skips) {
    const means = lackedBy(skip);
    const isAllowed = means !== undefined && (!requireAll || allowLacking.includes(means));
    failed ||= requireAll && !isAllowed;
    const why =
      means === undefined
        ? "nobody says what it lacks: give it a row in test/support/skips/means.ts"
        : `lacks ${means} (${meansOf[means]})`;
    const note = skip.note === undefined ? "" : `: ${skip.note}`;
    lines.push(`${isAllowed ? "skipped" : "NOT RUN"} ${skip.file} > ${skip.name}: ${why}${note}`);
  }
  return { lines, failed };
}
