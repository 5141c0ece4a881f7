// SPDX-License-Identifier: Apache-2.0
// What an attack of the campaign is: one thing that is done to the node, and what it must not come to.
import type { Scene } from "./scene.ts";

/** How an attack ended, in terms of its own bound. */
export interface Found {
  /** A few words with the figures. */
  readonly measured: string;
  readonly ok: boolean;
}

/** One row of the campaign's table. What holds for every attack (`general-bounds.ts`) is measured around it. */
export interface Attack {
  /** Unique; `--only` takes it. */
  readonly name: string;
  /** What is done, in a few words. */
  readonly what: string;
  /** What it must not come to, besides the general bounds. */
  readonly bound: string;
  /**
   * Does it, calls `atHeight` once while it is at its worst, looks what came of it, and takes everything away again, also when it throws.
   * @param atHeight times what another tenant's pod takes meanwhile
   */
  readonly run: (scene: Scene, atHeight: () => Promise<void>) => Promise<Found>;
  /** By the mesh's own meaning no pod of it can start meanwhile: what the next one takes counts instead. */
  readonly stopsAdds?: boolean;
  /**
   * Memory that it may take while it lasts, in place of the general bound: a part that the agent grants to every peer, and what the
   * collector takes away later. What is left at the end has the general bound.
   */
  readonly allowedPeakMb?: number;
  /** Readiness names what was done for a while after its end, by design: the agent has to be alive, and need not be ready. */
  readonly staysUnready?: boolean;
  /** The agent does not withstand it, and why; the row is then counted apart, and fails once this is not so any more. */
  readonly known?: string;
}

/** Attacks on one and the same agent. */
export interface AttackGroup {
  readonly name: string;
  /** Settings of the agent, besides the scene's. */
  readonly env?: Readonly<Record<string, string>>;
  /** Command that starts the agent. */
  readonly wrapper?: readonly string[];
  /** Before the agent is started. */
  readonly prepare?: (scene: Scene) => Promise<void>;
  /** After the last attack, with the agent still running. */
  readonly finish?: (scene: Scene) => Promise<void>;
  readonly attacks: readonly Attack[];
}
