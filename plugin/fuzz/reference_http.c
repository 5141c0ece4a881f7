// SPDX-License-Identifier: Apache-2.0
// Second implementation of HTTP answers: on a whole buffer, with the C library's string functions.
#include "reference.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The line that begins at `*at` without its end, moved behind; false: no end of line. */
static bool line_at(struct bytes text, size_t *at, struct bytes *line)
{
	size_t end = *at;

	while (end < text.len && text.at[end] != '\n')
		end++;
	*line = (struct bytes){ text.at + *at, end - *at };
	if (end == text.len)
		return false;
	if (line->len > 0 && line->at[line->len - 1] == '\r')
		line->len--;
	*at = end + 1;
	return true;
}

static bool all_in(const char *text, const char *set)
{
	return text[0] != 0 && strspn(text, set) == strlen(text);
}

struct head {
	char verdict;
	int status, exit_code;
	bool chunked, has_length;
	unsigned long long length;
};

static bool header(struct head *head, struct bytes line)
{
	char name[4200], value[4200], *colon;
	size_t len;

	/* A copy that ends at the first zero byte would hide what follows. */
	if (memchr(line.at, ':', line.len) == NULL)
		return false;
	memcpy(name, line.at, line.len);
	for (size_t i = 0; i < line.len; i++)
		name[i] = name[i] != 0 ? name[i] : 1;
	name[line.len] = 0;
	colon = strchr(name, ':');
	*colon = 0;
	if (name[0] == 0 || strchr(" \t", name[0]) != NULL || strchr(" \t", colon[-1]) != NULL)
		return false;
	strcpy(value, colon + 1 + strspn(colon + 1, " \t"));
	for (len = strlen(value); len > 0 && strchr(" \t", value[len - 1]) != NULL; len--)
		value[len - 1] = 0;
	if (strcasecmp(name, "Content-Length") == 0) {
		unsigned long long length;

		if (!all_in(value, "0123456789"))
			return false;
		/* What is beyond the limit is one and the same to us. */
		length = strlen(value + strspn(value, "0")) > 12 ? 1ull << 40 : strtoull(value, NULL, 10);
		if (head->has_length && length != head->length && (length <= 1 << 24 || head->length <= 1 << 24))
			return false;
		head->has_length = true;
		head->length = length;
	} else if (strcasecmp(name, "Transfer-Encoding") == 0) {
		if (strcasecmp(value, "chunked") != 0)
			return false;
		head->chunked = true;
	} else if (strcasecmp(name, "CNI-Exit") == 0) {
		if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
			return false;
		if (head->exit_code >= 0 && head->exit_code != value[0] - '0')
			return false;
		head->exit_code = value[0] - '0';
	}
	return true;
}

static char read_head(struct bytes text, size_t *at, struct head *head)
{
	struct bytes line;

	for (;;) {
		*head = (struct head){ .exit_code = -1 };
		if (!line_at(text, at, &line))
			return 'S';
		if (line.len < 12 || (memcmp(line.at, "HTTP/1.0 ", 9) != 0 && memcmp(line.at, "HTTP/1.1 ", 9) != 0) ||
		    line.at[9] < '1' || line.at[9] > '9' || !isdigit(line.at[10]) || !isdigit(line.at[11]) ||
		    (line.len > 12 && line.at[12] != ' '))
			return 'B';
		head->status = (line.at[9] - '0') * 100 + (line.at[10] - '0') * 10 + line.at[11] - '0';
		for (;;) {
			if (!line_at(text, at, &line))
				return 'S';
			if (line.len == 0)
				break;
			if (!header(head, line))
				return 'B';
		}
		if (head->status >= 200)
			return 'C';
	}
}

static char read_chunks(struct bytes text, size_t at, struct ref_answer *answer)
{
	struct bytes line;

	for (;;) {
		char size[4200];
		size_t count = 0;
		unsigned long long len;

		if (!line_at(text, &at, &line))
			return 'S';
		while (line.len > 0 && (line.at[0] == ' ' || line.at[0] == '\t'))
			line.at++, line.len--;
		for (; count < line.len && line.at[count] != ';'; count++)
			size[count] = line.at[count] != 0 ? (char)line.at[count] : 1;
		while (count > 0 && strchr(" \t", size[count - 1]) != NULL)
			count--;
		size[count] = 0;
		if (!all_in(size, "0123456789abcdefABCDEF"))
			return 'B';
		len = strlen(size + strspn(size, "0")) > 8 ? 1ull << 40 : strtoull(size, NULL, 16);
		if (len > 1 << 24)
			return 'B';
		if (len == 0)
			break;
		for (; len > 0 && at < text.len; len--)
			answer->body[answer->body_len++] = text.at[at++];
		if (len > 0 || !line_at(text, &at, &line))
			return 'S';
		if (line.len > 0)
			return 'B';
	}
	do
		if (!line_at(text, &at, &line))
			return 'S';
	while (line.len > 0);
	return 'C';
}

void ref_answer(struct bytes text, struct ref_answer *answer)
{
	struct head head;
	size_t at = 0, start = text.len < 7 ? text.len : 7;

	*answer = (struct ref_answer){ .exit_code = -1, .body = malloc(text.len + 1) };
	answer->verdict = memcmp(text.at, "HTTP/1.", start) == 0 ? read_head(text, &at, &head) : 'B';
	if (answer->verdict != 'C')
		return;
	answer->status = head.status;
	answer->exit_code = head.exit_code;
	if (head.chunked && head.has_length) {
		answer->verdict = 'B';
	} else if (head.chunked) {
		answer->verdict = read_chunks(text, at, answer);
	} else if (head.has_length && head.length > 1 << 24) {
		answer->verdict = 'B';
	} else if (!head.has_length && head.status == 200 && head.exit_code >= 0) {
		answer->verdict = 'B';
	} else {
		while (at < text.len && (!head.has_length || answer->body_len < head.length))
			answer->body[answer->body_len++] = text.at[at++];
		answer->verdict = head.has_length && answer->body_len < head.length ? 'S' : 'C';
	}
}
