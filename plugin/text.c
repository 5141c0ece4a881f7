// SPDX-License-Identifier: Apache-2.0
// Bounded text building and JSON string escaping.
#include "text.h"

#include <string.h>

struct bytes bytes_of(const char *string)
{
	return (struct bytes){ (const unsigned char *)string, strlen(string) };
}

bool bytes_equal(struct bytes value, const char *string)
{
	size_t len = strlen(string);

	return value.len == len && memcmp(value.at, string, len) == 0;
}

void text_add_bytes(struct text *text, struct bytes value)
{
	size_t room = text->cap - text->len;

	if (value.len > room) {
		value.len = room;
		text->cut = true;
	}
	if (value.len > 0)
		memcpy(text->at + text->len, value.at, value.len);
	text->len += value.len;
}

void text_add(struct text *text, const char *string)
{
	text_add_bytes(text, bytes_of(string));
}

void text_add_number(struct text *text, uint64_t value)
{
	unsigned char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (unsigned char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	text_add_bytes(text, (struct bytes){ digits + at, sizeof(digits) - at });
}

void text_add_seconds(struct text *text, uint64_t ms)
{
	char fraction[4] = { '.', (char)('0' + ms / 100 % 10), (char)('0' + ms / 10 % 10), (char)('0' + ms % 10) };
	size_t len = sizeof(fraction);

	while (len > 1 && fraction[len - 1] == '0')
		len--;
	text_add_number(text, ms / 1000);
	if (len > 1)
		text_add_bytes(text, (struct bytes){ (unsigned char *)fraction, len });
}

void text_add_quoted(struct text *text, struct bytes value, size_t max_bytes)
{
	bool more = value.len > max_bytes;

	if (more)
		value.len = max_bytes;
	text_add(text, "\"");
	text_add_bytes(text, value);
	text_add(text, more ? "\"..." : "\"");
}

struct bytes text_bytes(const struct text *text)
{
	return (struct bytes){ (const unsigned char *)text->at, text->len };
}

size_t utf8_length(struct bytes value)
{
	unsigned char first = value.len > 0 ? value.at[0] : 0xff;
	/* The second byte alone tells overlong forms, surrogates and values past U+10FFFF. */
	unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
	unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
	size_t len = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;

	if (len > value.len)
		return 0;
	for (size_t i = 1; i < len; i++)
		if (value.at[i] < (i == 1 ? low : 0x80) || value.at[i] > (i == 1 ? high : 0xbf))
			return 0;
	return len;
}

static void add_escaped(struct text *text, unsigned char byte)
{
	static const char hex[] = "0123456789abcdef";
	char escape[] = { '\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15], 0 };

	switch (byte) {
	case '"': text_add(text, "\\\""); break;
	case '\\': text_add(text, "\\\\"); break;
	case '\n': text_add(text, "\\n"); break;
	case '\r': text_add(text, "\\r"); break;
	case '\t': text_add(text, "\\t"); break;
	default: text_add(text, escape);
	}
}

void text_add_json(struct text *text, struct bytes value)
{
	/* The longest escape is six bytes; stopping here keeps the closing quote and never splits an escape. */
	size_t most = text->cap > 8 ? text->cap - 8 : 0;

	text_add(text, "\"");
	while (value.len > 0) {
		size_t len = utf8_length(value);

		if (text->len > most) {
			text->cut = true;
			break;
		}
		if (len == 0)
			text_add(text, "\\ufffd");
		else if (value.at[0] < 0x20 || value.at[0] == '"' || value.at[0] == '\\')
			add_escaped(text, value.at[0]);
		else
			text_add_bytes(text, (struct bytes){ value.at, len });
		len = len > 0 ? len : 1;
		value.at += len;
		value.len -= len;
	}
	text_add(text, "\"");
}
