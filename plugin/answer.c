// SPDX-License-Identifier: Apache-2.0
// HTTP answer parser: status line, the headers that matter, a body of known length or in chunks.
#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_ANSWER_HEAD_BYTES = 64 * 1024, FIRST_BODY_BYTES = 4096 };

static enum answer_state bad(struct answer *answer, const char *fault)
{
	answer->fault = fault;
	return ANSWER_BAD;
}

static bool reserve(struct answer *answer, size_t len)
{
	size_t cap = answer->body_cap > 0 ? answer->body_cap : FIRST_BODY_BYTES;
	unsigned char *body;

	if (len <= answer->body_cap)
		return true;
	while (cap < len)
		cap *= 2;
	body = realloc(answer->body, cap);
	if (body == NULL)
		return false;
	answer->body = body;
	answer->body_cap = cap;
	return true;
}

/* Appends to the body; false: no memory, or more than we take. */
static bool append(struct answer *answer, struct bytes part)
{
	if (part.len == 0)
		return true;
	if (part.len > MAX_ANSWER_BYTES - answer->body_len || !reserve(answer, answer->body_len + part.len)) {
		answer->state = bad(answer, "it is larger than 16 MiB or than the memory at hand");
		return false;
	}
	memcpy(answer->body + answer->body_len, part.at, part.len);
	answer->body_len += part.len;
	return true;
}

static bool is_space(unsigned char byte)
{
	return byte == ' ' || byte == '\t';
}

static struct bytes trim(struct bytes value)
{
	for (; value.len > 0 && is_space(value.at[0]); value.at++)
		value.len--;
	while (value.len > 0 && is_space(value.at[value.len - 1]))
		value.len--;
	return value;
}

static bool is_word(struct bytes value, const char *word)
{
	size_t len = strlen(word);

	return value.len == len && strncasecmp((const char *)value.at, word, len) == 0;
}

/* An unsigned number that is all of `value`; what is more than we take is held at MAX_ANSWER_BYTES + 1. */
static bool read_number(struct bytes value, unsigned base, uint64_t *number)
{
	*number = 0;
	for (size_t i = 0; i < value.len; i++) {
		unsigned char byte = value.at[i], letter = byte | 0x20;
		unsigned digit = byte >= '0' && byte <= '9' ? byte - (unsigned)'0' :
				 letter >= 'a' && letter <= 'f' ? letter - 'a' + 10u : base;

		if (digit >= base)
			return false;
		*number = *number * base + digit;
		if (*number > MAX_ANSWER_BYTES)
			*number = MAX_ANSWER_BYTES + 1;
	}
	return value.len > 0;
}

static enum answer_state read_status_line(struct answer *answer, struct bytes line)
{
	static const char start[] = "HTTP/1.";
	uint64_t status;

	/* HTTP/1.x SP 3DIGIT, then the end or SP and a reason */
	if (line.len < 12 || memcmp(line.at, start, 7) != 0 || (line.at[7] != '0' && line.at[7] != '1') ||
	    line.at[8] != ' ' || !read_number((struct bytes){ line.at + 9, 3 }, 10, &status) || status < 100 ||
	    (line.len > 12 && line.at[12] != ' '))
		return bad(answer, "it is no HTTP/1.1");
	answer->status = (int)status;
	answer->exit_code = -1;
	answer->has_length = answer->chunked = false;
	return ANSWER_HEADERS;
}

static enum answer_state read_length(struct answer *answer, struct bytes value)
{
	uint64_t length;

	if (!read_number(value, 10, &length) || (answer->has_length && length != answer->left))
		return bad(answer, "its Content-Length cannot be understood");
	answer->has_length = true;
	answer->left = length;
	return ANSWER_HEADERS;
}

static enum answer_state read_header(struct answer *answer, struct bytes line)
{
	const unsigned char *colon = memchr(line.at, ':', line.len);

	if (colon == NULL || colon == line.at || is_space(line.at[0]) || is_space(colon[-1]))
		return bad(answer, "one of its header lines is malformed");
	struct bytes name = { line.at, (size_t)(colon - line.at) };
	struct bytes value = trim((struct bytes){ colon + 1, line.len - name.len - 1 });

	if (is_word(name, "content-length"))
		return read_length(answer, value);
	if (is_word(name, "transfer-encoding")) {
		if (!is_word(value, "chunked"))
			return bad(answer, "it has a Transfer-Encoding other than chunked");
		answer->chunked = true;
	}
	if (is_word(name, "cni-exit")) {
		int exit_code = bytes_equal(value, "0") ? 0 : bytes_equal(value, "1") ? 1 : -1;

		if (exit_code < 0 || (answer->exit_code >= 0 && answer->exit_code != exit_code))
			return bad(answer, "its CNI-Exit header is neither 0 nor 1");
		answer->exit_code = exit_code;
	}
	return ANSWER_HEADERS;
}

static enum answer_state end_headers(struct answer *answer)
{
	bool ours = answer->status == 200 && answer->exit_code >= 0;

