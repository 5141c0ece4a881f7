// SPDX-License-Identifier: Apache-2.0
// Notices when another program keeps taking our entry out of the chain, and says what to do about it. Pure.

/** What is remembered of rewrites. */
export interface Fight {
  /** When the latest were, in ms of a clock that never goes back. */
  readonly recentMs: readonly number[];
  /** Too many of them in the window. */
  readonly isOn: boolean;
  /** Pauses since it is on. */
  readonly pauses: number;
  /** Rewrites that took our entry away, ever. */
  readonly rewrites: number;
  /** Fights, ever. */
  readonly fights: number;
}

/** What to do about one more rewrite. */
export interface FightVerdict {
  readonly fight: Fight;
  /** How long to wait before the repair. */
  readonly pauseMs: number;
  /** A fight begins with this rewrite: time to tell people, once. */
  readonly begins: boolean;
}

export const noFight: Fight = { recentMs: [], isOn: false, pauses: 0, rewrites: 0, fights: 0 };

const windowMs = 60_000;
/** More rewrites than this in a window are a fight. */
const maxRewrites = 5;
const firstPauseMs = 200;
const maxPauseMs = 5_000;

/** What is left of it at a later moment. */
export function fightAt(fight: Fight, nowMs: number): Fight {
  const recentMs = fight.recentMs.filter((atMs) => atMs > nowMs - windowMs);
  return recentMs.length > maxRewrites
    ? { ...fight, recentMs }
    : { ...fight, recentMs, isOn: false, pauses: 0 };
}

/** Counts one more rewrite; in a fight repairs are slowed down, first a little. */
export function recordRewrite(before: Fight, nowMs: number): FightVerdict {
  const { recentMs, isOn, pauses, rewrites, fights } = fightAt(before, nowMs);
  const fight: Fight = { recentMs: [...recentMs, nowMs], isOn, pauses, rewrites: rewrites + 1, fights };
  if (fight.recentMs.length <= maxRewrites) return { fight, pauseMs: 0, begins: false };
  return {
    fight: { ...fight, isOn: true, pauses: pauses + 1, fights: isOn ? fights : fights + 1 },
    // one node fights alone: there is nobody to march in step with
    pauseMs: Math.min(firstPauseMs * 2 ** pauses, maxPauseMs),
    begins: !isOn,
  };
}

const remedies: readonly (readonly [RegExp, string])[] = [
  [
    /^istio-cni$/,
    "istio-cni runs on this node, too, and a node has one agent: uninstall istio-cni (its DaemonSet istio-cni-node), or ambient-cni",
  ],
  [
    /^cilium-cni$/,
    'Cilium keeps the CNI folder to itself: set cni.exclusive=false in its Helm values (cni-exclusive: "false" in the ConfigMap cilium-config) and restart its agents',
  ],
  [
    /^multus(-shim)?$/,
    "Multus regenerates its configuration from that of its delegate: let it delegate to the file that holds our entry, or set ISTIO_OWNED_CNI_CONFIG=true with ISTIO_OWNED_CNI_CONFIG_FILENAME sorting before Multus' file",
  ],
  [
    /^calico(-ipam)?$/,
    "Calico's install-cni writes its file at each start: see whether calico-node keeps restarting or is installed twice (operator and manifest), or set ISTIO_OWNED_CNI_CONFIG=true",
  ],
];

/**
 * What an operator can do about rewrites of a chain with these plugins.
 * Source: cilium/cilium Documentation, "cni.exclusive"; projectcalico/calico cni-plugin/pkg/install; multus-cni docs/thick-plugin.md
 */
export function fightRemedy(types: readonly string[]): string {
  const known = remedies.find(([pattern]) => types.some((type) => pattern.test(type)));
  return (
    known?.[1] ??
    "find the program that writes this file (`fatrace -c` in its folder, on the node) and stop it, or set ISTIO_OWNED_CNI_CONFIG=true to use a file of our own"
  );
}
