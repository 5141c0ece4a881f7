// SPDX-License-Identifier: Apache-2.0
// Byte slices and bounded text building; nothing here allocates or can overflow.
#ifndef AMBIENT_TEXT_H
#define AMBIENT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of somebody else's memory; not terminated by a zero. */
struct bytes {
	const unsigned char *at;
	size_t len;
};

/* Text under construction in the caller's buffer; what does not fit is left out and noted in `cut`. */
struct text {
	char *at;
	size_t len, cap;
	bool cut;
};

#define TEXT_IN(buffer) { .at = (buffer), .cap = sizeof(buffer) }

struct bytes bytes_of(const char *string);
bool bytes_equal(struct bytes value, const char *string);

void text_add(struct text *text, const char *string);
void text_add_bytes(struct text *text, struct bytes value);
void text_add_number(struct text *text, uint64_t value);
/* Milliseconds as seconds: 10000 is "10", 250 is "0.25". */
void text_add_seconds(struct text *text, uint64_t ms);
/* `value` in double quotes, at most `max_bytes` of it, with "..." behind the quotes when more was there. */
void text_add_quoted(struct text *text, struct bytes value, size_t max_bytes);
/* `value` as a JSON string; whatever the bytes, the result is valid JSON in plain UTF-8 (RFC 8259 section 7). */
void text_add_json(struct text *text, struct bytes value);
struct bytes text_bytes(const struct text *text);

/* Length of the valid UTF-8 sequence that `value` begins with, 0 if it begins with none (RFC 3629 section 4). */
size_t utf8_length(struct bytes value);

#endif
