// SPDX-License-Identifier: Apache-2.0
// What is fuzzed, and the promises each part has to keep for every input.
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "exempt.h"
#include "fuzz.h"
#include "reference.h"

bool same(struct bytes one, struct bytes other)
{
	return one.len == other.len && (one.len == 0 || memcmp(one.at, other.at, one.len) == 0);
}

char *string_of(struct bytes part)
{
	char *copy = malloc(part.len + 1);

	if (part.len > 0)
		memcpy(copy, part.at, part.len);
	copy[part.len] = 0;
	return copy;
}

static bool is_json_string(struct bytes text)
{
	return text.len >= 2 && text.at[0] == '"' && ref_json_value(text, 0, 0) == (long)text.len && ref_is_utf8(text);
}

/* --- escaping --- */

static void escape_into(struct bytes input, size_t cap)
{
	char *buffer = malloc(cap);
	struct text out = { .at = buffer, .cap = cap };
	unsigned char *decoded = malloc(3 * cap + 1);
	bool plain = ref_is_utf8(input);

	text_add_json(&out, input);
	PROMISE(is_json_string(text_bytes(&out)));
	size_t len = ref_json_string(text_bytes(&out), decoded);

	if (!out.cut && plain)
		PROMISE(same((struct bytes){ decoded, len }, input));
	if (out.cut && plain)
		PROMISE(len <= input.len && memcmp(decoded, input.at, len) == 0);
	free(decoded);
	free(buffer);
}

static void run_text(struct bytes input)
{
	/* Longer ones show nothing new and take their time. */
	if (input.len > 1024)
		input.len = 1024;
	escape_into(input, 6 * input.len + 16);
	escape_into(input, 2 + input.len % 97);
	for (size_t at = 0; at < input.len; at++) {
		struct bytes rest = { input.at + at, input.len - at };
		size_t len = utf8_length(rest);

		PROMISE(len <= rest.len && len <= 4);
		if (len > 0)
			PROMISE(ref_is_utf8((struct bytes){ rest.at, len }));
		else
			for (size_t shorter = 1; shorter <= 4 && shorter <= rest.len; shorter++)
				PROMISE(!ref_is_utf8((struct bytes){ rest.at, shorter }));
	}
}

/* --- configuration --- */

/* The last top-level member `key`; false: absent or null. */
static bool expected(struct bytes input, const char *key, struct bytes *raw)
{
	long start, len;

	if (!ref_json_object(input, JSON_MAX_DEPTH, key, &start, &len) || start < 0)
		return false;
	*raw = (struct bytes){ input.at + start, (size_t)len };
	return raw->at[0] != 'n';
}

static void check_ms(struct bytes input, const char *key, uint32_t got, uint32_t absent, double low, double high)
{
	struct bytes raw;
	double ms = absent;

	if (expected(input, key, &raw)) {
		char *number = string_of(raw);

		ms = strtod(number, NULL) * 1000;
		ms = ms < low ? low : ms > high ? high : ms;
		free(number);
	}
	PROMISE(got >= ms - 1.001 && got <= ms + 0.001);
}

static void check_run_dir(struct bytes input, const struct config *config)
{
	struct bytes raw, dir = bytes_of(DEFAULT_RUN_DIR);
	unsigned char *decoded = NULL;

	if (expected(input, "cni_agent_run_dir", &raw)) {
		decoded = malloc(3 * raw.len + 1);
		size_t len = ref_json_string(raw, decoded);

		if (len > 0)
			dir = (struct bytes){ decoded, len };
	}
	PROMISE(same(dir, bytes_of(config->run_dir)));
	free(decoded);
}

static void check_exempt(struct bytes input, const struct config *config)
{
	static const struct pod pod = { { (const unsigned char *)"shop", 4 }, { (const unsigned char *)"web-0", 5 } };
	struct bytes raw;

	PROMISE(expected(input, "exempt", &raw) == (config->exempt.type == JSON_ARRAY));
	if (config->exempt.type == JSON_ARRAY)
		PROMISE(same(raw, config->exempt.raw));
	exempt_in_array(&config->exempt, &pod);
}

