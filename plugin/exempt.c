// SPDX-License-Identifier: Apache-2.0
// The lists of pods that may start while the agent is away.
#include "exempt.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LIST_BYTES = 4 << 20 };

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

/* `*` stands for any bytes, none included. Goes back to the last star only, so the time is at most the product of both lengths. */
static bool pattern_matches(struct bytes pattern, struct bytes name)
{
	size_t at = 0, in = 0, star = SIZE_MAX, resume = 0;

	while (in < name.len) {
		if (at < pattern.len && pattern.at[at] == '*') {
			star = at++;
			resume = in;
		} else if (at < pattern.len && pattern.at[at] == name.at[in]) {
			at++;
			in++;
		} else if (star != SIZE_MAX) {
			at = star + 1;
			in = ++resume;
		} else {
			return false;
		}
	}
	while (at < pattern.len && pattern.at[at] == '*')
		at++;
	return at == pattern.len;
}

bool exempt_entry_matches(struct bytes entry, const struct pod *pod)
{
	const unsigned char *slash = entry.len > 0 ? memchr(entry.at, '/', entry.len) : NULL;
	struct bytes namespace = { entry.at, slash != NULL ? (size_t)(slash - entry.at) : entry.len };
	size_t prefix_len = slash != NULL ? entry.len - namespace.len - 1 : 0;

	if (pod->namespace.len == 0 || !pattern_matches(namespace, pod->namespace))
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

/* The next word of a line, cut off its beginning; empty at the end. */
static struct bytes next_word(struct bytes *line)
{
	struct bytes word;

	while (line->len > 0 && line->at[0] == ' ') {
		line->at++;
		line->len--;
	}
	word = (struct bytes){ line->at, 0 };
	while (word.len < line->len && word.at[word.len] != ' ')
		word.len++;
	line->at += word.len;
	line->len -= word.len;
	return word;
}

bool namespace_list_end(struct namespace_list *list, struct bytes namespace)
{
	struct bytes line = { list->line, list->len };

	list->len = 0;
	if (line.len <= sizeof(list->line) && namespace.len > 0 && bytes_equal(next_word(&line), "start")) {
		struct bytes name = next_word(&line);

		if (name.len == namespace.len && memcmp(name.at, namespace.at, name.len) == 0)
			list->starts = true;
	}
	return list->starts;
}

void namespace_list_add(struct namespace_list *list, struct bytes part, struct bytes namespace)
{
	for (size_t i = 0; i < part.len; i++) {
		if (part.at[i] == '\n')
			namespace_list_end(list, namespace);
		else if (list->len < sizeof(list->line))
			list->line[list->len++] = part.at[i];
		else
			list->len = sizeof(list->line) + 1;
	}
}

bool exempt_in_file(const char *path, const struct pod *pod)
{
	struct namespace_list list = { .len = 0 };
	unsigned char part[4096];
	/* Never wait for the other end, should somebody have put a FIFO there. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = -1;

	if (fd < 0)
		return false;
	for (size_t total = 0; total < MAX_LIST_BYTES && !list.starts; total += (size_t)got) {
		got = read(fd, part, sizeof(part));
		if (got <= 0)
			break;
		namespace_list_add(&list, (struct bytes){ part, (size_t)got }, pod->namespace);
	}
	close(fd);
	/* Without a proper end the last line may be half of a longer name. */
	return got == 0 ? namespace_list_end(&list, pod->namespace) : list.starts;
}
