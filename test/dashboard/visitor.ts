// SPDX-License-Identifier: Apache-2.0
// Somebody with a browser who looks at the dashboard and notes down everything that a page must not do.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { patience } from "../support/node/patience.ts";

/** Debian's. */
export const CHROMIUM = "/usr/bin/chromium";

/** Why tests in a browser are skipped; `undefined`: they run. */
export const noBrowser = existsSync(CHROMIUM)
  ? undefined
  : `the dashboard is not tested in a browser: there is no "${CHROMIUM}"; apt-get install chromium`;

/** Kept for people, and ignored by git. */
export const SCREENSHOTS = join(import.meta.dirname, "../../build/screenshots");

/**
 * What Chromium says of a request that it dropped itself because an interface came or went in its network namespace.
 * Here it shares a node's, where each pod brings one; the page asks again, as for any answer that did not come.
 */
const OWN_NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED";

/** A headless Chromium. */
export function startBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: CHROMIUM,
    // root, and a small /dev/shm in containers
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
}

/** One page and what was seen of it. */
export class Visitor {
  readonly page: Page;
  /** Errors and warnings on the console, errors that nobody caught, requests that failed or went elsewhere. */
  readonly complaints: string[] = [];

  private constructor(page: Page, url: string) {
    this.page = page;
    const { origin } = new URL(url);
    page.on("console", (message) => {
      if (message.text().endsWith(OWN_NETWORK_CHANGED)) return;
      if (message.type() === "error" || message.type() === "warning") this.complaints.push(message.text());
    });
    page.on("pageerror", (error) => this.complaints.push(error.message));
    page.on("request", (request) => {
      const target = request.url();
      if (!target.startsWith(`${origin}/`) && !target.startsWith("data:"))
        this.complaints.push(`request to ${target}`);
    });
    page.on("response", (response) => {
      if (response.status() >= 400) this.complaints.push(`${response.status()} ${response.url()}`);
    });
  }

  /** Opens the page at an address and waits for its first pods. */
  static async open(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Visitor> {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    const page = await context.newPage();
    await page.addInitScript({ path: join(import.meta.dirname, "in-page.js") });
    const visitor = new Visitor(page, url);
    await page.goto(url);
    await page.locator("#link[data-link=live]").waitFor({ timeout: 10_000 * patience() });
    return visitor;
  }

  /** Calls a function of in-page.js. */
  probe<T>(expression: string): Promise<T> {
    return this.page.evaluate(`probes.${expression}`) as Promise<T>;
  }

  /** The row of a pod. */
  row(pod: string): ReturnType<Page["locator"]> {
    return this.page.locator("#pod-rows tr", {
      has: this.page.getByRole("link", { name: pod, exact: true }),
    });
  }

  /** A picture for people. */
  async picture(name: string): Promise<void> {
    mkdirSync(SCREENSHOTS, { recursive: true });
    await this.page.screenshot({ path: join(SCREENSHOTS, `${name}.png`) });
  }

  async close(): Promise<void> {
    await this.page.context().close();
  }
}
