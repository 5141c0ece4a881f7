// SPDX-License-Identifier: Apache-2.0
// The lists of pods that may start while the agent is away.
#include "exempt.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LIST_BYTES = 1 << 20 };

struct pod pod_of_args(const char *cni_args)
{
	struct pod pod = { 0 };

	while (*cni_args != 0) {
		struct bytes pair = { (const unsigned char *)cni_args, strcspn(cni_args, ";") };
		const unsigned char *equals = memchr(pair.at, '=', pair.len);

		cni_args += pair.len + (cni_args[pair.len] == ';');
		if (equals == NULL)
			continue;
		struct bytes key = { pair.at, (size_t)(equals - pair.at) };
		struct bytes value = { equals + 1, pair.len - key.len - 1 };

		if (bytes_equal(key, "K8S_POD_NAMESPACE"))
			pod.namespace = value;
		else if (bytes_equal(key, "K8S_POD_NAME"))
			pod.name = value;
	}
	return pod;
}

bool exempt_entry_matches(struct bytes entry, const struct pod *pod)
{
	const unsigned char *slash = entry.len > 0 ? memchr(entry.at, '/', entry.len) : NULL;
	size_t namespace_len = slash != NULL ? (size_t)(slash - entry.at) : entry.len;
	size_t prefix_len = slash != NULL ? entry.len - namespace_len - 1 : 0;

	if (namespace_len == 0 || namespace_len != pod->namespace.len ||
	    memcmp(entry.at, pod->namespace.at, namespace_len) != 0)
		return false;
	return prefix_len == 0 || (prefix_len <= pod->name.len && memcmp(slash + 1, pod->name.at, prefix_len) == 0);
}

typedef bool entry_test(struct bytes entry, const struct pod *pod);

static bool any_entry(const struct json_value *array, entry_test *test, const struct pod *pod)
{
	struct json_cursor cursor = { array->raw.at, array->raw.at + array->raw.len, NULL };
	struct json_value element;
	bool first = true;

	if (array->type != JSON_ARRAY || !json_enter(&cursor, '['))
		return false;
	while (json_step(&cursor, &first, NULL, &element)) {
		unsigned char entry[512];
		size_t len = json_decode(element.raw, entry, sizeof(entry));

		if (len <= sizeof(entry) && test((struct bytes){ entry, len }, pod))
			return true;
	}
	return false;
}

bool exempt_in_array(const struct json_value *array, const struct pod *pod)
{
	return any_entry(array, exempt_entry_matches, pod);
}

static bool names_pods(struct bytes entry, const struct pod *pod)
{
	(void)pod;
	return entry.len > 0 && memchr(entry.at, '/', entry.len) != NULL;
}

bool exempt_array_names_pods(const struct json_value *array)
{
	return any_entry(array, names_pods, NULL);
}

static bool is_space(unsigned char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r';
}

bool exempt_lines_end(struct exempt_lines *lines, const struct pod *pod)
{
	struct bytes entry = { lines->line, lines->len };

	lines->len = 0;
	if (entry.len <= sizeof(lines->line)) {
		for (; entry.len > 0 && is_space(entry.at[0]); entry.at++)
			entry.len--;
		while (entry.len > 0 && is_space(entry.at[entry.len - 1]))
			entry.len--;
		if (entry.len > 0 && entry.at[0] != '#' && exempt_entry_matches(entry, pod))
			lines->matched = true;
	}
	return lines->matched;
}

void exempt_lines_add(struct exempt_lines *lines, struct bytes part, const struct pod *pod)
{
	for (size_t i = 0; i < part.len; i++) {
		if (part.at[i] == '\n')
			exempt_lines_end(lines, pod);
		else if (lines->len < sizeof(lines->line))
			lines->line[lines->len++] = part.at[i];
		else
			lines->len = sizeof(lines->line) + 1;
	}
}

bool exempt_in_file(const char *path, const struct pod *pod)
{
	struct exempt_lines lines = { .len = 0 };
	unsigned char part[4096];
	/* Never wait for the other end, should somebody have put a FIFO there. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = -1;

	if (fd < 0)
		return false;
	for (size_t total = 0; total < MAX_LIST_BYTES && !lines.matched; total += (size_t)got) {
		got = read(fd, part, sizeof(part));
		if (got <= 0)
			break;
		exempt_lines_add(&lines, (struct bytes){ part, (size_t)got }, pod);
	}
	close(fd);
	/* Without a proper end the last line may be half of a longer name. */
	return got == 0 ? exempt_lines_end(&lines, pod) : lines.matched;
}