static void run_config(struct bytes input)
{
	static struct config config;
	char buffer[512];
	struct text why = TEXT_IN(buffer);
	struct bytes raw;
	long start, len;
	int code = config_read(&config, input, &why);

	PROMISE((code == 6) == !ref_json_object(input, JSON_MAX_DEPTH, "", &start, &len));
	PROMISE(code == 0 || code == 6 || code == 7);
	PROMISE((code == 0) == (why.len == 0));
	PROMISE(config.run_dir[0] == '/' && strlen(config.run_dir) < sizeof(config.run_dir));
	PROMISE(config.wait_ms <= MAX_WAIT_MS && config.answer_ms >= MIN_ANSWER_MS && config.answer_ms <= MAX_ANSWER_MS);
	PROMISE(config.version[sizeof(config.version) - 1] == 0);
	if (code == 6)
		return;
	PROMISE(expected(input, "prevResult", &raw) == (config.prev_result.type != JSON_ABSENT));
	if (config.prev_result.type != JSON_ABSENT)
		PROMISE(same(raw, config.prev_result.raw));
	if (code == 7)
		return;
	check_ms(input, "agent_wait_seconds", config.wait_ms, DEFAULT_WAIT_MS, 0, MAX_WAIT_MS);
	check_ms(input, "agent_answer_seconds", config.answer_ms, DEFAULT_ANSWER_MS, MIN_ANSWER_MS, MAX_ANSWER_MS);
	check_run_dir(input, &config);
	check_exempt(input, &config);
}

/* --- CNI_ARGS, entries of the chain and the list of namespaces: the first line is CNI_ARGS, the rest is taken for both --- */

static struct bytes ref_arg(const char *args, const char *key)
{
	struct bytes found = { (const unsigned char *)"", 0 };
	size_t len = strlen(key);

	for (const char *at = args; at != NULL; at = strchr(at, ';') != NULL ? strchr(at, ';') + 1 : NULL)
		if (strncmp(at, key, len) == 0 && at[len] == '=')
			found = (struct bytes){ (const unsigned char *)at + len + 1, strcspn(at + len + 1, ";") };
	return found;
}

/* By a table of which beginnings match which, instead of going back to the last star. */
static bool ref_pattern(struct bytes pattern, struct bytes name)
{
	bool *row = calloc(name.len + 1, sizeof(*row)), matched;

	row[0] = true;
	for (size_t i = 0; i < pattern.len; i++) {
		bool star = pattern.at[i] == '*', left = row[0];

		row[0] = row[0] && star;
		for (size_t j = 1; j <= name.len; j++) {
			bool above = row[j];

			row[j] = star ? above || row[j - 1] : left && pattern.at[i] == name.at[j - 1];
			left = above;
		}
	}
	matched = row[name.len];
	free(row);
	return matched;
}

static bool ref_entry(struct bytes entry, struct pod pod)
{
	size_t len = 0;

	while (len < entry.len && entry.at[len] != '/')
		len++;
	if (pod.namespace.len == 0 || !ref_pattern((struct bytes){ entry.at, len }, pod.namespace))
		return false;
	/* What follows the slash begins the pod's name. */
	for (size_t i = len + 1; i < entry.len; i++)
		if (i - len - 1 >= pod.name.len || entry.at[i] != pod.name.at[i - len - 1])
			return false;
	return true;
}

static bool ref_list(struct bytes list, struct bytes namespace)
{
	char *copy = string_of(list), *line = copy, *next;
	bool starts = false;

	for (; line != NULL; line = next) {
		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = 0;
		if (strlen(line) > 512)
			continue;
		char *verdict = strtok(line, " "), *name = strtok(NULL, " ");

		if (verdict != NULL && name != NULL && strcmp(verdict, "start") == 0)
			starts = starts || same((struct bytes){ (unsigned char *)name, strlen(name) }, namespace);
	}
	free(copy);
	return starts;
}

static bool list_in_parts(struct bytes list, struct bytes namespace, size_t step)
{
	struct namespace_list lines = { .len = 0 };

	while (list.len > 0) {
		size_t len = step < list.len ? step : list.len;

		namespace_list_add(&lines, (struct bytes){ list.at, len }, namespace);
		list.at += len;
		list.len -= len;
	}
	return namespace_list_end(&lines, namespace);
}

