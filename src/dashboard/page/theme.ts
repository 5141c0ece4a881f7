// SPDX-License-Identifier: Apache-2.0
// Light, dark, or as the system has it: the choice is kept in this browser.
import { byId, setText } from "./element.ts";

const themes = ["auto", "light", "dark"] as const;
type Theme = (typeof themes)[number];
const words: Readonly<Record<Theme, string>> = { auto: "as the system has it", light: "light", dark: "dark" };

/** Puts the kept choice into effect and the button to work. */
export function startTheme(): void {
  const button = byId("theme");
  let theme = keptTheme();
  const show = (): void => {
    document.documentElement.dataset.theme = theme;
    setText(button, `Theme: ${theme}`);
    button.setAttribute("aria-label", `Theme: ${words[theme]}. Change it`);
  };
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length] ?? "auto";
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // a browser that keeps nothing: the choice holds until the page is left
    }
    show();
  });
  show();
}

function keptTheme(): Theme {
  try {
    const kept = localStorage.getItem("theme");
    return themes.find((theme) => theme === kept) ?? "auto";
  } catch {
    return "auto";
  }
}
