// SPDX-License-Identifier: Apache-2.0
// Keeps what ADD told over a restart of the agent: one small file for each sandbox, good for this boot of the node only.
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { isRecord, listOf, textOf } from "../kube/json-fields.ts";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { ownName } from "../linux/own-name.ts";
import type { Logger } from "../log/logger.ts";
import {
  type AttachmentKeeper,
  Attachments,
  isUsableAttachment,
  isUsablePlace,
  type KeptAttachment,
  type KeptSandbox,
  type Place,
} from "./attachments.ts";

/** Folder below the run directory. */
export const SANDBOX_FOLDER = "sandboxes";

export interface AttachmentStoreOptions {
  /** The agent's run directory. */
  readonly runDir: string;
  /** Prefix under which paths that the runtime named are seen. */
  readonly hostRoot: string;
  readonly log: Logger;
  /** Default /proc/sys/kernel/random/boot_id. */
  readonly bootIdPath?: string;
  /** Writes a whole file that only root can read; default: the file system's. Tests fill their disk here. */
  readonly writeFile?: (path: string, text: string) => void;
}

/** What the runtime told, with what an agent before this one kept of it. Never fails: at worst it begins with nothing. */
export function openAttachments(options: AttachmentStoreOptions): Attachments {
  const keeper = new AttachmentStore(options);
  return new Attachments({ log: options.log, keeper, kept: keeper.load() });
}

/** Why a file is not taken over: it is of another boot, its sandbox ended while no agent ran, or it is no such file. */
type Refusal = "otherBoot" | "ended" | "damaged";

/** A name that neither leads out of the folder nor is one of ours. Source: CNI spec 1.1.0, CNI_CONTAINERID. */
const fileId = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const suffix = ".json";
const formatVersion = 1;
/** The longest that can be kept has about half of it. */
const maxFileBytes = 64 * 1024;
const maxFiles = 4_096;

/**
 * The files. They are written without fsync: a file that a crash of the node cuts off is of another boot afterwards, and a
 * crash of the agent loses nothing that was written.
 */
export class AttachmentStore implements AttachmentKeeper {
  readonly #options: AttachmentStoreOptions;
  readonly #folder: string;
  readonly #bootId: string;
  #isFailing = false;

  constructor(options: AttachmentStoreOptions) {
    this.#options = options;
    this.#folder = join(options.runDir, SANDBOX_FOLDER);
    this.#bootId = readBootId(options.bootIdPath ?? "/proc/sys/kernel/random/boot_id");
  }

