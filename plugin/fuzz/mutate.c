// SPDX-License-Identifier: Apache-2.0
// Ways to change an input.
#include <string.h>

#include "fuzz.h"

static uint64_t state;

void random_seed(uint64_t seed)
{
	state = seed;
}

uint64_t random_next(void)
{
	uint64_t value = state += 0x9e3779b97f4a7c15u;

	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
	value = (value ^ value >> 27) * 0x94d049bb133111ebu;
	return value ^ value >> 31;
}

size_t random_below(size_t limit)
{
	return limit > 0 ? (size_t)(random_next() % limit) : 0;
}

static size_t insert(unsigned char *data, size_t len, size_t at, struct bytes part)
{
	if (part.len > FUZZ_MAX_BYTES - len)
		part.len = FUZZ_MAX_BYTES - len;
	memmove(data + at + part.len, data + at, len - at);
	if (part.len > 0)
		memcpy(data + at, part.at, part.len);
	return len + part.len;
}

static size_t cut(unsigned char *data, size_t len, size_t at, size_t count)
{
	memmove(data + at, data + at + count, len - at - count);
	return len - count;
}

/* Mostly short, now and then up to `limit`. */
static size_t some_length(size_t limit)
{
	size_t small = limit < 16 ? limit : 16;

	return random_below((random_below(4) > 0 ? small : limit) + 1);
}

/* A part of `from`, copied: it may be the data itself. */
static size_t insert_part(unsigned char *data, size_t len, size_t at, struct bytes from)
{
	static unsigned char part[FUZZ_MAX_BYTES];
	size_t start = random_below(from.len + 1), count = some_length(from.len - start);

	memcpy(part, from.at + start, count);
	return insert(data, len, at, (struct bytes){ part, count });
}

static size_t repeat_part(unsigned char *data, size_t len, size_t at)
{
	static unsigned char many[FUZZ_MAX_BYTES];
	size_t count = some_length(len - at), times = random_below(150) > 0 ? random_below(8) : random_below(12000);
	size_t filled = 0;

	for (; count > 0 && times > 0 && filled + count <= sizeof(many); times--, filled += count)
		memcpy(many + filled, data + at, count);
	return insert(data, len, at, (struct bytes){ many, filled });
}

static size_t insert_word(unsigned char *data, size_t len, size_t at, const char *const *words)
{
	size_t count = 0;

	while (words[count] != NULL)
		count++;
	return insert(data, len, at, bytes_of(words[random_below(count)]));
}

static size_t mutate_once(unsigned char *data, size_t len, struct bytes other, const char *const *words)
{
	static const unsigned char edges[] = { 0, '\t', '\n', '\r', ' ', '"', '\\', 0x7f, 0x80, 0xbf, 0xc0, 0xed, 0xf4, 0xff };
	size_t at = random_below(len + 1);
	unsigned char byte = random_below(2) > 0 ? edges[random_below(sizeof(edges))] : (unsigned char)random_next();

	switch (random_below(10)) {
	case 0:
		if (at < len)
			data[at] ^= (unsigned char)(1u << random_below(8));
		return len;
	case 1:
		if (at < len)
			data[at] = byte;
		return len;
	case 2:
		return insert(data, len, at, (struct bytes){ &byte, 1 });
	case 3:
		return cut(data, len, at, some_length(len - at));
	case 4:
		return insert_part(data, len, at, other);
	case 5:
		return insert_part(data, len, at, (struct bytes){ data, len });
	case 6:
		return repeat_part(data, len, at);
	case 7:
		return random_below(8) > 0 ? len : at; /* now and then all that follows goes */
	default:
		return insert_word(data, len, at, words);
	}
}

size_t mutate(unsigned char *data, size_t len, struct bytes other, const char *const *words)
{
	for (size_t steps = 1 + random_below(6); steps > 0; steps--)
		len = mutate_once(data, len, other, words);
	return len;
}
