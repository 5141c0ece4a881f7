// SPDX-License-Identifier: Apache-2.0
// What ADD told of each sandbox, and which of its attachments to networks there still are. No I/O.
import type { Logger } from "../log/logger.ts";

/** One attachment of a sandbox to a network; all three together name it. Source: CNI spec 1.1.0, "Section 2", GC. */
export interface Attachment {
  /** `name` of the network configuration. */
  readonly network: string;
  readonly containerId: string;
  readonly ifname: string;
}

/** A sandbox as ADD told of it. */
export interface Place {
  /** The pod's, as the API server has it. */
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** Of the sandbox: CNI_CONTAINERID. */
  readonly containerId: string;
  /** As the runtime named it: to be opened below the host's root. */
  readonly netnsPath: string;
  /** `Netns.key` of the namespace that was there at ADD. */
  readonly netnsKey: string;
  /** Addresses without prefix length; of all attachments that there still are where there are several. */
  readonly ips: readonly string[];
  /** `nri`: the runtime told of it by NRI, and no ADD did. Default: an ADD. */
  readonly toldBy?: "nri" | undefined;
}

/** A sandbox with its attachments, as it is kept. */
export interface KeptSandbox {
  /** Grows from sandbox to sandbox: of a pod's sandboxes the highest is the newest. */
  readonly order: number;
  readonly place: Place;
  /** At least one, in the order of their ADDs. */
  readonly attachments: readonly KeptAttachment[];
}

/** An attachment of a sandbox, and the addresses that came with it. */
export interface KeptAttachment {
  readonly network: string;
  readonly ifname: string;
  readonly ips: readonly string[];
}

/** Where what is known outlives this process. Neither function throws. */
export interface AttachmentKeeper {
  save(sandbox: KeptSandbox): void;
  remove(containerId: string): void;
}

export interface AttachmentsOptions {
  readonly log: Logger;
  /** Default: nothing outlives this process. */
  readonly keeper?: AttachmentKeeper;
  /** What an earlier agent of this boot kept. */
  readonly kept?: readonly KeptSandbox[];
}

/** What a DEL comes to; `unknown`: nobody told of this attachment, so nothing is to be touched. */
export type Removal = "last" | "others-left" | "unknown";

const maxSandboxes = 1_024;
const maxAttachments = 32;

/** The one owner of what the runtime told. Every answer is given at once. */
export class Attachments {
  readonly #log: Logger;
  readonly #keeper: AttachmentKeeper | undefined;
  /** By container id, oldest first. */
  readonly #sandboxes = new Map<string, KeptSandbox>();
  readonly #said = new Set<string>();
  #lastOrder = 0;

  constructor(options: AttachmentsOptions) {
    this.#log = options.log;
    this.#keeper = options.keeper;
    const kept = [...(options.kept ?? [])].sort((a, b) => a.order - b.order);
    for (const sandbox of kept) this.#sandboxes.set(sandbox.place.containerId, sandbox);
    this.#lastOrder = kept.at(-1)?.order ?? 0;
    this.#keepWithinBounds();
  }

  /** How many sandboxes are known. */
  get size(): number {
    return this.#sandboxes.size;
  }

  /**
   * An ADD told of a sandbox. May be repeated; another network or interface of a known sandbox is one attachment more.
   * @param place with the addresses of this ADD alone
   * @returns whether it is known now: what has no container id, or is longer than any such thing can be, is not
   */
  added(place: Place, attachment: Omit<Attachment, "containerId">): boolean {
    // istio-cni's own plugin event names none
    if (place.containerId === "") return false;
    const known = this.#sandboxes.get(place.containerId);
    // another namespace under the same id: what was attached to the one before is gone with it
    const before = known?.place.netnsKey === place.netnsKey ? known.attachments : [];
    const fresh = { network: attachment.network, ifname: attachment.ifname, ips: [...place.ips] };
    const at = before.findIndex((each) => isSame(each, attachment));
    const attachments = at < 0 ? [...before, fresh] : before.with(at, fresh);
    if (!isUsablePlace(place) || !isUsableAttachment(fresh) || attachments.length > maxAttachments) {
      this.#sayOnce(
        "cannot remember an attachment that a CNI call told of: there is too much of it, or its pod or namespace lacks",
        {
          ns: place.namespace,
          pod: place.name,
          container: place.containerId.slice(0, maxIdLength),
        },
      );
      return false;
    }
    // a namespace has one sandbox: whoever had the number before is gone, though nobody said so
    for (const { place: former } of [...this.#sandboxes.values()]) {
      const isOther = former.containerId !== place.containerId && former.netnsKey === place.netnsKey;
      if (isOther) this.ended(former.containerId);
    }
    this.#put({ order: known?.order ?? ++this.#lastOrder, place, attachments });
    this.#keepWithinBounds();
    return true;
  }

  /** A DEL ended an attachment. */
  removed(attachment: Attachment): Removal {
    const known = this.#sandboxes.get(attachment.containerId);
    if (known === undefined) return "unknown";
    const left = known.attachments.filter((each) => !isSame(each, attachment));
    if (left.length === known.attachments.length) return "unknown";
    return this.#reduce(known, left) ? "last" : "others-left";
  }

