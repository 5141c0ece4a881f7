// SPDX-License-Identifier: Apache-2.0
// What is asked of one namespace in the same turn of the event loop goes there together: an entry costs more than most questions.
import { type Conversation, converseInNetns, netlinkInNetns } from "./native.ts";

/** Whom a visit is paid to. */
export interface VisitOptions {
  /** Of the namespace; not closed. */
  readonly fd: number;
  /** As for {@link converseInNetns}. */
  readonly isUrgent?: boolean;
  /** Throws where the namespace must not be entered, or the descriptor is no longer its own. Called right before each entry. */
  readonly assertUsable?: () => void;
}

/** Where a conversation takes place: a namespace's descriptor, whoever has it and may close it meanwhile, or a visit of it. */
export type NetnsAt = number | { readonly fd: number } | NetnsVisit;

interface Waiting {
  readonly conversation: Conversation;
  readonly resolve: (received: Uint8Array) => void;
  readonly reject: (error: unknown) => void;
}

/** A visit of one namespace by somebody who may have several things to ask. */
export class NetnsVisit {
  readonly #options: VisitOptions;
  #waiting: Waiting[] = [];

  constructor(options: VisitOptions) {
    this.#options = options;
  }

  /**
   * Has a conversation, behind those begun before it in the same turn.
   * @throws as {@link converseInNetns}, also for how the conversation failed; what `assertUsable` throws
   */
  converse(conversation: Conversation): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      // behind whatever the promises of this turn lead to: a tick that a promise asks for comes when no promise is left to be kept
      if (this.#waiting.length === 0) queueMicrotask(() => process.nextTick(() => void this.#go()));
      this.#waiting.push({ conversation, resolve, reject });
    });
  }

  async #go(): Promise<void> {
    const { fd, isUrgent, assertUsable } = this.#options;
    const waiting = this.#waiting;
    this.#waiting = [];
    try {
      assertUsable?.();
      const answers = await converseInNetns(
        fd,
        waiting.map(({ conversation }) => conversation),
        { isUrgent },
      );
      for (const [index, { resolve, reject }] of waiting.entries()) {
        const answer = answers[index];
        if (answer instanceof Uint8Array) resolve(answer);
        else reject(answer);
      }
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    }
  }
}

/** One conversation. @throws as {@link NetnsVisit.converse} */
export function converse(at: NetnsAt, conversation: Conversation): Promise<Uint8Array> {
  if (at instanceof NetnsVisit) return at.converse(conversation);
  const { protocol, request, ...options } = conversation;
  return netlinkInNetns(typeof at === "number" ? at : at.fd, protocol, request, options);
}
