// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { CniError, cniErrorCodes } from "../../src/cni/cni-error.ts";
import { parseCniRequest } from "../../src/cni/cni-request.ts";
import { parseIstioAddEvent } from "../../src/cni/istio-add-event.ts";
import { supportedCniVersions } from "../../src/conflist/cni-versions.ts";

const uid = "11111111-2222-3333-4444-555555555555";
const env = {
  CNI_COMMAND: "ADD",
  CNI_CONTAINERID: "c1",
  CNI_NETNS: "/var/run/netns/cni-1",
  CNI_IFNAME: "eth0",
  CNI_PATH: "/opt/cni/bin",
  CNI_ARGS: `K8S_POD_UID=${uid};IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1`,
};
const prevResult =
  '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/16"},{"address":"fd00::2/64"}], "dns":{}}';
const stdin = `{"cniVersion":"1.0.0","name":"n","type":"ambient-cni","prevResult":${prevResult}}`;

function faultOf(run: () => unknown): CniError {
  try {
    run();
  } catch (error) {
    if (error instanceof CniError) return error;
    throw error;
  }
  throw new Error("no CniError was thrown");
}

describe("parseCniRequest", () => {
  test("takes pod, sandbox and result from what containerd sends", () => {
    const request = parseCniRequest({ env, stdin });
    expect(request).toMatchObject({
      verb: "ADD",
      network: "n",
      containerId: "c1",
      netns: "/var/run/netns/cni-1",
      pod: { namespace: "shop", name: "web-0", uid },
      cniVersion: "1.0.0",
      ips: ["10.1.0.2", "fd00::2"],
    });
    expect(request.result).toBe(prevResult);
  });

  test("finds the pod in any order of CNI_ARGS", () => {
    const shuffled = env.CNI_ARGS.split(";").reverse().join(";");
    expect(parseCniRequest({ env: { ...env, CNI_ARGS: shuffled }, stdin }).pod).toEqual({
      namespace: "shop",
      name: "web-0",
      uid,
    });
  });

  test("knows no pod without the runtime's arguments", () => {
    expect(parseCniRequest({ env: { ...env, CNI_ARGS: "" }, stdin }).pod).toBeUndefined();
  });

  test.each(supportedCniVersions)(
    "speaks version %s and answers a minimal result of it without prevResult",
    (cniVersion) => {
      const request = parseCniRequest({ env, stdin: JSON.stringify({ cniVersion, name: "n", type: "t" }) });
      const lists = cniVersion < "0.3.0" ? "" : '"interfaces":[],"ips":[],"routes":[],';
      expect(request.result).toBe(`{"cniVersion":"${cniVersion}",${lists}"dns":{}}`);
    },
  );

  test("accepts a DEL with an empty CNI_NETNS and no prevResult", () => {
    const request = parseCniRequest({
      env: { ...env, CNI_COMMAND: "DEL", CNI_NETNS: "" },
      stdin: '{"cniVersion":"1.0.0","name":"n","type":"t"}',
    });
    expect(request).toMatchObject({ verb: "DEL", netns: "", ips: [] });
  });

  const faults: readonly [string, object, string, keyof typeof cniErrorCodes, RegExp][] = [
    ["no CNI_COMMAND", { CNI_COMMAND: "" }, stdin, "invalidEnvironment", /CNI_COMMAND/],
    [
      "an unknown verb",
      { CNI_COMMAND: "FROB" },
      stdin,
      "invalidEnvironment",
      /unknown CNI_COMMAND "FROB".*ADD, DEL/,
    ],
    [
      "several missing variables, all of them named",
      { CNI_CONTAINERID: "", CNI_NETNS: undefined, CNI_PATH: "" },
      stdin,
      "invalidEnvironment",
      /CNI_CONTAINERID, CNI_NETNS, CNI_PATH/,
    ],
    ["stdin that is no JSON", {}, "{", "decoding", /stdin/],
    ["stdin that is no object", {}, "[]", "decoding", /not a JSON object/],
    ["a version from the future", {}, '{"cniVersion":"2.0.0"}', "incompatibleVersion", /2\.0\.0.*1\.1\.0/],
    ["a version that there never was", {}, '{"cniVersion":"0.5.0"}', "incompatibleVersion", /0\.5\.0/],
    ["a version that is no string", {}, '{"cniVersion":1}', "decoding", /not a string/],
  ];
  test.each(faults)("refuses %s", (_name, change, text, code, message) => {
    const error = faultOf(() => parseCniRequest({ env: { ...env, ...change }, stdin: text }));
    expect(error.code).toBe(cniErrorCodes[code]);
    expect(error.message).toMatch(message);
  });

  test("reads the attachments a GC keeps under both of their keys", () => {
    const attachments = [{ containerID: "c1", ifname: "eth0" }];
    for (const key of ["cni.dev/valid-attachments", "cni.dev/attachments"]) {
      const request = parseCniRequest({
        env: { CNI_COMMAND: "GC", CNI_PATH: "/opt/cni/bin" },
        stdin: JSON.stringify({ cniVersion: "1.1.0", name: "n", [key]: attachments }),
      });
      expect(request.validAttachments).toEqual([{ containerId: "c1", ifname: "eth0" }]);
    }
  });

  const ofGc = (list: object): unknown =>
    parseCniRequest({
      env: { CNI_COMMAND: "GC", CNI_PATH: "/opt/cni/bin" },
      stdin: JSON.stringify({ cniVersion: "1.1.0", name: "n", ...list }),
    }).validAttachments;
  const entry = { containerID: "c1", ifname: "eth0" };
  const lists: readonly [string, object, unknown][] = [
    ["an absent list", {}, undefined],
    ["a list that is null", { "cni.dev/valid-attachments": null, "cni.dev/attachments": null }, undefined],
    ["a list that is none", { "cni.dev/valid-attachments": "all" }, undefined],
    ["an empty list", { "cni.dev/valid-attachments": [] }, []],
    ["an entry that is null", { "cni.dev/valid-attachments": [entry, null] }, undefined],
    [
      "an entry without an interface",
      { "cni.dev/valid-attachments": [entry, { containerID: "c2" }] },
      undefined,
    ],
    ["an entry without a container", { "cni.dev/valid-attachments": [{ ifname: "eth0" }, entry] }, undefined],
    ["an entry of numbers", { "cni.dev/valid-attachments": [{ containerID: 1, ifname: 2 }] }, undefined],
    [
      "names that nobody knows",
      { "cni.dev/valid-attachments": [{ containerID: "", ifname: "", more: 1 }] },
      [{ containerId: "", ifname: "" }],
    ],
  ];
  test.each(lists)(
    "a GC with %s is no error, and says nothing where it cannot be read",
    (_name, list, kept) => {
      expect(ofGc(list)).toEqual(kept);
    },
  );

  test.each([
    ["of a name", { name: "net-1" }, "net-1"],
    ["without a name", {}, ""],
    ["with a name that is none", { name: ["net-1"] }, ""],
    ["with a long name", { name: "n".repeat(5000) }, "n".repeat(5000)],
  ])("a DEL for a network %s is no error, with and without netns", (_name, config, network) => {
    for (const CNI_NETNS of ["", "/var/run/netns/gone", "\0"]) {
      const request = parseCniRequest({
        env: { ...env, CNI_COMMAND: "DEL", CNI_NETNS, CNI_CONTAINERID: "nobody's/../id", CNI_ARGS: "" },
        stdin: JSON.stringify({ cniVersion: "1.0.0", ...config }),
      });
      expect(request).toMatchObject({
        network,
        containerId: "nobody's/../id",
        ifname: "eth0",
        netns: CNI_NETNS,
      });
    }
  });
});

