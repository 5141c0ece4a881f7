// SPDX-License-Identifier: Apache-2.0
// Environment to HTTP header lines, without a way to smuggle a line in.
#include "request.h"

#include <string.h>

enum { CODE_INVALID_ENVIRONMENT = 4, SHOWN_BYTES = 64 };

static const char head_start[] = "POST /cni HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
				 "Content-Type: application/json\r\nContent-Length: ";

/* Splits `variable` at its first =; false for what is none of CNI's. */
static bool split(const char *variable, struct bytes *name, struct bytes *value)
{
	const char *equals = strchr(variable, '=');

	if (strncmp(variable, "CNI_", 4) != 0 || equals == NULL)
		return false;
	*name = (struct bytes){ (const unsigned char *)variable, (size_t)(equals - variable) };
	*value = bytes_of(equals + 1);
	return true;
}

static bool is_name_byte(unsigned char byte)
{
	return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
	       byte == '_' || byte == '-' || byte == '.';
}

/* RFC 9110 section 5.5: anything printable, a tab, and bytes from 0x80. */
static bool is_value_byte(unsigned char byte)
{
	return (byte >= 0x20 && byte != 0x7f) || byte == '\t';
}

static bool all(struct bytes value, bool (*test)(unsigned char))
{
	for (size_t i = 0; i < value.len; i++)
		if (!test(value.at[i]))
			return false;
	return true;
}

static unsigned char folded(unsigned char byte)
{
	return byte == '_' ? '-' : byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte | 0x20) : byte;
}

/* Whether two names give the same header. */
static bool same_header(struct bytes one, struct bytes other)
{
	if (one.len != other.len)
		return false;
	for (size_t i = 0; i < one.len; i++)
		if (folded(one.at[i]) != folded(other.at[i]))
			return false;
	return true;
}

/* The variable before `environment[index]` that took its header name; NULL if there is none. */
static const char *taken_by(char *const *environment, size_t index, struct bytes name)
{
	struct bytes other, value;

	for (size_t i = 0; i < index; i++)
		if (split(environment[i], &other, &value) && same_header(name, other))
			return environment[i];
	return NULL;
}

static int report(struct text *why, int code, struct bytes name, const char *reason)
{
	if (code == 0) {
		text_add(why, "the environment variable ");
		text_add_quoted(why, name, SHOWN_BYTES);
		text_add(why, reason);
	}
	return CODE_INVALID_ENVIRONMENT;
}

static void add_header(struct text *head, struct bytes name, struct bytes value)
{
	size_t start = head->len;

	text_add_bytes(head, name);
	for (size_t i = start; i < head->len; i++)
		if (head->at[i] == '_')
			head->at[i] = '-';
	text_add(head, ": ");
	text_add_bytes(head, value);
	text_add(head, "\r\n");
}

int request_head(struct text *head, char *const *environment, size_t body_bytes, struct text *why)
{
	struct bytes name, value;
	int code = 0;

	text_add(head, head_start);
	text_add_number(head, body_bytes);
	text_add(head, "\r\n");
	for (size_t i = 0; environment[i] != NULL; i++) {
		if (!split(environment[i], &name, &value))
			continue;
		/* Room for ": ", the end of this line and that of the head. */
		if (name.len + value.len + 6 > head->cap - head->len) {
			code = report(why, code, name, " does not fit: the agent takes no more than 64 KiB of CNI_* variables");
			continue;
		}
		if (!all(name, is_name_byte)) {
			code = report(why, code, name, " has a name that cannot be passed on to the agent");
			continue;
		}
		if (!all(value, is_value_byte)) {
			code = report(why, code, name, " holds a line break or another control character");
			continue;
		}
		const char *taken = taken_by(environment, i, name);

		/* Of two equal names getenv() gives the first, so the agent gets that one too. */
		if (taken == NULL)
			add_header(head, name, value);
		else if (strncmp(taken, environment[i], name.len) != 0)
			code = report(why, code, name, " differs only in spelling from another one");
	}
	text_add(head, "\r\n");
	return code;
}