  /**
   * A GC named all attachments that a network still has; those of other networks are not its business.
   * @param options.spare sandboxes that the list may be too old to name: an ADD of theirs is under way
   * @returns container ids of the sandboxes that have no attachment left
   */
  collected(
    network: string,
    valid: readonly Omit<Attachment, "network">[],
    options: { readonly spare?: (containerId: string) => boolean } = {},
  ): string[] {
    const isValid = new Set(valid.map(({ containerId, ifname }) => `${containerId}\n${ifname}`));
    const ended: string[] = [];
    for (const [containerId, sandbox] of [...this.#sandboxes]) {
      const left = sandbox.attachments.filter(
        (each) => each.network !== network || isValid.has(`${containerId}\n${each.ifname}`),
      );
      if (left.length === sandbox.attachments.length || options.spare?.(containerId) === true) continue;
      if (this.#reduce(sandbox, left)) ended.push(containerId);
    }
    return ended;
  }

  /** The newest sandbox of a pod. */
  placeOf(uid: string): Place | undefined {
    let newest: KeptSandbox | undefined;
    for (const sandbox of this.#sandboxes.values()) if (sandbox.place.uid === uid) newest = sandbox;
    return newest?.place;
  }

  /**
   * The pod whose sandbox is in a namespace. Numbers of namespaces come back: of several sandboxes that were told to be in it
   * the newest that still stands is, and none that its pod has a newer one for.
   * @param netnsKey `Netns.key`
   * @param stands whether the namespace is still where ADD told; of a sandbox that nobody ended only the number may be left
   */
  ownerOf(netnsKey: string, stands: (place: Place) => boolean): string | undefined {
    let owner: string | undefined;
    for (const { place } of this.#sandboxes.values()) {
      const isNewest = place.netnsKey === netnsKey && this.placeOf(place.uid) === place;
      if (isNewest && stands(place)) owner = place.uid;
    }
    return owner;
  }

  ofContainer(containerId: string): Place | undefined {
    return this.#sandboxes.get(containerId)?.place;
  }

  /** Attachments of a sandbox that there still are; none of one that nobody told of. */
  attachmentsOf(containerId: string): readonly KeptAttachment[] {
    return this.#sandboxes.get(containerId)?.attachments ?? [];
  }

  /** All sandboxes, oldest first. */
  places(): Place[] {
    return [...this.#sandboxes.values()].map(({ place }) => place);
  }

  /** The pod is gone with all its sandboxes. */
  forgetPod(uid: string): void {
    for (const { place } of [...this.#sandboxes.values()])
      if (place.uid === uid) this.ended(place.containerId);
  }

  /** A sandbox is gone, whatever was attached to it. */
  ended(containerId: string): void {
    if (this.#sandboxes.delete(containerId)) this.#keeper?.remove(containerId);
  }

  /** Leaves a sandbox with these attachments; true: with none, so that it is forgotten. */
  #reduce(known: KeptSandbox, attachments: readonly KeptAttachment[]): boolean {
    if (attachments.length > 0) this.#put({ ...known, attachments });
    else this.ended(known.place.containerId);
    return attachments.length === 0;
  }

  #put({ order, place, attachments }: KeptSandbox): void {
    const ips = [...new Set(attachments.flatMap((attachment) => attachment.ips))];
    const sandbox = { order, place: { ...place, ips }, attachments };
    this.#sandboxes.set(place.containerId, sandbox);
    this.#keeper?.save(sandbox);
  }

  /** More than a node can have: the oldest are what nobody ever ended. */
  #keepWithinBounds(): void {
    for (const containerId of this.#sandboxes.keys()) {
      if (this.#sandboxes.size <= maxSandboxes) return;
      this.#sayOnce("more sandboxes were told of than are remembered: the oldest are forgotten", {
        maxSandboxes,
      });
      this.ended(containerId);
    }
  }

  #sayOnce(message: string, fields: object): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.#log.warn(fields, message);
  }
}

const maxIdLength = 256;
const maxIps = 16;

/**
 * Whether a sandbox can be what ADD told, by its strings alone: not empty where they name something, and no longer than
 * such things get. Source: kubernetes pkg/apis/core/validation (253 for names); limits.h, PATH_MAX.
 */
export function isUsablePlace(place: Place): boolean {
  return (
    isName(place.containerId, maxIdLength) &&
    isName(place.uid, maxIdLength) &&
    isName(place.namespace, 253) &&
    isName(place.name, 253) &&
    isName(place.netnsPath, 1_024) &&
    /^\d{1,20}:\d{1,20}$/.test(place.netnsKey)
  );
}

/** The same of an attachment; both names may be empty, then the caller did not say. */
export function isUsableAttachment({ network, ifname, ips }: KeptAttachment): boolean {
  return (
    network.length <= 253 && ifname.length <= 64 && ips.length <= maxIps && ips.every((ip) => isName(ip, 64))
  );
}

function isName(text: string, maxLength: number): boolean {
  return text !== "" && text.length <= maxLength;
}

function isSame(a: Omit<Attachment, "containerId">, b: Omit<Attachment, "containerId">): boolean {
  return a.network === b.network && a.ifname === b.ifname;
}
