// SPDX-License-Identifier: Apache-2.0
// What the launcher makes of the agent's answers, good ones and all others.
import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { beforeAll, describe, expect, it } from "vitest";
import { buildPlugin, builds, cniEnv, errorOf, type Run, runLauncher, scratchDir } from "./launcher.ts";
import { answer, chunkedAnswer, type Reply, StandInAgent, sends, sendsAndEnds } from "./stand-in-agent.ts";

beforeAll(() => buildPlugin("all", "asan"));

const ok = "HTTP/1.1 200 OK\r\nCNI-Exit: 0\r\n";

/** Writes one byte at a time, each on its own turn of the event loop. */
async function trickle(socket: Socket, bytes: Buffer): Promise<void> {
  for (const byte of bytes) {
    if (socket.destroyed) return;
    await new Promise((resolve) => socket.write(Buffer.of(byte), () => setImmediate(resolve)));
  }
}

describe.each(builds)("launcher ($build)", ({ binary }) => {
  async function call(reply: Reply, command = "ADD", config: object = {}): Promise<Run> {
    using scratch = scratchDir();
    await using _agent = await StandInAgent.listen(scratch.path, reply);
    const input = { cniVersion: "1.0.0", cni_agent_run_dir: scratch.path, agent_wait_seconds: 0, ...config };
    return await runLauncher(binary, { env: cniEnv(command), input: JSON.stringify(input) });
  }

  it.each([
    ["a body of known length", `${ok}Content-Length: 7\r\n\r\n{"a":1}`, 0, '{"a":1}'],
    ["CNI-Exit 1", 'HTTP/1.1 200 OK\r\nCNI-Exit: 1\r\nContent-Length: 10\r\n\r\n{"code":7}', 1, '{"code":7}'],
    ["no body", `${ok}Content-Length: 0\r\n\r\n`, 0, ""],
    ["a body that is no JSON", `${ok}Content-Length: 5\r\n\r\n\0\r\n\x01x`, 0, "\0\r\n\x01x"],
    ["small letters and spaces", "HTTP/1.1 200 \r\ncni-exit:0\r\ncontent-LENGTH: \t 2 \r\n\r\n{}", 0, "{}"],
    ["no reason", "HTTP/1.1 200\r\nCNI-Exit: 0\r\nContent-Length: 2\r\n\r\n{}", 0, "{}"],
    ["HTTP/1.0", "HTTP/1.0 200 OK\r\nCNI-Exit: 0\r\nContent-Length: 2\r\n\r\n{}", 0, "{}"],
    ["bare line feeds", "HTTP/1.1 200 OK\nCNI-Exit: 0\nContent-Length: 2\n\n{}", 0, "{}"],
    ["the same length twice", `${ok}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}`, 0, "{}"],
    [
      "interim answers",
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nCNI-Exit: 1\r\n\r\n${ok}Content-Length: 2\r\n\r\n{}`,
      0,
      "{}",
    ],
    ["more than it said", `${ok}Content-Length: 2\r\n\r\n{}HTTP/1.1 500 No\r\n\r\n`, 0, "{}"],
    [
      "chunks",
      `${ok}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n6;x="y"\r\n"a":1}\r\n0\r\n\r\n`,
      0,
      '{"a":1}',
    ],
    [
      "chunks with trailers",
      `${ok}Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n000\r\nX: y\r\n\r\n`,
      0,
      "0123456789",
    ],
    ["no chunk at all", `${ok}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 0, ""],
    ["a header of 4000 bytes", `${ok}X: ${"y".repeat(4000)}\r\nContent-Length: 2\r\n\r\n{}`, 0, "{}"],
  ])("an answer with %s is printed byte for byte", async (_what, bytes, code, stdout) => {
    for (const reply of [sends(bytes), sendsAndEnds(bytes)]) {
      const run = await call(reply);
      expect([run.code, run.stdout.toString("latin1"), run.stderr]).toEqual([code, stdout, ""]);
    }
  });

  it.each([
    ["no CNI-Exit", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "lacks the CNI-Exit header"],
    [
      "a strange CNI-Exit",
      "HTTP/1.1 200 OK\r\nCNI-Exit: 2\r\nContent-Length: 2\r\n\r\n{}",
      "neither 0 nor 1",
    ],
    ["two CNI-Exit", `${ok}CNI-Exit: 1\r\nContent-Length: 2\r\n\r\n{}`, "neither 0 nor 1"],
    ["no length", `${ok}\r\n{}`, "no Content-Length"],
    ["a strange length", `${ok}Content-Length: 2x\r\n\r\n{}`, "Content-Length cannot be understood"],
    ["a negative length", `${ok}Content-Length: -2\r\n\r\n{}`, "Content-Length cannot be understood"],
    [
      "two lengths",
      `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`,
      "Content-Length cannot be understood",
    ],
    ["17 MiB", `${ok}Content-Length: 17825792\r\n\r\n{}`, "larger than 16 MiB"],
    [
      "a length beyond 64 bits",
      `${ok}Content-Length: 99999999999999999999999\r\n\r\n{}`,
      "larger than 16 MiB",
    ],
    [
      "length and chunks",
      `${ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
      "both",
    ],
    ["a coding we do not know", `${ok}Transfer-Encoding: gzip\r\n\r\n{}`, "other than chunked"],
    ["a strange chunk size", `${ok}Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}`, "size of a chunk"],
    [
      "a chunk beyond 64 bits",
      `${ok}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}`,
      "size of a chunk",
    ],
    [
      "a chunk longer than it said",
      `${ok}Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n`,
      "longer than it said",
    ],
    ["a header without a colon", `${ok}nonsense\r\n\r\n`, "malformed"],
    ["a folded header", `${ok}X: a\r\n b: c\r\n\r\n`, "malformed"],
    ["a header line of 5000 bytes", `${ok}X: ${"y".repeat(5000)}\r\n\r\n`, "head is too long"],
    [
      "100 KB of headers",
      `${ok}${"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(2500)}\r\n`,
      "head is too long",
    ],
    ["another protocol", "SSH-2.0-OpenSSH_9.2p1\r\n", "no HTTP/1.1"],
    ["another protocol without an end of line", "\x16\x03\x01\x02", "no HTTP/1.1"],
    ["HTTP/2", "HTTP/2 200\r\n\r\n", "no HTTP/1.1"],
    ["no status", "HTTP/1.1 \r\n\r\n", "no HTTP/1.1"],
    ["a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "no HTTP/1.1"],
    [
      "404",
      "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno /cni\n\xff",
      'HTTP status 404; it began with "HTTP/1.1 404',
    ],
    [
      "500 to the end",
      "HTTP/1.1 500 Oops\r\nCNI-Exit: 0\r\n\r\nsomething broke",
      'and said "something broke"',
    ],
    ["204", "HTTP/1.1 204 No Content\r\nCNI-Exit: 0\r\nContent-Length: 0\r\n\r\n", "HTTP status 204"],
  ])("an answer with %s fails with code 5 and what was seen", async (_what, bytes, why) => {
    const run = await call(sendsAndEnds(Buffer.from(bytes, "latin1")));
    const error = errorOf(run);
    expect(error).toMatchObject({ cniVersion: "1.0.0", code: 5 });
    expect(error.msg).toContain(why);
    expect(error.msg).toContain("it began with");
    expect(error.msg).toContain("kubectl");
  });

  it.each([
    ["DEL", 0],
    ["GC", 0],
    ["STATUS", 50],
    ["CHECK", 0],
  ])("garbage as an answer makes %s end with code %i", async (command, code) => {
    const run = await call(sendsAndEnds("garbage"), command);
    if (code > 0) expect(errorOf(run).code).toBe(code);
    else expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
  });

  it.each(["DEL", "GC"])("CNI-Exit 1 does not fail %s, but is noted on stderr", async (command) => {
    const run = await call(sends(answer('{"code":999,"msg":"no"}', 1)), command);
    expect([run.code, run.stdout.toString()]).toEqual([0, ""]);
    expect(run.stderr).toContain('{\\"code\\":999,\\"msg\\":\\"no\\"}');
  });

  it("an answer that comes byte by byte is read to its end", async () => {
    const body = Buffer.from('{"cniVersion":"1.0.0","ips":[]}');
    for (const bytes of [answer(body), chunkedAnswer(body, 5)]) {
      const run = await call((socket) => void trickle(socket, bytes));
      expect([run.code, run.stdout.toString()]).toEqual([0, body.toString()]);
    }
  });

  it("answers of 8 MiB arrive byte for byte, with a length and in chunks", async () => {
    const body = randomBytes(8 << 20);
    for (const bytes of [answer(body), chunkedAnswer(body, 70_001), chunkedAnswer(body, 4096)]) {
      const run = await call(sends(bytes));
      expect(run.code).toBe(0);
      expect(run.stdout.equals(body)).toBe(true);
    }
  });

  it("16 MiB are taken and one byte more is not", async () => {
    const body = Buffer.alloc(16 << 20, "x");
    expect((await call(sends(answer(body)))).stdout.length).toBe(16 << 20);
    expect((await call(sends(chunkedAnswer(body, 1 << 20)))).stdout.length).toBe(16 << 20);
    const more = Buffer.concat([body, Buffer.from("x")]);
    expect(errorOf(await call(sends(answer(more)))).msg).toContain("larger than 16 MiB");
    expect(errorOf(await call(sends(chunkedAnswer(more, 1 << 20)))).msg).toContain("larger than 16 MiB");
  });

  it.each([
    ["nothing", ""],
    ["half a status line", "HTTP/1.1 20"],
    ["half a head", `${ok}Content-Le`],
    ["half a body", `${ok}Content-Length: 100\r\n\r\n{"cniVersion":"1.0.0"}`],
    ["half a chunk", `${ok}Transfer-Encoding: chunked\r\n\r\n64\r\n{"cniVersion":"1.0.0"}`],
    ["no last chunk", `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n`],
    ["no end behind the last chunk", `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n`],
    ["only an interim answer", "HTTP/1.1 100 Continue\r\n\r\n"],
  ])(
    "an agent that dies having sent %s fails ADD with code 11 and nothing of it is printed",
    async (_what, bytes) => {
      const error = errorOf(await call(sendsAndEnds(bytes)));
      expect(error.code).toBe(11);
      expect(error.msg).toContain("closed the connection before its answer was complete");
      expect((await call(sendsAndEnds(bytes), "DEL")).code).toBe(0);
      expect(errorOf(await call(sendsAndEnds(bytes), "STATUS")).code).toBe(50);
    },
  );

  it.each(["stays", "goes"])(
    "an answer is read even if the agent never reads the request and then %s",
    async (then) => {
      using scratch = scratchDir();
      const speak = (socket: Socket): void => {
        socket.pause();
        if (then === "stays") socket.write(answer("early"));
        else socket.end(answer("early"), () => socket.destroy());
      };
      await using _agent = await StandInAgent.listen(scratch.path, () => undefined, speak);
      const input = `{"cni_agent_run_dir":"${scratch.path}","agent_wait_seconds":0,"x":"${"y".repeat(1_000_000)}"}`;
      const run = await runLauncher(binary, { env: cniEnv("ADD"), input });
      expect([run.code, run.signal, run.stdout.toString()]).toEqual([0, null, "early"]);
    },
  );

  it("a stdout nobody reads any more ends it with code 1 and no signal", async () => {
    using scratch = scratchDir();
    await using _agent = await StandInAgent.listen(scratch.path, sends(answer(Buffer.alloc(1 << 20))));
    const run = await runLauncher(`{ ${binary}; echo "code $?" >&2; } | true`, {
      wrapper: ["/bin/sh", "-c"],
      env: cniEnv("ADD"),
      input: JSON.stringify({ cni_agent_run_dir: scratch.path }),
    });
    expect(run.stderr).toBe("code 1\n");
  });
});
