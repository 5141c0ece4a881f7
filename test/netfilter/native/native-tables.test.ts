// SPDX-License-Identifier: Apache-2.0
// Tables of an istio-cni that used nft itself, in the real kernel: found by name whatever else is there, and removed in one step.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  findNativeTables,
  NATIVE_TABLE_NAMES,
  removeNativeTables,
} from "../../../src/netfilter/native/native-tables.ts";
import { TestNetns } from "../../redirection/test-netns.ts";

const [nat = "", mangle = ""] = NATIVE_TABLE_NAMES;
let pod: TestNetns;

beforeEach(async () => {
  pod = await TestNetns.make();
});
afterEach(() => pod[Symbol.dispose]());

const find = () => findNativeTables(pod.netns.fd);
const remove = (...tables: string[]) => removeNativeTables(pod.netns.fd, tables);

function table(family: string, name: string): string {
  return `table ${family} ${name} {
    set addresses { type ipv4_addr; elements = { 10.0.0.1 comment "a" }; }
    chain extra { ip daddr @addresses accept; }
    chain output { type filter hook output priority 0; jump extra; }
  }\n`;
}

test("those of a namespace are found by family and name, and none where there is nothing", async () => {
  expect(await find()).toEqual([]);
  await pod.run("nft -f -", table("ip", nat) + table("inet", "other") + table("inet", mangle));
  expect(await find()).toEqual([mangle]);
});

test("tables of others cost nothing, however many they are", async () => {
  const others = Array.from({ length: 3000 }, (_, nr) => `add table inet t${nr}\n`).join("");
  await pod.run("nft -f -", `${others}add table inet ${nat}`);
  expect(await find()).toEqual([nat]);
});

test("they are removed with chains and sets, whether they are there or not, and no other is", async () => {
  await pod.run("nft -f -", table("ip", nat) + table("inet", "other") + table("inet", nat));
  await remove(mangle, nat);
  await remove();
  await remove(nat);
  expect(await pod.run("nft list tables")).toBe(`table ip ${nat}\ntable inet other\n`);
});

test("one that a process owns is not removed, nor is another in the same step, and the refusal is told", async () => {
  // the owner's socket keeps such a table from everybody else. Source: nft(8), flag owner
  const owner = spawn("nsenter", [`--net=/proc/${pod.pid}/ns/net`, "nft", "-i"], {
    stdio: ["pipe", "ignore", "ignore"],
  });
  const ended = once(owner, "exit");
  try {
    owner.stdin.write(`add table inet ${nat} { flags owner; }\n`);
    await pod.run(`nft add table inet ${mangle}`);
    await expect.poll(find).toEqual([nat, mangle]);
    await expect(remove(mangle, nat)).rejects.toMatchObject({ name: "NetlinkError", code: "EPERM" });
    expect(await find()).toEqual([nat, mangle]);
  } finally {
    owner.kill("SIGKILL");
    await ended;
  }
});
