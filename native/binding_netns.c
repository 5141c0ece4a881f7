// SPDX-License-Identifier: Apache-2.0
// Sockets, conversations over netlink and new namespaces.
#include "binding.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum socket_flag {
	SOCKET_BIND = 1,
	SOCKET_SET_V6ONLY = 2,
	SOCKET_V6ONLY = 4,
	SOCKET_REUSE_ADDRESS = 8,
	SOCKET_REUSE_PORT = 16,
	SOCKET_TRANSPARENT = 32,
	SOCKET_SET_MARK = 64,
};
// socketInNetns(netnsFd, family 4 or 6, stream, address or null, port, flags, mark, backlog) -> fd
napi_value js_socket_in_netns(napi_env env, napi_callback_info info)
{
	napi_value arguments[8];
	struct netns_socket options = { 0 };
	int32_t netns_fd, family;
	uint32_t port, flags;
	bool stream;
	napi_valuetype type;
	char *address = NULL;
	const char *step;

	if (!read_arguments(env, info, 8, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_int32(env, arguments[1], &family) != napi_ok ||
	    napi_get_value_bool(env, arguments[2], &stream) != napi_ok ||
	    napi_get_value_uint32(env, arguments[4], &port) != napi_ok || port > UINT16_MAX ||
	    napi_get_value_uint32(env, arguments[5], &flags) != napi_ok ||
	    napi_get_value_uint32(env, arguments[6], &options.mark) != napi_ok ||
	    napi_get_value_int32(env, arguments[7], &options.backlog) != napi_ok ||
	    napi_typeof(env, arguments[3], &type) != napi_ok ||
	    (type != napi_null && !(address = read_string(env, arguments[3]))))
		return wrong_arguments(env);
	options.family = family == 6 ? AF_INET6 : AF_INET;
	options.type = stream ? SOCK_STREAM : SOCK_DGRAM;
	options.address = address;
	options.port = (uint16_t)port;
	options.bind = flags & SOCKET_BIND;
	options.set_v6only = flags & SOCKET_SET_V6ONLY;
	options.v6only = flags & SOCKET_V6ONLY;
	options.reuse_address = flags & SOCKET_REUSE_ADDRESS;
	options.reuse_port = flags & SOCKET_REUSE_PORT;
	options.transparent = flags & SOCKET_TRANSPARENT;
	options.set_mark = flags & SOCKET_SET_MARK;
	int fd = netns_open_socket(netns_fd, &options, &step);
	free(address);
	return fd < 0 ? throw_failure(env, fd, step) : number_value(env, fd);
}

// namespaceOwner(fd) -> fd
napi_value js_namespace_owner(napi_env env, napi_callback_info info)
{
	napi_value argument;
	int32_t namespace_fd;
	const char *step;

	if (!read_arguments(env, info, 1, &argument) || napi_get_value_int32(env, argument, &namespace_fd) != napi_ok)
		return wrong_arguments(env);
	int fd = namespace_owner(namespace_fd, &step);
	return fd < 0 ? throw_failure(env, fd, step) : number_value(env, fd);
}

// isNetns(fd) -> boolean
napi_value js_is_netns(napi_env env, napi_callback_info info)
{
	napi_value argument, result;
	int32_t fd;
	const char *step;

	if (!read_arguments(env, info, 1, &argument) || napi_get_value_int32(env, argument, &fd) != napi_ok)
		return wrong_arguments(env);
	int answer = is_netns(fd, &step);
	if (answer < 0)
		return throw_failure(env, answer, step);
	return napi_get_boolean(env, answer, &result) == napi_ok ? result : NULL;
}

struct netlink_job {
	struct job job; // first
	size_t count;
	struct netlink_exchange exchanges[];
};

static void free_netlink(struct job *job)
{
	struct netlink_job *netlink = (struct netlink_job *)job;

	for (size_t i = 0; i < netlink->count; i++) {
		free(netlink->exchanges[i].request);
		free(netlink->exchanges[i].replies);
	}
	free(netlink);
}

static int run_netlink(struct visit *visit, const char **step)
{
	struct netlink_job *netlink = (struct netlink_job *)visit;

	(void)step;
	for (size_t i = 0; i < netlink->count; i++)
		netlink_converse(&netlink->exchanges[i]);
	return 0;
}

// What was received, or how each of them failed.
static napi_value replies_value(napi_env env, struct job *job)
{
	const struct netlink_job *netlink = (const struct netlink_job *)job;
	napi_value result, value;

	if (napi_create_array_with_length(env, netlink->count, &result) != napi_ok)
		return NULL;
	for (size_t i = 0; i < netlink->count; i++) {
		const struct netlink_exchange *exchange = &netlink->exchanges[i];

		value = exchange->result < 0 ? failure_value(env, exchange->result, exchange->step)
					     : bytes_value(env, exchange->replies, exchange->replies_bytes);
		if (!value || napi_set_element(env, result, (uint32_t)i, value) != napi_ok)
			return NULL;
	}
	return result;
}

// Reads four elements of the array, from `at` on: protocol, request, deadline, enough bytes.
static bool read_exchange(napi_env env, napi_value array, uint32_t at, struct netlink_exchange *exchange)
{
	napi_value values[4];
	uint32_t enough_bytes;
	uint8_t *request;

	for (uint32_t i = 0; i < 4; i++)
		if (napi_get_element(env, array, at + i, &values[i]) != napi_ok)
			return false;
	if (napi_get_value_int32(env, values[0], &exchange->protocol) != napi_ok ||
	    !read_bytes(env, values[1], &request, &exchange->request_bytes) ||
	    napi_get_value_int32(env, values[2], &exchange->deadline_ms) != napi_ok ||
	    napi_get_value_uint32(env, values[3], &enough_bytes) != napi_ok)
		return false;
	exchange->enough_bytes = enough_bytes;
	exchange->request = malloc(exchange->request_bytes + 1);
	if (exchange->request)
		memcpy(exchange->request, request, exchange->request_bytes);
	return exchange->request;
}

// netlinkInNetns(netnsFd, urgent, [protocol, request, deadlineMs, enoughBytes, protocol, …]) -> Promise<(Uint8Array | [errno, step])[]>,
// the conversations one after the other with one entry into the namespace; rejected when that cannot be entered.
napi_value js_netlink_in_netns(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	int32_t netns_fd;
	bool is_urgent;
	uint32_t length;

	if (!read_arguments(env, info, 3, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_bool(env, arguments[1], &is_urgent) != napi_ok ||
	    napi_get_array_length(env, arguments[2], &length) != napi_ok || length % 4 != 0)
		return wrong_arguments(env);
	struct netlink_job *netlink = calloc(1, sizeof(*netlink) + length / 4 * sizeof(netlink->exchanges[0]));
	if (!netlink)
		return throw_failure(env, -ENOMEM, "malloc");
	netlink->job.visit.run = run_netlink;
	netlink->job.visit.is_urgent = is_urgent;
	netlink->job.value = replies_value;
	netlink->job.free = free_netlink;
	netlink->count = length / 4;
	for (uint32_t i = 0; i < netlink->count; i++) {
		if (!read_exchange(env, arguments[2], i * 4, &netlink->exchanges[i])) {
			free_netlink(&netlink->job);
			return wrong_arguments(env);
		}
	}
	return start_job(env, &netlink->job, netns_fd);
}

struct make_job {
	struct job job; // first
	int made_fd;
};

static void free_make(struct job *job)
{
	struct make_job *make = (struct make_job *)job;

	if (make->made_fd >= 0)
		close(make->made_fd);
	free(make);
}

static int run_make(struct visit *visit, const char **step)
{
	struct make_job *make = (struct make_job *)visit;

	make->made_fd = netns_finish(step);
	return make->made_fd < 0 ? make->made_fd : 0;
}

static napi_value make_value(napi_env env, struct job *job)
{
	struct make_job *make = (struct make_job *)job;
	napi_value result;

	if (napi_create_int32(env, make->made_fd, &result) != napi_ok)
		return NULL;
	make->made_fd = -1; // the caller's from here on
	return result;
}

// makeNetns() -> Promise<number>: a descriptor
napi_value js_make_netns(napi_env env, napi_callback_info info)
{
	struct make_job *make = calloc(1, sizeof(*make));

	(void)info;
	if (!make)
		return throw_failure(env, -ENOMEM, "malloc");
	make->job.visit.run = run_make;
	make->job.visit.is_new = true;
	make->job.visit.netns_fd = -1;
	make->job.value = make_value;
	make->job.free = free_make;
	make->made_fd = -1;
	return queue_job(env, &make->job);
}
