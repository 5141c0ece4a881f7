// SPDX-License-Identifier: Apache-2.0
// Notices when another program keeps taking our entry out of the chain, and says what to do about it.
import { Backoff } from "../loop/backoff.ts";

/** What to do about one more rewrite. */
export interface FightVerdict {
  /** How long to wait before the repair. */
  readonly pauseMs: number;
  /** A fight begins with this rewrite: time to tell people, once. */
  readonly begins: boolean;
}

/** Limits of {@link FightWatch}. */
export interface FightLimits {
  /** Default 60 000. */
  readonly windowMs?: number;
  /** More rewrites than this in a window are a fight, default 5. */
  readonly maxRewrites?: number;
  /** Default 5000. */
  readonly maxPauseMs?: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
}

const firstPauseMs = 200;

/** Counts rewrites and slows repairs down, first a little, while there are too many. */
export class FightWatch {
  readonly #windowMs: number;
  readonly #maxRewrites: number;
  readonly #pauses: Backoff;
  readonly #now: () => number;
  #recent: number[] = [];
  #isOn = false;
  #rewrites = 0;
  #fights = 0;

  constructor(limits: FightLimits = {}) {
    this.#windowMs = limits.windowMs ?? 60_000;
    this.#maxRewrites = limits.maxRewrites ?? 5;
    // one node fights alone: there is nobody to march in step with
    this.#pauses = new Backoff({
      baseMs: firstPauseMs,
      capMs: limits.maxPauseMs ?? 5000,
      random: () => 1,
    });
    this.#now = limits.now ?? (() => performance.now());
  }

  /** Rewrites that took our entry away, ever. */
  get rewrites(): number {
    return this.#rewrites;
  }

  /** Fights, ever. */
  get fights(): number {
    return this.#fights;
  }

  /** Too many rewrites in the window that ends now. */
  get isOn(): boolean {
    this.#forget();
    return this.#isOn;
  }

  /** Counts one more rewrite. */
  record(): FightVerdict {
    this.#forget();
    this.#rewrites++;
    this.#recent.push(this.#now());
    if (this.#recent.length <= this.#maxRewrites) return { pauseMs: 0, begins: false };
    const begins = !this.#isOn;
    if (begins) this.#fights++;
    this.#isOn = true;
    return { pauseMs: this.#pauses.nextMs(), begins };
  }

  #forget(): void {
    const oldest = this.#now() - this.#windowMs;
    this.#recent = this.#recent.filter((time) => time > oldest);
    if (this.#recent.length > this.#maxRewrites) return;
    this.#isOn = false;
    this.#pauses.reset();
  }
}

const remedies: readonly (readonly [RegExp, string])[] = [
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
