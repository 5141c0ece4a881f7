// SPDX-License-Identifier: Apache-2.0
// What tests ask inside the page: contrast as drawn, and the grammar of its markup. Loaded before the page.
/** Red, green, blue from 0 to 255, alpha from 0 to 1. */
function parts(color) {
  const [r = 0, g = 0, b = 0, a = 1] = (color.match(/[\d.]+/g) ?? []).map(Number);
  return { r, g, b, a };
}

/** Source: WCAG 2.2, relative luminance. */
function luminance({ r, g, b }) {
  const [x, y, z] = [r, g, b].map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

function groundOf(element) {
  for (let each = element; each !== null; each = each.parentElement) {
    const ground = parts(getComputedStyle(each).backgroundColor);
    if (ground.a === 1) return ground;
    if (ground.a !== 0) throw new Error(`a ground that shines through: ${each.className}`);
  }
  return { r: 255, g: 255, b: 255, a: 1 };
}

function ratio(a, b) {
  const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

function textNodes() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const isDrawn = walker.currentNode.textContent.trim() !== "" && element.checkVisibility();
    if (isDrawn && !element.closest(".visually-hidden, noscript, .skip")) found.push(element);
  }
  return found;
}

globalThis.probes = {
  /** Texts with less than 4.5:1, each once. */
  lowContrast() {
    const low = new Set();
    let lowest = 99;
    for (const element of textNodes()) {
      const value = ratio(parts(getComputedStyle(element).color), groundOf(element));
      lowest = Math.min(lowest, value);
      if (value < 4.5)
        low.add(`${value.toFixed(2)} ${element.className || element.tagName}: ${element.textContent}`);
    }
    return { low: [...low], lowest: Math.round(lowest * 100) / 100, texts: textNodes().length };
  },
  /** Rules of accessible markup that are broken. */
  markupFaults() {
    const faults = [];
    const say = (what, element) => faults.push(`${what}: ${element?.outerHTML.slice(0, 120)}`);
    const all = [...document.querySelectorAll("body *")];
    const ids = all.map(({ id }) => id).filter((id) => id !== "");
    if (new Set(ids).size < ids.length) faults.push("two elements have one id");
    if (document.documentElement.lang === "") faults.push("no language");
    if (document.title === "") faults.push("no title");
    if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
    if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
    let level = 0;
    for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5")) {
      if (!heading.checkVisibility()) continue;
      const own = Number(heading.tagName[1]);
      if (own > level + 1) say(`from h${level} to h${own}`, heading);
      level = own;
    }
    for (const element of all) {
      const refers = element.getAttribute("aria-labelledby");
      if (refers !== null && document.getElementById(refers) === null) say(`no #${refers}`, element);
      if (element.tabIndex > 0) say("a tab stop out of order", element);
      if (element.matches("[aria-hidden=true]") && element.querySelector("a, button, input") !== null)
        say("hidden and can have the focus", element);
      if (element.matches("button, a[href], input")) {
        const labels = element.labels
          ? [...element.labels].map(({ textContent }) => textContent).join("")
          : "";
        const name = element.getAttribute("aria-label") ?? (element.textContent + labels).trim();
        if (name === "") say("no name", element);
        const { width, height } = element.getBoundingClientRect();
        if (element.checkVisibility() && height > 0 && (width < 16 || height < 16)) say("too small", element);
      }
    }
    for (const table of document.querySelectorAll("table")) {
      if (table.caption === null) say("no caption", table);
      for (const th of table.querySelectorAll("th")) if (th.scope === "") say("no scope", th);
      for (const row of table.tBodies[0]?.rows ?? [])
        if (row.cells[0]?.scope !== "row") say("no row header", row);
    }
    return faults;
  },
  /** Whether the element with the focus shows it. */
  showsFocus() {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 2;
  },
};
