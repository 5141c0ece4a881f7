// SPDX-License-Identifier: Apache-2.0
// Slow and simple second implementations to compare the launcher's with; written from the specifications, sharing no code.
#ifndef AMBIENT_REFERENCE_H
#define AMBIENT_REFERENCE_H

#include "text.h"

/* The end of the JSON value that begins at `at`, or -1. `depth` is how deep it may be nested. */
long ref_json_value(struct bytes text, long at, long depth);
/* Whether `text` is one JSON object; finds the last member called `key` (start and length; start -1: none). */
bool ref_json_object(struct bytes text, long depth, const char *key, long *start, long *len);
/* Decodes the JSON string `raw` (with quotes) into `out`, which has room for three bytes of each of its bytes; returns the length. */
size_t ref_json_string(struct bytes raw, unsigned char *out);
bool ref_is_utf8(struct bytes text);

struct ref_answer {
	/* C: complete; S: cut short; B: bad */
	char verdict;
	int status, exit_code;
	unsigned char *body; /* to be freed */
	size_t body_len;
};

/* An HTTP answer as it was when the connection ended. */
void ref_answer(struct bytes text, struct ref_answer *answer);

#endif
