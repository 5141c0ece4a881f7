// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { type Gathered, RequestBytes } from "../../src/ports/request-bytes.ts";

const limits = { maxHeadBytes: 200, maxBodyBytes: 10 };
const get = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const post = (headers: string, body = "") => `POST / HTTP/1.1\r\n${headers}\r\n\r\n${body}`;

function gather(text: string, pieceBytes = text.length): Gathered {
  const request = new RequestBytes(limits);
  const bytes = Buffer.from(text, "latin1");
  let gathered: Gathered = { kind: "more" };
  for (let at = 0; at < bytes.length && gathered.kind === "more"; at += pieceBytes)
    gathered = request.take(bytes.subarray(at, at + pieceBytes));
  if (gathered.kind === "whole") expect(request.bytes.toString("latin1")).toBe(text);
  return gathered;
}

const status = (gathered: Gathered): unknown => ("status" in gathered ? gathered.status : gathered.kind);

describe("RequestBytes", () => {
  test.each([
    ["a head alone", get, "whole"],
    ["a head that is not there yet", get.slice(0, -1), "more"],
    ["a body of its length", post("Content-Length: 2", "{}"), "whole"],
    ["a body that lacks a byte", post("content-LENGTH : 3", "{}"), "more"],
    ["an empty body", post("Content-Length: 0"), "whole"],
    ["the longest body", post("Content-Length: 10", "y".repeat(10)), "whole"],
    ["a body over the bound, before it comes", post("Content-Length: 11"), 413],
    ["a body without end", post("Content-Length: 999999999999999"), 413],
    ["a length that is none", post("Content-Length: -1"), 400],
    ["a length in hexadecimal", post("Content-Length: 0x2", "{}"), 400],
    ["two lengths", post("Content-Length: 1\r\nContent-Length: 2", "{}"), 400],
    ["chunks", post("Transfer-Encoding: chunked", "0\r\n\r\n"), 411],
    ["a second request behind the first", get + get, 400],
    ["a byte behind a body", post("Content-Length: 2", "{}}"), 400],
    ["no HTTP", "\x16\x03\x01\x02\x00", 400],
    ["an empty line", "\r\n", 400],
    ["the longest head", `GET / HTTP/1.1\r\nX: ${"y".repeat(177)}\r\n\r\n`, "whole"],
    ["a head over the bound", `GET / HTTP/1.1\r\nX: ${"y".repeat(178)}\r\n\r\n`, 431],
    ["a head without end", `GET / HTTP/1.1\r\nX: ${"y".repeat(5000)}`, 431],
    ["a length in the path", "GET /\ncontent-length:4 HTTP/1.1\r\n\r\n", 400],
  ])("%s", (name, text, expected) => {
    expect(status(gather(text))).toBe(expected);
    // however it is cut, where nothing comes behind the whole
    if (name.includes("behind")) return;
    for (const pieceBytes of [1, 7]) expect(status(gather(text, pieceBytes))).toBe(expected);
  });

  test("keeps no more than its bounds and one read", () => {
    const request = new RequestBytes(limits);
    expect(request.take(Buffer.from(post("Content-Length: 10", "1234"))).kind).toBe("more");
    expect(request.take(Buffer.alloc(64 * 1024)).kind).toBe("refused");
    expect(request.bytes.length).toBeLessThan(65 * 1024 + limits.maxHeadBytes);
  });
});
