// SPDX-License-Identifier: Apache-2.0
// The agent's HTTP answer, read piece by piece (RFC 9112).
#ifndef AMBIENT_ANSWER_H
#define AMBIENT_ANSWER_H

#include "text.h"

#define MAX_ANSWER_BYTES (16u << 20)

enum answer_state {
	ANSWER_STATUS_LINE, /* nothing but perhaps a part of the first line */
	ANSWER_HEADERS,
	ANSWER_BODY,        /* of known length */
	ANSWER_CHUNK_SIZE,
	ANSWER_CHUNK,
	ANSWER_CHUNK_END,
	ANSWER_TRAILERS,
	ANSWER_TO_THE_END,  /* a body that ends with the connection; only for what is no success anyway */
	ANSWER_COMPLETE,
	ANSWER_CUT,         /* the connection ended before the answer did */
	ANSWER_BAD,         /* no answer of ours: see `fault` */
};

/* Starts as all zeroes. `body` belongs to the answer and is freed by answer_reset(). */
struct answer {
	enum answer_state state;
	const char *fault;
	int status;    /* 0 until a status line was read */
	int exit_code; /* CNI-Exit; -1 when the header is missing */
	bool has_length, chunked;
	uint64_t left; /* bytes of the body or chunk still to come */
	unsigned char *body;
	size_t body_len, body_cap;
	size_t head_bytes, line_len;
	unsigned char line[4096];
	unsigned char seen[80]; /* how the answer began, for messages */
	size_t seen_len;
};

/* Takes in the next bytes. Bytes behind a complete answer are ignored. */
enum answer_state answer_add(struct answer *answer, struct bytes part);
/* The connection has ended. */
enum answer_state answer_end(struct answer *answer);
/* Makes it ready for another answer. */
void answer_reset(struct answer *answer);

#endif
