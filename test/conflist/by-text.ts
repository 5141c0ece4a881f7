// SPDX-License-Identifier: Apache-2.0
// What the edits do to a text, for tests that have nothing but the text.
import { parseDocument } from "../../src/conflist/conf-document.ts";
import { parseFolder } from "../../src/conflist/conf-folder.ts";
import { confBytes } from "../../src/conflist/conf-text.ts";
import * as edit from "../../src/conflist/conflist-edit.ts";

export const chainEntries = (text: string): edit.ChainEntries => edit.chainEntries(parseDocument(text));
export const removePlugin = (text: string): string => edit.removePlugin(parseDocument(text));
export const wrapConf = (text: string): string => edit.wrapConf(parseDocument(text));
export const insertPlugin = (
  text: string,
  entry: edit.PluginEntry,
  options: edit.InsertOptions = {},
): string => edit.insertPlugin(parseDocument(text), entry, options);
export const confValue = (text: string): unknown => JSON.parse(confBytes(text).toString("utf8"));
export const folderOf = (files: Readonly<Record<string, string>>): ReturnType<typeof parseFolder> =>
  parseFolder(new Map(Object.entries(files)));
