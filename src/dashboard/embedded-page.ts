// SPDX-License-Identifier: Apache-2.0
// The page's text as the bundle carries it, so that it needs no file.

/** The page's three files. */
export interface PageText {
  readonly html: string;
  readonly css: string;
  readonly js: string;
}

/** Replaced by scripts/bundle.ts. */
declare const EMBEDDED_PAGE: PageText | undefined;

/** The page of this build. */
export function embeddedPage(): PageText {
  if (typeof EMBEDDED_PAGE !== "undefined") return EMBEDDED_PAGE;
  return {
    html: "This runs from its sources and has no page in it: build it with npm run setup.\n",
    css: "",
    js: "",
  };
}