/* Each line as an entry of the chain. */
static void check_entries(struct bytes list, struct pod pod)
{
	while (list.len > 0) {
		const unsigned char *newline = memchr(list.at, '\n', list.len);
		struct bytes line = { list.at, newline != NULL ? (size_t)(newline - list.at) : list.len };

		/* The table takes the product of both. */
		if (line.len <= 1024 && pod.namespace.len <= 1024)
			PROMISE(exempt_entry_matches(line, &pod) == ref_entry(line, pod));
		list.at += line.len + (newline != NULL);
		list.len -= line.len + (newline != NULL);
	}
}

static void run_exempt(struct bytes input)
{
	const unsigned char *newline = memchr(input.at, '\n', input.len);
	size_t args_len = newline != NULL ? (size_t)(newline - input.at) : input.len;
	struct bytes list = { input.at + args_len, input.len - args_len };
	char *args = string_of((struct bytes){ input.at, args_len });
	struct pod pod = pod_of_args(args);

	PROMISE(same(pod.namespace, ref_arg(args, "K8S_POD_NAMESPACE")));
	PROMISE(same(pod.name, ref_arg(args, "K8S_POD_NAME")));
	pod.name.at = pod.name.at != NULL ? pod.name.at : (const unsigned char *)"";
	check_entries(list, pod);
	if (pod.namespace.len > 0 && memchr(list.at, 0, list.len) == NULL)
		PROMISE(list_in_parts(list, pod.namespace, FUZZ_MAX_BYTES) == ref_list(list, pod.namespace));
	PROMISE(list_in_parts(list, pod.namespace, FUZZ_MAX_BYTES) == list_in_parts(list, pod.namespace, 1 + input.len % 7));
	free(args);
}

static const char *const config_words[] = {
	"\"cniVersion\":\"1.0.0\",", "\"cni_agent_run_dir\":\"/run/x\",", "\"agent_wait_seconds\":", "\"agent_answer_seconds\":",
	"\"exempt\":[\"shop/web-\",\"kube-system\"],", "\"prevResult\":{\"ips\":[]},", "\"prevResult\":", "null,", "true", "false",
	"{}", "[]", "[", "]", "{", "}", ",", ":", "\"", "\\u0065", "\\ud83d\\ude00", "\\ud800", "\\", "1e3", "-0", "0.25", "1E-2",
	"99999999999999999999", "0.000000000000000000001", " ", "\"exempt\":null,", "\"runtimeConfig\":{\"exempt\":1},", NULL,
};
static const char *const exempt_words[] = {
	"K8S_POD_NAME=web-0;", "K8S_POD_NAMESPACE=shop;", "IgnoreUnknown=1;", ";", "=", "\n", "\r\n", "shop", "shop/", "shop/web-",
	"/", "*", "sh*", "**", "s*o*", "-*", " ", "\t", "kube-system\n", "start shop 1-2\n", "start ", "hold shop\n", NULL,
};
static const char *const answer_words[] = {
	"HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.0 404 no\r\n", "CNI-Exit: 0\r\n", "cni-exit:1\r\n", "\r\n",
	"Content-Length: 2\r\n", "Content-Length: 0\r\n", "Content-Length: 99999999999999999999\r\n", "Transfer-Encoding: chunked\r\n",
	"0\r\n\r\n", "2\r\n{}\r\n", "a;x=y\r\n0123456789\r\n", "fffffffff\r\n", "\n", ":", " ", "{}", NULL,
};
static const char *const request_words[] = {
	"CNI_COMMAND=ADD", "CNI_ARGS=a=b;c=d", "CNI_A_B=", "CNI_A-B=1", "cni_x=1", "CNI_", "=", "\r\n", "\n", "PATH=/bin", "CNI_a_b=2", NULL,
};
static const char *const text_words[] = { "\"", "\\", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "\xc0\x80", "\xff", NULL };

const struct target targets[] = {
	{ "config", run_config, config_words },
	{ "exempt", run_exempt, exempt_words },
	{ "answer", run_answer, answer_words },
	{ "request", run_request, request_words },
	{ "text", run_text, text_words },
};
const size_t target_count = sizeof(targets) / sizeof(targets[0]);
