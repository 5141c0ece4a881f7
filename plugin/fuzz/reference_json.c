// SPDX-License-Identifier: Apache-2.0
// Second implementation of JSON and UTF-8: recursive, by code points.
#include "reference.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static int byte_at(struct bytes text, long at)
{
	return at >= 0 && (size_t)at < text.len ? text.at[at] : -1;
}

static long space(struct bytes text, long at)
{
	while (byte_at(text, at) == 0x20 || byte_at(text, at) == 0x09 || byte_at(text, at) == 0x0a || byte_at(text, at) == 0x0d)
		at++;
	return at;
}

static long ref_string(struct bytes text, long at)
{
	if (byte_at(text, at) != '"')
		return -1;
	for (at++; byte_at(text, at) >= 0x20; at++) {
		if (byte_at(text, at) == '"')
			return at + 1;
		if (byte_at(text, at) != '\\')
			continue;
		int escape = byte_at(text, ++at);

		if (escape == 'u') {
			for (int i = 1; i <= 4; i++)
				if (byte_at(text, at + i) < 0 || !isxdigit(byte_at(text, at + i)))
					return -1;
			at += 4;
		} else if (escape != '"' && escape != '\\' && escape != '/' && escape != 'b' && escape != 'f' &&
			   escape != 'n' && escape != 'r' && escape != 't') {
			return -1;
		}
	}
	return -1;
}

static long digits(struct bytes text, long at)
{
	long start = at;

	while (byte_at(text, at) >= '0' && byte_at(text, at) <= '9')
		at++;
	return at > start ? at : -1;
}

static long ref_number(struct bytes text, long at)
{
	long start;

	at += byte_at(text, at) == '-';
	start = at;
	at = digits(text, at);
	if (at < 0 || (byte_at(text, start) == '0' && at > start + 1))
		return -1;
	if (byte_at(text, at) == '.')
		at = digits(text, at + 1);
	if (at > 0 && (byte_at(text, at) | 0x20) == 'e') {
		at++;
		if (byte_at(text, at) == '+' || byte_at(text, at) == '-')
			at++;
		at = digits(text, at);
	}
	return at;
}

static long word(struct bytes text, long at, const char *letters)
{
	return text.len - (size_t)at >= strlen(letters) && memcmp(text.at + at, letters, strlen(letters)) == 0
		       ? at + (long)strlen(letters) : -1;
}

/* One member `"name": value`, told to the caller. */
static long member(struct bytes text, long at, long depth, struct bytes *name, struct bytes *value)
{
	long end = ref_string(text, at), start;

	if (end < 0)
		return -1;
	*name = (struct bytes){ text.at + at, (size_t)(end - at) };
	at = space(text, end);
	if (byte_at(text, at) != ':')
		return -1;
	start = space(text, at + 1);
	end = ref_json_value(text, start, depth);
	if (end >= 0)
		*value = (struct bytes){ text.at + start, (size_t)(end - start) };
	return end;
}

static long container(struct bytes text, long at, long depth, bool object)
{
	struct bytes name, value;

	if (depth < 0)
		return -1;
	at = space(text, at + 1);
	if (byte_at(text, at) == (object ? '}' : ']'))
		return at + 1;
	for (;;) {
		at = object ? member(text, at, depth, &name, &value) : ref_json_value(text, at, depth);
		if (at < 0)
			return -1;
		at = space(text, at);
		if (byte_at(text, at) == (object ? '}' : ']'))
			return at + 1;
		if (byte_at(text, at) != ',')
			return -1;
		at = space(text, at + 1);
	}
}

long ref_json_value(struct bytes text, long at, long depth)
{
	switch (byte_at(text, at)) {
	case '{': return container(text, at, depth - 1, true);
	case '[': return container(text, at, depth - 1, false);
	case '"': return ref_string(text, at);
	case 't': return word(text, at, "true");
	case 'f': return word(text, at, "false");
	case 'n': return word(text, at, "null");
	default: return ref_number(text, at);
	}
}

bool ref_json_object(struct bytes text, long depth, const char *key, long *start, long *len)
{
	unsigned char decoded[3 * 128];
	struct bytes name, value;
	long at = space(text, 0), end;

	*start = -1;
	*len = 0;
	if (byte_at(text, at) != '{')
		return false;
	end = ref_json_value(text, at, depth + 1);
	if (end < 0 || (size_t)space(text, end) != text.len)
		return false;
	at = space(text, at + 1);
	while (byte_at(text, at) != '}') {
		at = member(text, at, depth, &name, &value);
		if (name.len < 128 && ref_json_string(name, decoded) == strlen(key) && memcmp(decoded, key, strlen(key)) == 0) {
			*start = value.at - text.at;
			*len = (long)value.len;
		}
		at = space(text, at);
		if (byte_at(text, at) == ',')
			at = space(text, at + 1);
	}
	return true;
}

static size_t encode(unsigned code, unsigned char *out)
{
	static const unsigned firsts[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
	size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

	for (size_t i = len; i > 1; i--, code /= 64)
		out[i - 1] = (unsigned char)(0x80 + code % 64);
	out[0] = (unsigned char)(firsts[len] + code);
	return len;
}

static unsigned unit(struct bytes raw, size_t at)
{
	char hex[5] = { 0 };

	if (at + 7 > raw.len || raw.at[at] != '\\' || raw.at[at + 1] != 'u')
		return 0;
	memcpy(hex, raw.at + at + 2, 4);
	return (unsigned)strtoul(hex, NULL, 16);
}

size_t ref_json_string(struct bytes raw, unsigned char *out)
{
	size_t len = 0, at = 1;

	while (at + 1 < raw.len) {
		if (raw.at[at] != '\\') {
			out[len++] = raw.at[at++];
			continue;
		}
		if (raw.at[at + 1] != 'u') {
			unsigned char letter = raw.at[at + 1];

			out[len++] = letter == 'b' ? 8 : letter == 't' ? 9 : letter == 'n' ? 10 : letter == 'f' ? 12 :
				     letter == 'r' ? 13 : letter;
			at += 2;
			continue;
		}
		unsigned high = unit(raw, at), low = unit(raw, at + 6);

		at += 6;
		if (high / 0x400 == 0xd800 / 0x400 && low / 0x400 == 0xdc00 / 0x400) {
			high = 0x10000 + (high % 0x400) * 0x400 + low % 0x400;
			at += 6;
		} else if (high / 0x800 == 0xd800 / 0x800) {
			high = 0xfffd;
		}
		len += encode(high, out + len);
	}
	return len;
}

bool ref_is_utf8(struct bytes text)
{
	size_t at = 0;

	while (at < text.len) {
		unsigned char first = text.at[at], again[4];
		size_t len = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
		unsigned code = len == 1 ? first : len == 2 ? first % 32 : len == 3 ? first % 16 : first % 16;

		if (at + len > text.len)
			return false;
		for (size_t i = 1; i < len; i++)
			code = code * 64 + text.at[at + i] % 64;
		/* The only encoding of a code point is the shortest one. */
		if (code > 0x10ffff || code / 0x800 == 0xd800 / 0x800 || encode(code, again) != len ||
		    memcmp(again, text.at + at, len) != 0)
			return false;
		at += len;
	}
	return true;
}
