// SPDX-License-Identifier: Apache-2.0
// The promises of what goes over the wire: requests and answers.
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "fuzz.h"
#include "reference.h"
#include "request.h"

/* --- answers --- */

/* Feeds `input` in pieces of at most `most` bytes. Their lengths come from the input alone, so that a failure can be replayed. */
static void feed(struct answer *answer, struct bytes input, size_t most)
{
	uint32_t mix = (uint32_t)input.len;

	while (input.len > 0) {
		mix = (mix ^ input.at[0]) * 0x01000193u;
		size_t len = 1 + (mix >> 8) % most;
		unsigned char *part;

		len = len < input.len && most < FUZZ_MAX_BYTES ? len : input.len;
		part = malloc(len);
		memcpy(part, input.at, len);
		answer_add(answer, (struct bytes){ part, len });
		free(part);
		input.at += len;
		input.len -= len;
	}
	answer_end(answer);
}

static bool has_long_line(struct bytes input)
{
	size_t len = 0;

	for (size_t i = 0; i < input.len; i++) {
		len = input.at[i] == '\n' ? 0 : len + 1;
		if (len > 4090)
			return true;
	}
	return input.len > 60000;
}

static void check_answer(struct bytes input, const struct answer *answer)
{
	struct ref_answer want;

	ref_answer(input, &want);
	PROMISE((answer->state == ANSWER_COMPLETE) == (want.verdict == 'C'));
	PROMISE((answer->state == ANSWER_CUT) == (want.verdict == 'S'));
	if (want.verdict == 'C') {
		PROMISE(answer->status == want.status && answer->exit_code == want.exit_code);
		PROMISE(same((struct bytes){ answer->body, answer->body_len }, (struct bytes){ want.body, want.body_len }));
	}
	free(want.body);
}

void run_answer(struct bytes input)
{
	static struct answer whole, parts;

	answer_reset(&whole);
	answer_reset(&parts);
	feed(&whole, input, FUZZ_MAX_BYTES);
	feed(&parts, input, 1 + input.len % 40);
	PROMISE(whole.state >= ANSWER_COMPLETE && whole.state == parts.state && whole.fault == parts.fault);
	PROMISE((whole.state == ANSWER_BAD) == (whole.fault != NULL));
	PROMISE(whole.status == parts.status && whole.exit_code == parts.exit_code && whole.seen_len == parts.seen_len);
	PROMISE(same((struct bytes){ whole.body, whole.body_len }, (struct bytes){ parts.body, parts.body_len }));
	if (!has_long_line(input))
		check_answer(input, &whole);
}

/* --- requests: variables separated by zero bytes --- */

static void check_head(const char *head, char *const *environment)
{
	size_t lines = 0, variables = 0;

	PROMISE(strlen(head) <= MAX_HEAD_BYTES);
	PROMISE(strlen(head) > 4 && strcmp(head + strlen(head) - 4, "\r\n\r\n") == 0);
	for (const char *at = head; *at != 0; at = strstr(at, "\r\n") + 2) {
		size_t len = strcspn(at, "\r\n");

		PROMISE(strncmp(at + len, "\r\n", 2) == 0);
		PROMISE(len > 0 || strcmp(at, "\r\n") == 0);
		lines++;
	}
	for (; *environment != NULL; environment++)
		variables += strncmp(*environment, "CNI_", 4) == 0;
	PROMISE(lines >= 6 && lines <= 6 + variables);
}

/* Whether the head has `variable` as it stands; what the launcher says it took must be there. */
static bool carries(const char *head, const char *variable)
{
	char *line = malloc(strlen(variable) + 8);
	size_t name = strcspn(variable, "=");
	bool found;

	strcpy(line, "\r\n");
	strncat(line, variable, name);
	for (char *at = line; *at != 0; at++)
		*at = *at == '_' ? '-' : *at;
	strcat(line, ": ");
	strcat(line, variable + name + 1);
	strcat(line, "\r\n");
	found = strstr(head, line) != NULL;
	free(line);
	return found;
}

void run_request(struct bytes input)
{
	static char buffer[MAX_HEAD_BYTES + 1];
	char *environment[66], *copy = string_of(input), *at = copy, *first = NULL, why_buffer[256];
	struct text head = { .at = buffer, .cap = MAX_HEAD_BYTES }, why = TEXT_IN(why_buffer);
	size_t count = 0;
	int code;

	for (; at <= copy + input.len && count < 65; at += strlen(at) + 1)
		environment[count++] = at;
	environment[count] = NULL;
	code = request_head(&head, environment, input.len, &why);
	buffer[head.len] = 0;
	PROMISE(!head.cut && memchr(buffer, 0, head.len) == NULL);
	PROMISE((code == 0) == (why.len == 0) && (code == 0 || code == 4));
	check_head(buffer, environment);
	for (size_t i = 0; i < count && code == 0; i++) {
		first = environment[i];
		for (size_t j = 0; j < i && first == environment[i]; j++)
			if (strncmp(environment[j], environment[i], strcspn(environment[i], "=") + 1) == 0)
				first = environment[j];
		if (strncmp(first, "CNI_", 4) == 0 && strchr(first, '=') != NULL)
			PROMISE(carries(buffer, first));
	}
	free(copy);
}
