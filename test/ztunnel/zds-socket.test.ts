// SPDX-License-Identifier: Apache-2.0
// The file of ztunnel's socket, which other agents of the node may take away.
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { connectSeqpacket } from "../../src/linux/seqpacket.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { ZdsServer } from "../../src/ztunnel/zds-server.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { letItBeMissed } from "../support/lost-name.ts";
import { waitFor } from "../support/node/wait-for.ts";

const folder = mkdtempSync(join(tmpdir(), "zds-socket-"));
const path = join(folder, "ztunnel.sock");
const clock = new FakeClock();
const server = new ZdsServer({ path, log: silentLogger, clock });

afterEach(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

test("is back when another agent's end has removed its name, until the server is closed", async () => {
  server.listen();
  rmSync(path);
  await letItBeMissed(clock);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  connectSeqpacket(path).close();
  await waitFor("the next look to be planned", () => clock.pendingCount === 1);
  await server.close();
  rmSync(path, { force: true });
  clock.advance(10_000);
  expect(existsSync(path)).toBe(false);
});
