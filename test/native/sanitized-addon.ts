// SPDX-License-Identifier: Apache-2.0
// Preloaded with --import: whoever loads the addon gets the build with sanitizers (make -C native asan).
import { registerHooks } from "node:module";

const ADDON = /\/native\/build\/ambient\.node$/;

registerHooks({
  resolve(specifier, context, nextResolve) {
    return nextResolve(specifier.replace(ADDON, "/native/build/asan/ambient.node"), context);
  },
});
