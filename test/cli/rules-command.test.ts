// SPDX-License-Identifier: Apache-2.0
// `ambient-cni rules`: a sidecar's rules by the words of its pod, and options that would say nothing.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { renderRulesCommand, rulesCommand } from "../../src/cli/rules-command.ts";
import { UsageError } from "../../src/cli/usage-error.ts";

function golden(name: string): string {
  return readFileSync(new URL(`../redirection/golden-sidecar/${name}`, import.meta.url), "utf8");
}

test.each([
  ["basic.v4.rules", []],
  ["basic.v6.rules", ["--family", "6"]],
  ["dns.v4.rules", ["--dns", "on"]],
  ["drop-invalid.v6.rules", ["--family", "6", "--drop-invalid"]],
  ["basic.dual.nft", ["--native"]],
  ["dns.v4.nft", ["--native", "--family", "4", "--dns", "on"]],
])("a sidecar's rules are %s with %j", (name, args) => {
  expect(renderRulesCommand(["--sidecar", ...args])).toBe(golden(name));
});

test("annotations, user and group are followed", () => {
  const text = renderRulesCommand([
    ...["--sidecar", "--proxy-uid", "4242", "--proxy-gid", "4243"],
    ...["--annotation", "sidecar.istio.io/interceptionMode=TPROXY"],
    ...["--annotation", "traffic.sidecar.istio.io/excludeOutboundPorts=3306"],
  ]);
  for (const part of ["--uid-owner 4242", "--gid-owner 4243", "-j TPROXY", "--dport 3306 -j RETURN"])
    expect(text).toContain(part);
});

test.each<[string[], RegExp]>([
  [["--sidecar", "--annotation", "app=web"], /must be NAME=VALUE with one of sidecar\.istio\.io/],
  [["--sidecar", "--annotation", "sidecar.istio.io/interceptionMode"], /must be NAME=VALUE/],
  [
    ["--sidecar", "--annotation", "sidecar.istio.io/interceptionMode=BOTH"],
    /interceptionMode="BOTH".*use "REDIRECT"/,
  ],
  [["--sidecar", "--proxy-uid", "root"], /cannot use --proxy-uid "root"/],
  [["--sidecar", "--proxy-gid", "0"], /cannot use --proxy-gid "0"/],
  [["--sidecar", "--native", "--family", "6"], /cannot use --family 6 with --native/],
  [["--sidecar", "--ingress"], /cannot use --ingress with --sidecar/],
  [["--sidecar", "--probe-snat", "10.0.0.1"], /cannot use --probe-snat with --sidecar/],
  [["--sidecar", "--dns", "maybe"], /cannot use --dns "maybe"/],
  [["--drop-invalid"], /cannot use --drop-invalid without --sidecar/],
  [["--annotation", "a=b"], /cannot use --annotation without --sidecar/],
])("%j is wrong usage", (args, why) => {
  expect(() => renderRulesCommand(args)).toThrow(UsageError);
  expect(() => renderRulesCommand(args)).toThrow(why);
});

test("the help names every option", () => {
  for (const option of ["--sidecar", "--annotation", "--proxy-uid", "--proxy-gid", "--drop-invalid"])
    expect(rulesCommand.help).toContain(option);
});