describe("parseIstioAddEvent", () => {
  test("stands for an ADD of the pod it names", () => {
    const body = {
      Netns: "/var/run/netns/x",
      PodName: "web-0",
      PodNamespace: "shop",
      IPs: [{ Interface: null, Address: { IP: "10.1.0.2", Mask: "//8AAA==" }, Gateway: "" }],
    };
    expect(parseIstioAddEvent(JSON.stringify(body))).toMatchObject({
      verb: "ADD",
      netns: "/var/run/netns/x",
      pod: { namespace: "shop", name: "web-0", uid: "" },
      ips: ["10.1.0.2"],
    });
  });

  test.each(["", "null", "[]", "{}", '{"Netns":1}'])("refuses the body %j", (body) => {
    expect(() => parseIstioAddEvent(body)).toThrow(CniError);
  });
});

test("a chain without a version has results of the first one, one address of each family", () => {
  const prevResult = { ip4: { ip: "10.0.0.5/24" }, ip6: { ip: "fd00::5/64" } };
  const { cniVersion, ips } = parseCniRequest({ env, stdin: JSON.stringify({ name: "n", prevResult }) });
  expect({ cniVersion, ips }).toEqual({ cniVersion: "0.1.0", ips: ["10.0.0.5", "fd00::5"] });
});

