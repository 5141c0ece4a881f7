// SPDX-License-Identifier: Apache-2.0
// A JSON scan that finds where values begin and end (RFC 8259) without building anything: no allocation, no recursion.
#ifndef AMBIENT_JSON_H
#define AMBIENT_JSON_H

#include "text.h"

/* As deep as Go's encoding/json goes, so nothing that a runtime could write is refused. */
#define JSON_MAX_DEPTH 10000

enum json_type { JSON_ABSENT, JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL };

/* One value as it stands in the text, without the space around it. */
struct json_value {
	enum json_type type;
	struct bytes raw;
};

/* Where the scan is. Once `fault` is set nothing moves any more and `at` is where the trouble is. */
struct json_cursor {
	const unsigned char *at, *end;
	const char *fault;
};

/* The value at the cursor, checked to its end; false: see `fault`. */
bool json_next(struct json_cursor *cursor, struct json_value *value);
/* Goes into the object or array at the cursor; false: it is neither, or not as wanted. */
bool json_enter(struct json_cursor *cursor, char open);
/* Goes to the next member or element of what was entered; false: the end is passed, or `fault` is set.
 * `key` is the member's name with its quotes; NULL for arrays. `first` starts as true. */
bool json_step(struct json_cursor *cursor, bool *first, struct json_value *key, struct json_value *value);
/* True if only space is left; sets `fault` otherwise. */
bool json_end(struct json_cursor *cursor);

/* Decodes a checked string into at most `cap` bytes of UTF-8 and returns the length of the whole. A lone surrogate becomes U+FFFD. */
size_t json_decode(struct bytes raw, unsigned char *out, size_t cap);
bool json_string_is(struct bytes raw, const char *string);
/* A checked number of seconds as milliseconds, rounded down, held within [0, max_ms]. */
uint32_t json_ms(struct bytes raw, uint32_t max_ms);

#endif
