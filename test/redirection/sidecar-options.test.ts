// SPDX-License-Identifier: Apache-2.0
// What annotations ask of a sidecar's redirection, wrong ones included.
import { describe, expect, test } from "vitest";
import { cutText } from "../../src/bounds/bounded.ts";
import {
  canonicalCidr,
  defaultSidecarOptions,
  sidecarAnnotations as name,
  SidecarOptionsError,
  sidecarOptionsOf,
} from "../../src/redirection/sidecar-options.ts";

const proxy = { dnsCapture: false, dualStack: false, dropInvalid: false };

test("a pod that says nothing has everything redirected but the proxy's own ports", () => {
  expect(sidecarOptionsOf({}, proxy)).toEqual({
    mode: "REDIRECT",
    proxyUid: 1337,
    proxyGid: 1337,
    includeInboundPorts: "*",
    excludeInboundPorts: [15020, 15021, 15090],
    includeOutboundPorts: [],
    excludeOutboundPorts: [15020],
    includeOutboundCidrs: "*",
    excludeOutboundCidrs: [],
    excludeInterfaces: [],
    virtualInterfaces: [],
    dnsCapture: false,
    dualStack: false,
    dropInvalid: false,
  });
  expect(defaultSidecarOptions({ dnsCapture: true }).dnsCapture).toBe(true);
});

test.each([
  [{ [name.interceptionMode]: "TPROXY" }, { mode: "TPROXY" }],
  [{ [name.includeInboundPorts]: "*" }, { includeInboundPorts: "*" }],
  [{ [name.includeInboundPorts]: "" }, { includeInboundPorts: [] }],
  [{ [name.includeInboundPorts]: " 443 ,80,443" }, { includeInboundPorts: [80, 443] }],
  [{ [name.excludeInboundPorts]: "" }, { excludeInboundPorts: [15020, 15021, 15090] }],
  [{ [name.excludeInboundPorts]: "22,15090" }, { excludeInboundPorts: [22, 15020, 15021, 15090] }],
  [{ [name.excludeOutboundPorts]: "25" }, { excludeOutboundPorts: [25] }],
  [{ [name.includeOutboundPorts]: "0,65535" }, { includeOutboundPorts: [0, 65535] }],
  [{ [name.includeOutboundCidrs]: "*" }, { includeOutboundCidrs: "*" }],
  [{ [name.includeOutboundCidrs]: "" }, { includeOutboundCidrs: [] }],
  [{ [name.excludeOutboundCidrs]: "10.1.2.3/8,10.0.0.0/8" }, { excludeOutboundCidrs: ["10.0.0.0/8"] }],
  [{ [name.excludeInterfaces]: "eth1, net+" }, { excludeInterfaces: ["eth1", "net+"] }],
  [{ [name.kubevirtInterfaces]: "k6t-eth0" }, { virtualInterfaces: ["k6t-eth0"] }],
  [{ [name.kubevirtInterfaces]: "old", [name.virtualInterfaces]: "" }, { virtualInterfaces: [] }],
])("%j gives %j", (annotations, expected) => {
  expect(sidecarOptionsOf(annotations as Record<string, string>, proxy)).toMatchObject(expected);
});

test.each([
  [{}, 1337, 1337],
  [{ uid: 0, gid: 0 }, 1337, 1337],
  [{ uid: 5, gid: 6 }, 5, 6],
])("a proxy of %j has user %d and group %d", (ids, uid, gid) => {
  expect(sidecarOptionsOf({}, { ...proxy, ...ids })).toMatchObject({ proxyUid: uid, proxyGid: gid });
});

describe("an annotation that cannot be followed", () => {
  test.each([
    [name.interceptionMode, "tproxy", 'no such mode; use "REDIRECT" or "TPROXY"'],
    [name.includeInboundPorts, "80,", '"" is no port; use numbers from 0 to 65535'],
    [name.excludeInboundPorts, "*", '"\\*" is no port'],
    [name.excludeOutboundPorts, "65536", '"65536" is no port'],
    [name.includeOutboundPorts, "0x50", '"0x50" is no port'],
    [name.includeOutboundPorts, "-1", '"-1" is no port'],
    [name.includeOutboundPorts, "80-90", '"80-90" is no port'],
    [name.excludeOutboundCidrs, "*", '"\\*" is no address range'],
    [name.includeOutboundCidrs, "10.0.0.1", '"10.0.0.1" is no address range; use ranges such as'],
    [name.includeOutboundCidrs, "10.0.0.0/33", "is no address range"],
    [name.includeOutboundCidrs, "fe80::1%eth0/64", "is no address range"],
    [name.includeOutboundCidrs, "10.0.0.0/8 -j ACCEPT", "is no address range"],
    [name.excludeInterfaces, "a-name-of-16-char", "is not a name an interface can have"],
    [name.excludeInterfaces, "eth0,,eth1", '"" is not a name'],
    [name.virtualInterfaces, "-j", "is not a name an interface can have"],
    [name.kubevirtInterfaces, 'a"b', "is not a name an interface can have"],
  ])("%s=%j is an error with value and remedy", (annotation, value, why) => {
    const read = () => sidecarOptionsOf({ [annotation]: value }, proxy);
    expect(read).toThrow(SidecarOptionsError);
    expect(read).toThrow(`Cannot use annotation ${annotation}="`);
    expect(read).toThrow(new RegExp(why));
    expect(read).toThrow(/; use /);
  });

  test("says no more of a value than a line holds", () => {
    const hostile = `${"\n\u001b[31m".repeat(100)}`;
    const read = () => sidecarOptionsOf({ [name.includeInboundPorts]: hostile }, proxy);
    expect(read).toThrow(/^[\x20-\x7e…]{1,400}$/);
  });

  test("is one whose end was cut off, whatever is left of it", () => {
    const list = cutText(Array(500).fill("10.0.0.0/8").join(","), { bytes: 2048 });
    expect(() => sidecarOptionsOf({ [name.excludeOutboundCidrs]: list }, proxy)).toThrow(
      "it is longer than the 2048 bytes that are read; use fewer words",
    );
  });
});

test.each([
  ["10.1.2.3/8", "10.0.0.0/8"],
  ["192.0.2.255/31", "192.0.2.254/31"],
  ["1.2.3.4/32", "1.2.3.4/32"],
  ["1.2.3.4/0", "0.0.0.0/0"],
  ["2001:DB8::1/32", "2001:db8::/32"],
  ["::/0", "::/0"],
  ["::1/128", "::1/128"],
  ["fd00:0:0:1:2:3:4:5/65", "fd00:0:0:1::/65"],
  ["::ffff:10.1.2.3/104", "::ffff:10.0.0.0/104"],
  ["1:2:3:4:5:6:7::/128", "1:2:3:4:5:6:7:0/128"],
  ["010.0.0.0/8", undefined],
  ["10.0.0/8", undefined],
  ["::/129", undefined],
  ["", undefined],
  ["/8", undefined],
])("%j as the kernel keeps it is %j", (text, expected) => {
  expect(canonicalCidr(text)).toBe(expected);
});
