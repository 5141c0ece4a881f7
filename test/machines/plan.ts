// SPDX-License-Identifier: Apache-2.0
// Which machines there are, and what is run on each. Pure.

/** A program that a machine runs to its end. */
export interface Step {
  /** Unique on its machine; its output is kept under this name. */
  readonly name: string;
  readonly kind: "build" | "demo" | "doctor" | "suite";
  readonly argv: readonly string[];
  /** Against hanging only, in seconds. */
  readonly limit: number;
  /** Names of its tests that are not run. */
  readonly without?: readonly string[];
}

/** A machine: a Debian with its kernel, and how it differs from what Debian makes of it. */
export interface Machine {
  readonly name: string;
  readonly suite: "bookworm" | "trixie" | "sid";
  readonly arch: "amd64" | "arm64";
  /** What is special about it, for people; empty for none. */
  readonly variant: string;
  /** Words of the kernel's command line. */
  readonly kernelWords?: readonly string[];
  /** Lines of shell that make the variant, before the steps. */
  readonly prepare?: readonly string[];
  /** Files of test/kernel, and of test/cri with "cri-" before: those of the short form, and the others. */
  readonly short: readonly string[];
  readonly long: readonly string[];
  /** What of the steps the machine cannot do, as "step: reason"; of one test of a step, as "step, name of the test: reason". */
  readonly cannot?: readonly string[];
}

/** Everything that the programs of the tests need of a system. */
export const packages: readonly string[] = [
  ...["base-files", "base-passwd", "dash", "bash", "debianutils", "coreutils", "util-linux", "mount"],
  ...["procps", "findutils", "grep", "sed", "mawk", "tar", "gzip", "hostname", "libstdc++6", "libatomic1"],
  ...["iptables", "nftables", "ipset", "iproute2", "conntrack", "tcpdump", "containernetworking-plugins"],
  ...["busybox-static", "kmod", "containerd", "runc"],
];
/** Where launcher and addon are built inside. */
export const buildPackages: readonly string[] = ["gcc", "libc6-dev", "make", "musl-tools", "diffutils"];

/** What programs' rules are made of. */
const xtables = ["x_tables", "nft_compat", "ip_tables", "ip6_tables"];
/** Rules natively and with programs, of which every kernel may make something else. */
const redirect = ["redirect", "redirect-drift", "redirect-routing", "redirect-refused", "redirect-cost"];
const rules = ["native-redirect", ...redirect];
/** What of the kernel matters besides: cgroup paths, and the host's rules for the kubelet's probes. */
const others = ["discovery", "probes-host", "probes", "earlier-rules", "native-agent"];
/** A container runtime on the machine's own kernel and cgroups. */
const runtime = "cri-runtime";

/** In the order in which they run; the first of each processor is the one of the short form. */
export const machines: readonly Machine[] = [
  {
    ...{ name: "trixie", suite: "trixie", arch: "amd64", variant: "" },
    ...{ short: ["native-redirect"], long: [...redirect, ...others, runtime] },
  },
  {
    ...{ name: "trixie-arm64", suite: "trixie", arch: "arm64", variant: "" },
    ...{ short: ["native-redirect"], long: [...redirect, "discovery"] },
  },
  { name: "bookworm", suite: "bookworm", arch: "amd64", variant: "", short: [], long: rules },
  { name: "sid", suite: "sid", arch: "amd64", variant: "", short: [], long: [...rules, runtime] },
  {
    ...{ name: "trixie-native", suite: "trixie", arch: "amd64", variant: "no x_tables, no nft_compat" },
    prepare: forbid(...xtables),
    ...{ short: [], long: ["native-redirect", "native-agent"] },
    cannot: [
      "demo: its steps ask iptables-save, which this kernel does not serve",
      "doctor: rules that programs write",
      "native-agent, under traffic the node goes to iptables and back: there is no iptables to go to",
    ],
  },
  {
    ...{ name: "trixie-legacy", suite: "trixie", arch: "amd64", variant: "no nf_tables" },
    prepare: [
      ...forbid("nf_tables"),
      // as update-alternatives would
      "for tool in iptables ip6tables; do for word in '' -save -restore; do ln -sf $tool-legacy$word /usr/sbin/$tool$word; done; done",
    ],
    ...{ short: [], long: [] },
    cannot: ["demo: it watches the pods' rules with nft monitor", "doctor-native: there is no nf_tables"],
  },
  {
    ...{ name: "trixie-v4", suite: "trixie", arch: "amd64", variant: "ipv6.disable=1" },
    kernelWords: ["ipv6.disable=1"],
    ...{ short: [], long: [] },
    cannot: ["demo: its steps ask for both families"],
  },
  {
    ...{ name: "trixie-v6only", suite: "trixie", arch: "amd64", variant: "net.ipv6.bindv6only=1" },
    // a namespace does not inherit it; init.sh of a test node reads this folder
    prepare: ["echo net.ipv6.bindv6only=1 >/etc/sysctl.d/ambient-cni-node.conf"],
    ...{ short: [], long: [] },
  },
];

