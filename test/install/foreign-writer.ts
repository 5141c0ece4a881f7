// SPDX-License-Identifier: Apache-2.0
// Another program that owns a CNI configuration: node foreign-writer.ts FILE COUNT PAUSE_MS; every third write is in place.
import { renameSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

const [file = "", count = "1", pauseMs = "0"] = process.argv.slice(2);
for (let number = 1; number <= Number(count); number++) {
  const text = `${JSON.stringify({ name: "net", cniVersion: "1.0.0", plugins: [{ type: "x", number }] }, null, 2)}\n`;
  if (number % 3 === 0) writeFileSync(file, text);
  else {
    writeFileSync(`${file}.tmp`, text);
    renameSync(`${file}.tmp`, file);
  }
  await delay(Number(pauseMs));
}
