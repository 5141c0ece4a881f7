// SPDX-License-Identifier: Apache-2.0
// Who may see the page: the loopback address is every local user's, and every pod's on the host network; only one of them was told the key.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";

/** A secret in the address of the page, which the browser then keeps as a cookie. Source: RFC 6265 section 5.4, RFC 6265bis, SameSite. */
export class PageKey {
  readonly #text: string;
  readonly #digest: Buffer;

  /** @param text default: 24 random bytes; in base64url's alphabet */
  constructor(text: string = randomBytes(24).toString("base64url")) {
    this.#text = text;
    this.#digest = digest(text);
  }

  /** What stands in the page's address behind the path. */
  get query(): string {
    return `?key=${this.#text}`;
  }

  /** For the page, which asks with it from then on. Cookies know no ports: a second page of this browser has one of its own. */
  get cookie(): string {
    return `${this.#cookieName}=${this.#text}; HttpOnly; SameSite=Strict; Path=/`;
  }

  /** Whether who asks has the key, in the address or as a cookie. */
  opens({ headers, url = "" }: Pick<IncomingMessage, "headers" | "url">): boolean {
    const [, query = ""] = url.split("?", 2);
    const inAddress = new URLSearchParams(query).get("key");
    const isCookie = (headers.cookie ?? "").split(";").some((pair) => {
      const [name = "", value = ""] = pair.trim().split("=", 2);
      return name === this.#cookieName && this.#is(value);
    });
    return isCookie || (inAddress !== null && this.#is(inAddress));
  }

  get #cookieName(): string {
    return `ambient-cni-${this.#digest.toString("hex").slice(0, 8)}`;
  }

  #is(text: string): boolean {
    return timingSafeEqual(digest(text), this.#digest);
  }
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