/** A module that is not loaded, whoever asks. Source: modprobe.d(5), install. */
function forbid(...modules: readonly string[]): string[] {
  return modules.map((name) => `echo "install ${name} /bin/false" >>/etc/modprobe.d/absent.conf`);
}

/** The steps of a machine, in order. */
export function planSteps(machine: Machine, { short }: { readonly short: boolean }): Step[] {
  const { arch, cannot = [] } = machine;
  const files = short ? machine.short : [...machine.short, ...machine.long];
  const doctor = ["node", "test/machines/doctor.ts"];
  const steps: readonly Step[] = [
    ...(arch === "amd64"
      ? []
      : ([{ name: "build", kind: "build", argv: ["sh", "scripts/setup.sh"], limit: 600 }] as const)),
    { name: "demo", kind: "demo", argv: ["node", "test/demo/main.ts", "--json"], limit: 900 },
    { name: "doctor", kind: "doctor", argv: doctor, limit: 600 },
    // and loads what the tests after it need, of which each has its own deadlines
    { name: "doctor-native", kind: "doctor", argv: [...doctor, "--native"], limit: 600 },
    ...files.map((file) => suiteStep(file, testsWithout(file, cannot))),
  ];
  return steps.filter(({ name }) => !cannot.some((line) => line.startsWith(`${name}: `)));
}

/** Of the lines of {@link Machine.cannot}, the tests of this file. */
function testsWithout(file: string, cannot: readonly string[]): string[] {
  const [before, after] = [`${file}, `, ": "];
  return cannot
    .filter((line) => line.startsWith(before))
    .map((line) => line.slice(before.length, line.lastIndexOf(after)));
}

function suiteStep(file: string, without: readonly string[]): Step {
  const reporters = ["--reporter=verbose", "--reporter=json", `--outputFile.json=/run/results/${file}.json`];
  const [, inRuntime] = /^cri-(.*)/.exec(file) ?? [];
  const where =
    inRuntime === undefined
      ? [`test/kernel/${file}.test.ts`]
      : ["--config", "test/cri/vitest.config.ts", `test/cri/${inRuntime}.test.ts`];
  // a pattern of names that do not begin so
  const others = without.length === 0 ? [] : ["-t", `^(?!${without.join("|")})`];
  const argv = ["vitest", "run", ...reporters, ...others, ...where];
  return { name: file, kind: "suite", argv, limit: 1500, without };
}

/** What of everything is not run where these steps are asked for, as lines for people. */
export function leftOut(machine: Machine, asked: readonly string[]): string[] {
  const { name, cannot = [] } = machine;
  const all = planSteps(machine, { short: false }).map((step) => step.name);
  const rest = all.filter((step) => !asked.includes(step));
  return [
    ...cannot.map((line) => `${name}, ${line}`),
    ...(rest.length === 0 ? [] : [`${name}, ${rest.join(", ")}: not asked for`]),
  ];
}

/** The script of shell that init.sh takes: the variant, then each step. */
export function scriptOf(
  machine: Machine,
  steps: readonly Step[],
  env: Readonly<Record<string, string>>,
): string {
  const lines = [
    ...Object.entries(env).map(([name, value]) => `export ${name}=${quoted(value)}`),
    ...(machine.prepare ?? []),
    ...steps.map(({ name, limit, argv }) => `step ${quoted(name)} ${limit} ${argv.map(quoted).join(" ")}`),
  ];
  return `${lines.join("\n")}\n`;
}

/** A word of the shell's. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
