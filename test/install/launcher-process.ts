// SPDX-License-Identifier: Apache-2.0
// Installs the launcher once and prints how that ended: for mount namespaces of a test's own.
import { readdirSync } from "node:fs";
import { installLauncher } from "../../src/install/launcher-copy.ts";

const [source = "", binDir = ""] = process.argv.slice(2);
const error = await installLauncher({ source, binDir }).catch((failure: Error) => failure.message);
process.stdout.write(JSON.stringify({ error, names: readdirSync(binDir) }));
