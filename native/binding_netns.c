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
	return fd < 0 ? fail(env, fd, step) : number(env, fd);
}

struct netlink_job {
	struct job job; // first
	struct netlink_exchange exchange;
	uint8_t *request;
};

static void free_netlink(struct job *job)
{
	struct netlink_job *netlink = (struct netlink_job *)job;

	free(netlink->request);
	free(netlink->exchange.replies);
	free(netlink->exchange.reply_bytes);
	free(netlink);
}

static int run_netlink(struct job *job)
{
	return netns_netlink(job->netns_fd, &((struct netlink_job *)job)->exchange, &job->step);
}

// One copy for all datagrams: each is a view of the same buffer.
static napi_value replies_value(napi_env env, struct job *job)
{
	const struct netlink_exchange *exchange = &((const struct netlink_job *)job)->exchange;
	napi_value buffer, result, view;
	void *copy = NULL;
	size_t offset = 0;

	if (napi_create_arraybuffer(env, exchange->replies_bytes, &copy, &buffer) != napi_ok ||
	    napi_create_array_with_length(env, exchange->reply_count, &result) != napi_ok)
		return NULL;
	if (exchange->replies_bytes > 0)
		memcpy(copy, exchange->replies, exchange->replies_bytes);
	for (size_t i = 0; i < exchange->reply_count; i++) {
		if (napi_create_typedarray(env, napi_uint8_array, exchange->reply_bytes[i], buffer, offset, &view) != napi_ok ||
		    napi_set_element(env, result, (uint32_t)i, view) != napi_ok)
			return NULL;
		offset += exchange->reply_bytes[i];
	}
	return result;
}

// netlinkInNetns(netnsFd, protocol, request, deadlineMs, enoughBytes) -> Promise<Uint8Array[]>
napi_value js_netlink_in_netns(napi_env env, napi_callback_info info)
{
	napi_value arguments[5];
	int32_t netns_fd, protocol, deadline_ms;
	uint32_t enough_bytes;
	uint8_t *request;
	size_t bytes;

	if (!read_arguments(env, info, 5, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_int32(env, arguments[1], &protocol) != napi_ok ||
	    !read_bytes(env, arguments[2], &request, &bytes) ||
	    napi_get_value_int32(env, arguments[3], &deadline_ms) != napi_ok ||
	    napi_get_value_uint32(env, arguments[4], &enough_bytes) != napi_ok)
		return wrong_arguments(env);
	struct netlink_job *netlink = calloc(1, sizeof(*netlink));
	uint8_t *copy = malloc(bytes + 1);
	if (!netlink || !copy) {
		free(netlink);
		free(copy);
		return fail(env, -ENOMEM, "malloc");
	}
	memcpy(copy, request, bytes);
	netlink->job.run = run_netlink;
	netlink->job.value = replies_value;
	netlink->job.free = free_netlink;
	netlink->request = copy;
	netlink->exchange.protocol = protocol;
	netlink->exchange.deadline_ms = deadline_ms;
	netlink->exchange.enough_bytes = enough_bytes;
	netlink->exchange.request = copy;
	netlink->exchange.request_bytes = bytes;
	return start_job(env, &netlink->job, netns_fd, "netlinkInNetns");
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

static int run_make(struct job *job)
{
	struct make_job *make = (struct make_job *)job;

	make->made_fd = netns_make(&job->step);
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
		return fail(env, -ENOMEM, "malloc");
	make->job.run = run_make;
	make->job.value = make_value;
	make->job.free = free_make;
	make->job.netns_fd = -1;
	make->made_fd = -1;
	return queue_job(env, &make->job, "makeNetns");
}