  /** Reads all files; those that cannot be used are removed, with one line in the log for all of them. */
  load(): KeptSandbox[] {
    const kept: KeptSandbox[] = [];
    const removed: Record<Refusal, number> = { otherBoot: 0, ended: 0, damaged: 0 };
    try {
      this.#needBootId();
      makeFolder(this.#folder);
      for (const file of readdirSync(this.#folder).slice(0, maxFiles)) {
        const sandbox = this.#read(file);
        if (typeof sandbox === "object") kept.push(sandbox);
        else {
          removed[sandbox] += 1;
          removeQuietly(join(this.#folder, file));
        }
      }
    } catch (error) {
      this.#fail(error);
    }
    if (removed.otherBoot + removed.ended + removed.damaged > 0)
      this.#options.log.warn(
        { ...removed, folder: this.#folder },
        "removed files of sandboxes that are not there any more",
      );
    return kept;
  }

  save(sandbox: KeptSandbox): void {
    const { containerId } = sandbox.place;
    const temporary = join(this.#folder, ownName(`.${containerId}`));
    try {
      if (!fileId.test(containerId)) throw new Error("its container id cannot be the name of a file");
      this.#needBootId();
      // it may have been taken away, or a link put in its place, since it was made
      makeFolder(this.#folder);
      const { writeFile = writePrivateFile } = this.#options;
      const text = `${JSON.stringify({ version: formatVersion, bootId: this.#bootId, ...sandbox })}\n`;
      if (Buffer.byteLength(text) > maxFileBytes) throw new Error("what is known of it is too long");
      writeFile(temporary, text);
      renameSync(temporary, this.#path(containerId));
      this.#isFailing = false;
    } catch (error) {
      removeQuietly(temporary);
      this.#fail(error);
    }
  }

  remove(containerId: string): void {
    if (!fileId.test(containerId)) return;
    try {
      rmSync(this.#path(containerId), { force: true });
    } catch (error) {
      this.#fail(error);
    }
  }

  #needBootId(): void {
    if (this.#bootId === "") throw new Error("the node's boot id cannot be read");
  }

  #path(containerId: string): string {
    return join(this.#folder, `${containerId}${suffix}`);
  }

  #read(file: string): KeptSandbox | Refusal {
    const containerId = file.slice(0, -suffix.length);
    if (!file.endsWith(suffix) || !fileId.test(containerId)) return "damaged";
    try {
      const value: unknown = JSON.parse(readSmallFile(join(this.#folder, file)));
      if (!isRecord(value) || value.version !== formatVersion) return "damaged";
      if (value.bootId !== this.#bootId) return "otherBoot";
      const sandbox = parseSandbox(value);
      if (sandbox?.place.containerId !== containerId) return "damaged";
      return this.#isEnded(sandbox.place) ? "ended" : sandbox;
    } catch {
      return "damaged";
    }
  }

  /** Only where it can be told: in a folder that is not mounted here nothing is missing. */
  #isEnded({ netnsPath, netnsKey }: Place): boolean {
    const path = join(this.#options.hostRoot, netnsPath);
    try {
      if (statSync(dirname(path), { throwIfNoEntry: false }) === undefined) return false;
      return netnsKeyAt(path) !== netnsKey;
    } catch {
      return false;
    }
  }

  /** Nobody waits for the disk: what could not be kept is known until the agent ends. */
  #fail(error: unknown): void {
    const { log } = this.#options;
    const fields = { folder: this.#folder, err: error };
    const message =
      "cannot keep what the runtime told of a sandbox: a restart of the agent has to find it by its address";
    if (this.#isFailing) log.debug(fields, message);
    else log.warn(fields, message);
    this.#isFailing = true;
  }
}

/** A link in the place of the folder would have us write elsewhere. */
function makeFolder(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found !== undefined && !found.isDirectory()) rmSync(path);
  mkdirSync(path, { recursive: true, mode: 0o700 });
  chmodSync(path, 0o700);
}

function writePrivateFile(path: string, text: string): void {
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW } = constants;
  const fd = openSync(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
  try {
    writeFileSync(fd, text);
  } finally {
    closeSync(fd);
  }
}

/** @throws Error for what is no plain file, or too large */
function readSmallFile(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > maxFileBytes) throw new Error("no small file");
    const bytes = Buffer.alloc(stat.size);
    return bytes.toString("utf8", 0, readSync(fd, bytes));
  } finally {
    closeSync(fd);
  }
}

function parseSandbox({
  order,
  place,
  attachments,
}: Readonly<Record<string, unknown>>): KeptSandbox | undefined {
  if (!Number.isSafeInteger(order) || !isRecord(place) || !Array.isArray(attachments)) return undefined;
  const parsed: Place = {
    uid: textOf(place.uid),
    namespace: textOf(place.namespace),
    name: textOf(place.name),
    containerId: textOf(place.containerId),
    netnsPath: textOf(place.netnsPath),
    netnsKey: textOf(place.netnsKey),
    ips: textsIn(place.ips),
    ...(place.toldBy === "nri" ? { toldBy: "nri" } : {}),
  };
  const kept: KeptAttachment[] = attachments.filter(isRecord).map(({ network, ifname, ips }) => ({
    network: textOf(network),
    ifname: textOf(ifname),
    ips: textsIn(ips),
  }));
  const isUsable = isUsablePlace(parsed) && kept.length > 0 && kept.length === attachments.length;
  return isUsable && kept.every(isUsableAttachment)
    ? { order: order as number, place: parsed, attachments: kept }
    : undefined;
}

function textsIn(value: unknown): string[] {
  return listOf(value).filter((each) => typeof each === "string");
}

function removeQuietly(path: string): void {
  try {
    rmSync(path, { force: true, recursive: true });
  } catch {
    // the next agent's start tries again
  }
}

/** Empty: it cannot be read, so that nothing can be told to be of this boot. */
function readBootId(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "";
  }
}
