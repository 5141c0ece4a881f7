// SPDX-License-Identifier: Apache-2.0
// What a checked JSON string or number means.
#include "json.h"

#include <string.h>

/* Decoded bytes: those within `cap` are kept, all are counted. */
struct sink {
	unsigned char *out;
	size_t cap, len;
};

static void put(struct sink *sink, unsigned char byte)
{
	if (sink->len < sink->cap)
		sink->out[sink->len] = byte;
	sink->len++;
}

static void put_code_point(struct sink *sink, uint32_t code)
{
	if (code < 0x80) {
		put(sink, (unsigned char)code);
		return;
	}
	if (code < 0x800) {
		put(sink, (unsigned char)(0xc0 | code >> 6));
	} else if (code < 0x10000) {
		put(sink, (unsigned char)(0xe0 | code >> 12));
		put(sink, (unsigned char)(0x80 | (code >> 6 & 0x3f)));
	} else {
		put(sink, (unsigned char)(0xf0 | code >> 18));
		put(sink, (unsigned char)(0x80 | (code >> 12 & 0x3f)));
		put(sink, (unsigned char)(0x80 | (code >> 6 & 0x3f)));
	}
	put(sink, (unsigned char)(0x80 | (code & 0x3f)));
}

/* The four hex digits behind \u. */
static uint32_t hex4(const unsigned char *at)
{
	uint32_t value = 0;

	for (int i = 0; i < 4; i++) {
		unsigned char byte = at[i];

		value = value << 4 | (uint32_t)(byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10);
	}
	return value;
}

/* Decodes the escape at `at` (on its backslash) and returns its length, that of both halves for a surrogate pair. */
static size_t put_escape(struct sink *sink, const unsigned char *at, const unsigned char *end)
{
	static const char names[] = "bfnrt", meanings[] = "\b\f\n\r\t";
	const char *name = strchr(names, at[1]);
	uint32_t code, low;

	if (at[1] != 'u') {
		put(sink, name != NULL ? (unsigned char)meanings[name - names] : at[1]);
		return 2;
	}
	code = hex4(at + 2);
	if (code >= 0xd800 && code < 0xdc00 && end - at >= 12 && at[6] == '\\' && at[7] == 'u') {
		low = hex4(at + 8);
		if (low >= 0xdc00 && low < 0xe000) {
			put_code_point(sink, 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00));
			return 12;
		}
	}
	put_code_point(sink, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);
	return 6;
}

size_t json_decode(struct bytes raw, unsigned char *out, size_t cap)
{
	struct sink sink = { out, cap, 0 };
	const unsigned char *at = raw.at + 1, *end = raw.at + raw.len - 1;

	while (at < end) {
		if (*at == '\\')
			at += put_escape(&sink, at, end);
		else
			put(&sink, *at++);
	}
	return sink.len;
}

bool json_string_is(struct bytes raw, const char *string)
{
	unsigned char decoded[64];
	size_t len = json_decode(raw, decoded, sizeof(decoded));

	return len <= sizeof(decoded) && bytes_equal((struct bytes){ decoded, len }, string);
}

/* The exponent at `at` (on its e); so large a one that no mantissa can make up for it is held at a billion. */
static int64_t exponent(const unsigned char *at, const unsigned char *end)
{
	bool negative = at + 1 < end && at[1] == '-';
	int64_t value = 0;

	for (; at < end; at++)
		if (*at >= '0' && *at <= '9' && value < 1000000000)
			value = value * 10 + (*at - '0');
	return negative ? -value : value;
}

uint32_t json_ms(struct bytes raw, uint32_t max_ms)
{
	const unsigned char *at = raw.at, *end = raw.at + raw.len;
	uint64_t mantissa = 0;
	int64_t scale = 3; /* seconds to milliseconds */
	bool fraction = false;

	if (*at == '-')
		return 0;
	for (; at < end && *at != 'e' && *at != 'E'; at++) {
		if (*at == '.') {
			fraction = true;
		} else if (mantissa < 100000000000000000) {
			mantissa = mantissa * 10 + (uint64_t)(*at - '0');
			scale -= fraction;
		} else {
			scale += !fraction;
		}
	}
	scale += exponent(at, end);
	for (; scale < 0 && mantissa > 0; scale++)
		mantissa /= 10;
	for (; scale > 0 && mantissa > 0 && mantissa <= max_ms; scale--)
		mantissa *= 10;
	return mantissa > max_ms ? max_ms : (uint32_t)mantissa;
}