	if (answer->status < 200) /* 100 Continue and the like: the answer proper follows */
		return ANSWER_STATUS_LINE;
	if (answer->has_length && answer->chunked)
		return bad(answer, "it has both a Content-Length and a Transfer-Encoding");
	if (answer->has_length && answer->left > MAX_ANSWER_BYTES)
		return bad(answer, "it is larger than 16 MiB or than the memory at hand");
	if (answer->chunked)
		return ANSWER_CHUNK_SIZE;
	if (answer->has_length)
		return answer->left > 0 ? ANSWER_BODY : ANSWER_COMPLETE;
	/* Nothing would tell whether such a body is complete. */
	return ours ? bad(answer, "it has no Content-Length") : ANSWER_TO_THE_END;
}

static enum answer_state read_chunk_size(struct answer *answer, struct bytes line)
{
	const unsigned char *extension = memchr(line.at, ';', line.len);

	if (extension != NULL)
		line.len = (size_t)(extension - line.at);
	if (!read_number(trim(line), 16, &answer->left) || answer->left > MAX_ANSWER_BYTES)
		return bad(answer, "the size of a chunk cannot be understood");
	return answer->left > 0 ? ANSWER_CHUNK : ANSWER_TRAILERS;
}

static enum answer_state read_line(struct answer *answer, struct bytes line)
{
	switch (answer->state) {
	case ANSWER_STATUS_LINE:
		return read_status_line(answer, line);
	case ANSWER_HEADERS:
		return line.len > 0 ? read_header(answer, line) : end_headers(answer);
	case ANSWER_CHUNK_SIZE:
		return read_chunk_size(answer, line);
	case ANSWER_CHUNK_END:
		return line.len == 0 ? ANSWER_CHUNK_SIZE : bad(answer, "a chunk is longer than it said");
	default:
		return line.len > 0 ? ANSWER_TRAILERS : ANSWER_COMPLETE;
	}
}

/* Takes bytes up to the end of a line and returns how many. */
static size_t add_to_line(struct answer *answer, struct bytes part)
{
	const unsigned char *newline = memchr(part.at, '\n', part.len);
	size_t len = newline != NULL ? (size_t)(newline - part.at) : part.len;
	/* A chunk's own lines are bounded by the size of the body, see MAX_ANSWER_BYTES. */
	bool head = answer->state == ANSWER_STATUS_LINE || answer->state == ANSWER_HEADERS || answer->state == ANSWER_TRAILERS;

	if (len > sizeof(answer->line) - answer->line_len || (head && answer->head_bytes + len > MAX_ANSWER_HEAD_BYTES)) {
		answer->state = bad(answer, answer->status > 0 ? "its head is too long" : "it is no HTTP/1.1");
		return part.len;
	}
	memcpy(answer->line + answer->line_len, part.at, len);
	answer->line_len += len;
	if (head)
		answer->head_bytes += len + (newline != NULL);
	if (newline == NULL)
		return len;
	struct bytes line = { answer->line, answer->line_len };

	if (line.len > 0 && line.at[line.len - 1] == '\r')
		line.len--;
	answer->line_len = 0;
	answer->state = read_line(answer, line);
	return len + 1;
}

static size_t add_to_body(struct answer *answer, struct bytes part)
{
	if (part.len > answer->left)
		part.len = (size_t)answer->left;
	if (!append(answer, part))
		return part.len;
	answer->left -= part.len;
	if (answer->left == 0)
		answer->state = answer->state == ANSWER_CHUNK ? ANSWER_CHUNK_END : ANSWER_COMPLETE;
	return part.len;
}

/* Told from the first bytes, as other programs may neither end a line nor the connection. */
static bool looks_like_http(const struct answer *answer)
{
	static const char start[] = "HTTP/1.";
	size_t len = answer->seen_len < sizeof(start) - 1 ? answer->seen_len : sizeof(start) - 1;

	return memcmp(answer->seen, start, len) == 0;
}

enum answer_state answer_add(struct answer *answer, struct bytes part)
{
	size_t room = sizeof(answer->seen) - answer->seen_len;
	size_t used = part.len < room ? part.len : room;

	if (used > 0)
		memcpy(answer->seen + answer->seen_len, part.at, used);
	answer->seen_len += used;
	if (!looks_like_http(answer)) {
		answer->state = bad(answer, "it is no HTTP/1.1");
		return answer->state;
	}
	while (part.len > 0 && answer->state < ANSWER_COMPLETE) {
		if (answer->state == ANSWER_BODY || answer->state == ANSWER_CHUNK) {
			used = add_to_body(answer, part);
		} else if (answer->state == ANSWER_TO_THE_END) {
			append(answer, part);
			used = part.len;
		} else {
			used = add_to_line(answer, part);
		}
		part.at += used;
		part.len -= used;
	}
	return answer->state;
}

enum answer_state answer_end(struct answer *answer)
{
	if (answer->state == ANSWER_TO_THE_END)
		answer->state = ANSWER_COMPLETE;
	else if (answer->state < ANSWER_COMPLETE)
		answer->state = ANSWER_CUT;
	return answer->state;
}

void answer_reset(struct answer *answer)
{
	free(answer->body);
	memset(answer, 0, sizeof(*answer));
}
