// SPDX-License-Identifier: Apache-2.0
// Tables of iptables-legacy.
#include "binding.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct xtables_job {
	struct job job; // first
	struct xtables_list list;
};

static void free_xtables(struct job *job)
{
	struct xtables_list *list = &((struct xtables_job *)job)->list;

	for (size_t i = 0; i < list->count; i++)
		free(list->tables[i].entries);
	free(list->tables);
	free(list->names);
	free(job);
}

static int run_xtables(struct visit *visit, const char **step)
{
	(void)step;
	xtables_read_tables(&((struct xtables_job *)visit)->list);
	return 0;
}

// struct ipt_getinfo, then the entries, or the share; undefined for a table that is not there; or how it failed.
static napi_value table_value(napi_env env, const struct xtables_read *table)
{
	size_t bytes = sizeof(table->info) + table->entries_bytes;
	napi_value buffer, result;
	void *copy = NULL;

	if (table->result < 0)
		return failure_value(env, table->result, table->step);
	if (table->absent)
		return napi_get_undefined(env, &result) == napi_ok ? result : NULL;
	if (napi_create_arraybuffer(env, bytes, &copy, &buffer) != napi_ok ||
	    napi_create_typedarray(env, napi_uint8_array, bytes, buffer, 0, &result) != napi_ok)
		return NULL;
	memcpy(copy, table->info, sizeof(table->info));
	if (table->entries_bytes > 0)
		memcpy((uint8_t *)copy + sizeof(table->info), table->entries, table->entries_bytes);
	return result;
}

static napi_value tables_value(napi_env env, struct job *job)
{
	const struct xtables_list *list = &((const struct xtables_job *)job)->list;
	napi_value result, value;

	if (napi_create_array_with_length(env, list->count, &result) != napi_ok)
		return NULL;
	for (size_t i = 0; i < list->count; i++)
		if (!(value = table_value(env, &list->tables[i])) || napi_set_element(env, result, (uint32_t)i, value) != napi_ok)
			return NULL;
	return result;
}

// Fills `list` from its names, "4nat\n6nat\tCHAIN\tCHAIN", with tables that are otherwise `like` this one; 0 or -errno.
static int read_table_names(const struct xtables_read *like, struct xtables_list *list)
{
	const char *names = list->names;
	size_t count = 1;

	for (const char *at = names; *at; at++)
		count += *at == '\n';
	list->tables = calloc(count, sizeof(*list->tables));
	if (!list->tables)
		return -ENOMEM;
	list->count = count;
	for (size_t i = 0; i < count; i++) {
		struct xtables_read *table = &list->tables[i];
		size_t bytes = strcspn(names, "\t\n");

		if (bytes == 0 || bytes > sizeof(table->table))
			return bytes == 0 ? -EINVAL : -ENAMETOOLONG;
		*table = *like;
		table->family = names[0] == '6' ? AF_INET6 : AF_INET;
		memcpy(table->table, names + 1, bytes - 1);
		if (names[bytes] == '\t')
			table->chains = names + bytes + 1;
		names += strcspn(names, "\n") + 1;
	}
	return 0;
}

// xtablesInNetns(netnsFd, names, onlyExisting, maxBytes, urgent) -> Promise<(Uint8Array | undefined | [errno, step])[]>. Names are one a line,
// each behind the digit of its family, and before tabs with the names of chains of which the share is wanted. Struct ipt_getinfo, then
// the entries unless they are more than maxBytes; undefined: only existing ones were asked for, and this one is not there.
napi_value js_xtables_in_netns(napi_env env, napi_callback_info info)
{
	struct xtables_read like = { 0 };
	napi_value arguments[5];
	int32_t netns_fd;
	bool is_urgent;
	char *names;

	if (!read_arguments(env, info, 5, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_bool(env, arguments[2], &like.only_existing) != napi_ok ||
	    napi_get_value_uint32(env, arguments[3], &like.max_bytes) != napi_ok ||
	    napi_get_value_bool(env, arguments[4], &is_urgent) != napi_ok || !(names = read_string(env, arguments[1])))
		return wrong_arguments(env);
	struct xtables_job *xtables = calloc(1, sizeof(*xtables));
	if (!xtables) {
		free(names);
		return throw_failure(env, -ENOMEM, "malloc");
	}
	xtables->list.names = names;
	int result = read_table_names(&like, &xtables->list);
	if (result < 0) {
		free_xtables(&xtables->job);
		return throw_failure(env, result, result == -ENOMEM ? "malloc" : "getsockopt");
	}
	xtables->job.visit.run = run_xtables;
	xtables->job.visit.is_urgent = is_urgent;
	xtables->job.value = tables_value;
	xtables->job.free = free_xtables;
	return start_job(env, &xtables->job, netns_fd);
}
