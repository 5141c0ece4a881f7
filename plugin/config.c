// SPDX-License-Identifier: Apache-2.0
// The launcher's few keys of the network configuration.
#include "config.h"

#include <string.h>

enum { CODE_DECODING = 6, CODE_INVALID_CONFIG = 7 };

struct found {
	struct json_value version, run_dir, wait, answer, exempt, prev_result, excluded, own_namespace;
};

bool cni_version_supported(const char *version)
{
	static const char *const versions[] = { "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0" };

	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
		if (strcmp(version, versions[i]) == 0)
			return true;
	return false;
}

static void keep(struct found *found, struct bytes key, const struct json_value *value)
{
	const struct {
		const char *name;
		struct json_value *place;
	} wanted[] = {
		{ "cniVersion", &found->version },
		{ "cni_agent_run_dir", &found->run_dir },
		{ "agent_wait_seconds", &found->wait },
		{ "agent_answer_seconds", &found->answer },
		{ "exempt", &found->exempt },
		{ "prevResult", &found->prev_result },
		{ "exclude_namespaces", &found->excluded },
		{ "pod_namespace", &found->own_namespace },
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		if (json_string_is(key, wanted[i].name)) {
			*wanted[i].place = *value;
			if (value->type == JSON_NULL)
				wanted[i].place->type = JSON_ABSENT;
		}
}

static int refuse(struct text *why, const char *key, const char *reason)
{
	text_add(why, "\"");
	text_add(why, key);
	text_add(why, "\" in the network configuration ");
	text_add(why, reason);
	return CODE_INVALID_CONFIG;
}

static int read_version(struct config *config, const struct json_value *value, struct text *why)
{
	size_t len;

	if (value->type == JSON_ABSENT)
		return 0;
	if (value->type != JSON_STRING)
		return refuse(why, "cniVersion", "must be a string");
	len = json_decode(value->raw, (unsigned char *)config->version, sizeof(config->version) - 1);
	if (len >= sizeof(config->version) || memchr(config->version, 0, len) != NULL)
		len = 0;
	config->version[len] = 0;
	return 0;
}

static int read_run_dir(struct config *config, const struct json_value *value, struct text *why)
{
	char dir[sizeof(config->run_dir)];
	size_t len;

	if (value->type == JSON_ABSENT)
		return 0;
	if (value->type != JSON_STRING)
		return refuse(why, "cni_agent_run_dir", "must be a string");
	len = json_decode(value->raw, (unsigned char *)dir, sizeof(dir) - 1);
	if (len == 0)
		return 0;
	if (dir[0] != '/')
		return refuse(why, "cni_agent_run_dir", "must be an absolute path");
	if (len >= sizeof(dir) || memchr(dir, 0, len) != NULL)
		return refuse(why, "cni_agent_run_dir", "is no usable path: it is too long or holds a zero byte");
	memcpy(config->run_dir, dir, len);
	config->run_dir[len] = 0;
	return 0;
}

static int read_ms(uint32_t *ms, const struct json_value *value, uint32_t max_ms, const char *key, struct text *why)
{
	if (value->type == JSON_ABSENT)
		return 0;
	if (value->type != JSON_NUMBER)
		return refuse(why, key, "must be a number of seconds");
	*ms = json_ms(value->raw, max_ms);
	return 0;
}

static int read_exempt(struct config *config, const struct json_value *value, struct text *why)
{
	struct json_cursor cursor = { value->raw.at, value->raw.at + value->raw.len, NULL };
	struct json_value element;
	bool first = true;

	if (value->type == JSON_ABSENT)
		return 0;
	if (!json_enter(&cursor, '['))
		return refuse(why, "exempt", "must be an array of strings");
	while (json_step(&cursor, &first, NULL, &element))
		if (element.type != JSON_STRING)
			return refuse(why, "exempt", "must hold nothing but strings");
	config->exempt = *value;
	return 0;
}

/* The former owner of an entry never knew our names: what it wrote is taken as far as it goes, and refused nowhere. */
static void read_theirs(struct config *config, const struct found *found)
{
	if (config->exempt.type != JSON_ABSENT)
		return;
	if (found->excluded.type == JSON_ARRAY)
		config->excluded = found->excluded;
	if (found->own_namespace.type == JSON_STRING)
		config->own_namespace = found->own_namespace;
}

/* Goes on past a fault, so that a DEL knows as much as can be known; the first fault is the one reported. */
static int read_values(struct config *config, const struct found *found, struct text *why)
{
	struct text ignored = { 0 };
	int code = read_version(config, &found->version, why), next;

	next = read_run_dir(config, &found->run_dir, code ? &ignored : why);
	code = code ? code : next;
	next = read_ms(&config->wait_ms, &found->wait, MAX_WAIT_MS, "agent_wait_seconds", code ? &ignored : why);
	code = code ? code : next;
	next = read_ms(&config->answer_ms, &found->answer, MAX_ANSWER_MS, "agent_answer_seconds", code ? &ignored : why);
	code = code ? code : next;
	if (config->answer_ms < MIN_ANSWER_MS)
		config->answer_ms = MIN_ANSWER_MS;
	next = read_exempt(config, &found->exempt, code ? &ignored : why);
	read_theirs(config, found);
	config->prev_result = found->prev_result;
	return code ? code : next;
}

int config_read(struct config *config, struct bytes input, struct text *why)
{
	struct json_cursor cursor = { input.at, input.at + input.len, NULL };
	struct found found = { 0 };
	struct json_value key, value;
	struct text ignored = { 0 };
	bool first = true, object;

	memset(config, 0, sizeof(*config));
	memcpy(config->run_dir, DEFAULT_RUN_DIR, sizeof(DEFAULT_RUN_DIR));
	config->wait_ms = DEFAULT_WAIT_MS;
	config->answer_ms = DEFAULT_ANSWER_MS;
	object = json_enter(&cursor, '{');
	while (object && json_step(&cursor, &first, &key, &value))
		keep(&found, key.raw, &value);
	if (object && json_end(&cursor))
		return read_values(config, &found, why);
	read_values(config, &found, &ignored);
	if (input.len == 0) {
		text_add(why, "the network configuration on stdin is empty");
	} else if (!object) {
		text_add(why, "the network configuration on stdin is no JSON object");
	} else {
		text_add(why, "the network configuration on stdin is no valid JSON: at byte ");
		text_add_number(why, (uint64_t)(cursor.at - input.at));
		text_add(why, " ");
		text_add(why, cursor.fault);
	}
	return CODE_DECODING;
}