test("a result of 0.2.0 is passed on byte for byte, and its addresses are known", () => {
  const prevResult = '{ "cniVersion":"0.2.0", "ip4":{"ip":"10.0.0.5/24","gateway":"10.0.0.1"},"dns":{} }';
  const request = parseCniRequest({
    env,
    stdin: `{"cniVersion":"0.2.0","name":"n","prevResult":${prevResult}}`,
  });
  expect(request).toMatchObject({ cniVersion: "0.2.0", result: prevResult, ips: ["10.0.0.5"] });
});

describe("words longer than can be", () => {
  const shouted = "x".repeat(5000);
  const args = (field: string) => env.CNI_ARGS.replace(new RegExp(`${field}=[^;]*`), `${field}=${shouted}`);
  const rows: [string, Partial<typeof env>][] = [
    ["CNI_CONTAINERID", { CNI_CONTAINERID: shouted }],
    ["CNI_NETNS", { CNI_NETNS: `/${shouted}` }],
    ["CNI_IFNAME", { CNI_IFNAME: "sixteen-bytes-ab" }],
    ["K8S_POD_NAMESPACE", { CNI_ARGS: args("K8S_POD_NAMESPACE") }],
    ["K8S_POD_NAME", { CNI_ARGS: args("K8S_POD_NAME") }],
    ["K8S_POD_UID", { CNI_ARGS: args("K8S_POD_UID") }],
  ];

  test.each(rows)("%s: ADD is refused with the reason, in few words", (name, changed) => {
    const fault = faultOf(() => parseCniRequest({ env: { ...env, ...changed }, stdin }));
    expect(fault.code).toBe(cniErrorCodes.invalidEnvironment);
    expect(fault.message).toMatch(new RegExp(`^${name} is longer than \\d+ bytes: "`));
    expect(fault.message.length).toBeLessThan(150);
  });

  test.each(["DEL", "CHECK", "GC"].flatMap((verb) => rows.map((row) => [verb, ...row] as const)))(
    "%s goes on with a %s that is nobody's",
    (verb, _name, changed) => {
      const request = parseCniRequest({ env: { ...env, ...changed, CNI_COMMAND: verb }, stdin });
      const { containerId, netns, ifname, pod } = request;
      const words = [containerId, netns, ifname, pod?.namespace, pod?.name, pod?.uid];
      expect(words.filter((word) => word?.endsWith("…"))).toHaveLength(1);
      expect(JSON.stringify(words).length).toBeLessThan(4500);
    },
  );

  test("an unknown verb and version are named in few words", () => {
    const verb = faultOf(() => parseCniRequest({ env: { ...env, CNI_COMMAND: shouted }, stdin }));
    const version = faultOf(() => parseCniRequest({ env, stdin: `{"cniVersion":"${shouted}"}` }));
    expect(verb.message.length).toBeLessThan(200);
    expect(version.message.length).toBeLessThan(300);
  });

  test("of a prevResult without end so many addresses are taken", () => {
    const ips = [
      { address: shouted },
      ...Array.from({ length: 20_000 }, (_, index) => ({ address: `10.0.0.${index}/24` })),
    ];
    const request = parseCniRequest({
      env,
      stdin: JSON.stringify({ cniVersion: "1.0.0", prevResult: { ips } }),
    });
    expect(request.ips).toHaveLength(63);
    expect(JSON.parse(request.result)).toEqual({ ips });
  });

  test("GC with more attachments than can be, or longer words, clears nothing up", () => {
    const attachments = (count: number, containerID = "c") =>
      parseCniRequest({
        env: { ...env, CNI_COMMAND: "GC" },
        stdin: JSON.stringify({
          cniVersion: "1.1.0",
          "cni.dev/valid-attachments": Array.from({ length: count }, () => ({ containerID, ifname: "eth0" })),
        }),
      }).validAttachments;
    expect(attachments(16_384)).toHaveLength(16_384);
    expect(attachments(16_385)).toBeUndefined();
    expect(attachments(1, shouted)).toBeUndefined();
  });

  test("istio-cni's event is held to the same", () => {
    const event = { Netns: "/n", PodName: "p", PodNamespace: "s", IPs: [{ Address: { IP: shouted } }] };
    expect(parseIstioAddEvent(JSON.stringify(event)).ips).toEqual([]);
    for (const name of ["Netns", "PodName", "PodNamespace"])
      expect(
        faultOf(() => parseIstioAddEvent(JSON.stringify({ ...event, [name]: shouted }))).message,
      ).toMatch(/is longer than/);
  });
});
