// SPDX-License-Identifier: Apache-2.0
// The JSON scan: where values begin and end.
#include "json.h"

#include <string.h>

/* One bit for each open bracket: set for an object. */
struct stack {
	unsigned char is_object[(JSON_MAX_DEPTH + 7) / 8];
	size_t depth;
};

static bool fail(struct json_cursor *cursor, const char *fault)
{
	if (cursor->fault == NULL)
		cursor->fault = cursor->at < cursor->end ? fault : "it ends too early";
	return false;
}

/* The byte at the cursor; 0, which no token begins with, at the end. */
static unsigned char peek(const struct json_cursor *cursor)
{
	return cursor->at < cursor->end ? *cursor->at : 0;
}

static unsigned char skip_space(struct json_cursor *cursor)
{
	while (cursor->at < cursor->end &&
	       (*cursor->at == ' ' || *cursor->at == '\t' || *cursor->at == '\n' || *cursor->at == '\r'))
		cursor->at++;
	return peek(cursor);
}

static bool is_digit(unsigned char byte)
{
	return byte >= '0' && byte <= '9';
}

static bool is_hex(unsigned char byte)
{
	return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

static bool scan_escape(struct json_cursor *cursor)
{
	cursor->at++;
	if (peek(cursor) == 0 || strchr("\"\\/bfnrtu", peek(cursor)) == NULL)
		return fail(cursor, "a backslash is followed by something that is no escape");
	if (*cursor->at++ != 'u')
		return true;
	for (int i = 0; i < 4; i++, cursor->at++)
		if (!is_hex(peek(cursor)))
			return fail(cursor, "\\u is not followed by four hex digits");
	return true;
}

static bool scan_string(struct json_cursor *cursor)
{
	cursor->at++;
	while (cursor->at < cursor->end) {
		if (*cursor->at == '"') {
			cursor->at++;
			return true;
		}
		if (*cursor->at < 0x20)
			return fail(cursor, "a string holds a control character");
		if (*cursor->at != '\\')
			cursor->at++;
		else if (!scan_escape(cursor))
			return false;
	}
	return fail(cursor, NULL);
}

static bool scan_digits(struct json_cursor *cursor)
{
	if (!is_digit(peek(cursor)))
		return fail(cursor, "a number lacks a digit");
	while (is_digit(peek(cursor)))
		cursor->at++;
	return true;
}

static bool scan_number(struct json_cursor *cursor)
{
	if (peek(cursor) == '-')
		cursor->at++;
	if (peek(cursor) == '0')
		cursor->at++;
	else if (!scan_digits(cursor))
		return false;
	if (peek(cursor) == '.') {
		cursor->at++;
		if (!scan_digits(cursor))
			return false;
	}
	if (peek(cursor) != 'e' && peek(cursor) != 'E')
		return true;
	cursor->at++;
	if (peek(cursor) == '+' || peek(cursor) == '-')
		cursor->at++;
	return scan_digits(cursor);
}

static bool scan_word(struct json_cursor *cursor, const char *word)
{
	for (; *word != 0; word++, cursor->at++)
		if (peek(cursor) != (unsigned char)*word)
			return fail(cursor, "a value is due here");
	return true;
}

static bool scan_scalar(struct json_cursor *cursor)
{
	switch (peek(cursor)) {
	case '"': return scan_string(cursor);
	case 't': return scan_word(cursor, "true");
	case 'f': return scan_word(cursor, "false");
	case 'n': return scan_word(cursor, "null");
	default:
		if (peek(cursor) == '-' || is_digit(peek(cursor)))
			return scan_number(cursor);
		return fail(cursor, "a value is due here");
	}
}

/* A member's name and its colon; `name`, when wanted, is the name with its quotes. */
static bool scan_key(struct json_cursor *cursor, struct bytes *name)
{
	const unsigned char *start;

	if (skip_space(cursor) != '"')
		return fail(cursor, "a name in quotes is due here");
	start = cursor->at;
	if (!scan_string(cursor))
		return false;
	if (name != NULL)
		*name = (struct bytes){ start, (size_t)(cursor->at - start) };
	if (skip_space(cursor) != ':')
		return fail(cursor, "a colon is due here");
	cursor->at++;
	return true;
}

static bool is_closing(struct json_cursor *cursor, bool object)
{
	return skip_space(cursor) == (object ? '}' : ']');
}

/* Opens the bracket at the cursor; `*empty` when its end follows at once (the cursor then stands on it). */
static bool open_bracket(struct json_cursor *cursor, struct stack *stack, bool *empty)
{
	bool object = *cursor->at == '{';
	unsigned char bit = (unsigned char)(1u << (stack->depth % 8));

	if (stack->depth == JSON_MAX_DEPTH)
		return fail(cursor, "it is nested too deeply");
	if (object)
		stack->is_object[stack->depth / 8] |= bit;
	else
		stack->is_object[stack->depth / 8] &= (unsigned char)~bit;
	stack->depth++;
	cursor->at++;
	*empty = is_closing(cursor, object);
	return *empty || !object || scan_key(cursor, NULL);
}

/* After a complete value: closes brackets and goes over one comma, to where a value is due or to the very end. */
static bool leave_value(struct json_cursor *cursor, struct stack *stack)
{
	while (stack->depth > 0) {
		size_t top = stack->depth - 1;
		bool object = stack->is_object[top / 8] & (1u << (top % 8));

		if (is_closing(cursor, object)) {
			cursor->at++;
			stack->depth--;
			continue;
		}
		if (peek(cursor) != ',')
			return fail(cursor, object ? "a comma or } is due here" : "a comma or ] is due here");
		cursor->at++;
		return !object || scan_key(cursor, NULL);
	}
	return true;
}

static enum json_type type_of(unsigned char first)
{
	switch (first) {
	case '{': return JSON_OBJECT;
	case '[': return JSON_ARRAY;
	case '"': return JSON_STRING;
	case 't': return JSON_TRUE;
	case 'f': return JSON_FALSE;
	case 'n': return JSON_NULL;
	default: return JSON_NUMBER;
	}
}

bool json_next(struct json_cursor *cursor, struct json_value *value)
{
	struct stack stack;

	if (cursor->fault != NULL)
		return false;
	stack.depth = 0;
	value->type = type_of(skip_space(cursor));
	value->raw.at = cursor->at;
	do {
		unsigned char first = skip_space(cursor);
		bool empty = true;

		if (first == '{' || first == '[') {
			if (!open_bracket(cursor, &stack, &empty))
				return false;
		} else if (!scan_scalar(cursor)) {
			return false;
		}
		if (empty && !leave_value(cursor, &stack))
			return false;
	} while (stack.depth > 0);
	value->raw.len = (size_t)(cursor->at - value->raw.at);
	return true;
}

bool json_enter(struct json_cursor *cursor, char open)
{
	if (cursor->fault != NULL || skip_space(cursor) != (unsigned char)open)
		return false;
	cursor->at++;
	return true;
}

bool json_step(struct json_cursor *cursor, bool *first, struct json_value *key, struct json_value *value)
{
	bool object = key != NULL;

	if (cursor->fault != NULL)
		return false;
	if (is_closing(cursor, object)) {
		cursor->at++;
		return false;
	}
	if (!*first) {
		if (peek(cursor) != ',')
			return fail(cursor, object ? "a comma or } is due here" : "a comma or ] is due here");
		cursor->at++;
	}
	*first = false;
	if (object) {
		key->type = JSON_STRING;
		if (!scan_key(cursor, &key->raw))
			return false;
	}
	return json_next(cursor, value);
}

bool json_end(struct json_cursor *cursor)
{
	if (cursor->fault != NULL)
		return false;
	skip_space(cursor);
	return cursor->at == cursor->end || fail(cursor, "something follows the end of the object");
}
