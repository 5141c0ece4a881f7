// SPDX-License-Identifier: Apache-2.0
// The addon as JavaScript sees it. Converts arguments and results and nothing else; src/linux/native.ts is its only caller.
//
// A failure is thrown (or rejected) as the array [-errno, name of the system call]; src/linux/native.ts makes the Error.
#define NAPI_VERSION 8
#include <node_api.h>

#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum event { EVENT_CONNECTION, EVENT_PACKET, EVENT_END, EVENT_ERROR, EVENT_DRAIN };
enum packet_flag { PACKET_TRUNCATED = 1, PACKET_CONTROL_TRUNCATED = 2 };
enum socket_flag {
	SOCKET_BIND = 1,
	SOCKET_SET_V6ONLY = 2,
	SOCKET_V6ONLY = 4,
	SOCKET_REUSE_ADDRESS = 8,
	SOCKET_REUSE_PORT = 16,
	SOCKET_TRANSPARENT = 32,
	SOCKET_SET_MARK = 64,
};

// Owned by two: the JavaScript value (until finalized) and the event loop (until closed). A started handle keeps its
// callback alive, and with it the JavaScript object, until somebody closes it.
struct handle {
	struct seqpacket socket; // first: the core's callbacks get a pointer to it
	napi_env env;
	napi_ref callback;
	napi_async_cleanup_hook_handle cleanup;
	size_t max_packet_bytes;
	bool finalized;
	bool closed;
};

static napi_value number(napi_env env, int64_t value)
{
	napi_value result = NULL;

	napi_create_int64(env, value, &result);
	return result;
}

static napi_value boolean(napi_env env, bool value)
{
	napi_value result = NULL;

	napi_get_boolean(env, value, &result);
	return result;
}

static napi_value failure_value(napi_env env, int error, const char *step)
{
	napi_value result = NULL, name = NULL;

	napi_create_array_with_length(env, 2, &result);
	napi_create_string_utf8(env, step, NAPI_AUTO_LENGTH, &name);
	napi_set_element(env, result, 0, number(env, error));
	napi_set_element(env, result, 1, name);
	return result;
}

static napi_value fail(napi_env env, int error, const char *step)
{
	napi_throw(env, failure_value(env, error, step));
	return NULL;
}

static napi_value wrong_arguments(napi_env env)
{
	bool pending = false;

	napi_is_exception_pending(env, &pending);
	if (!pending)
		napi_throw_type_error(env, NULL, "ambient.node: wrong arguments");
	return NULL;
}

static bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments)
{
	size_t given = count;

	return napi_get_cb_info(env, info, &given, arguments, NULL, NULL) == napi_ok && given >= count;
}

static bool read_bytes(napi_env env, napi_value value, uint8_t **data, size_t *bytes)
{
	bool is = false;
	napi_typedarray_type type;

	return napi_is_typedarray(env, value, &is) == napi_ok && is &&
	       napi_get_typedarray_info(env, value, &type, bytes, (void **)data, NULL, NULL) == napi_ok &&
	       type == napi_uint8_array;
}

// A string without NUL inside, to be freed.
static char *read_string(napi_env env, napi_value value)
{
	size_t bytes = 0;
	char *result;

	if (napi_get_value_string_utf8(env, value, NULL, 0, &bytes) != napi_ok)
		return NULL;
	result = malloc(bytes + 1);
	if (result && napi_get_value_string_utf8(env, value, result, bytes + 1, &bytes) == napi_ok && strlen(result) == bytes)
		return result;
	free(result);
	return NULL;
}

static struct handle *read_handle(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
}

// ---- SEQPACKET handles

static void free_if_unowned(struct handle *handle)
{
	if (handle->finalized && handle->closed)
		free(handle);
}

static void close_handle(struct handle *handle)
{
	if (handle->callback)
		napi_delete_reference(handle->env, handle->callback);
	handle->callback = NULL;
	seqpacket_close(&handle->socket);
}

static void on_closed(struct seqpacket *socket)
{
	struct handle *handle = (struct handle *)socket;

	napi_remove_async_cleanup_hook(handle->cleanup);
	handle->closed = true;
	free_if_unowned(handle);
}

static void on_environment_exit(napi_async_cleanup_hook_handle hook, void *data)
{
	(void)hook;
	close_handle(data);
}

static void on_finalized(napi_env env, void *data, void *hint)
{
	struct handle *handle = data;

	(void)env;
	(void)hint;
	handle->finalized = true;
	if (!handle->closed)
		close_handle(handle);
	else
		free_if_unowned(handle);
}

// Calls the handle's callback; true if it was called, whatever came of it. An exception goes where those of timers
// and sockets go: uncaughtException.
static bool emit(struct handle *handle, enum event event, size_t count, const napi_value *values)
{
	napi_env env = handle->env;
	napi_value global, callback, error, arguments[4];
	napi_status status;
	bool pending = false;

	if (!handle->callback || napi_get_reference_value(env, handle->callback, &callback) != napi_ok || !callback ||
	    napi_get_global(env, &global) != napi_ok)
		return false;
	arguments[0] = number(env, event);
	for (size_t i = 0; i < count; i++)
		arguments[i + 1] = values[i];
	status = napi_make_callback(env, NULL, global, callback, count + 1, arguments, NULL);
	if (status == napi_ok)
		return true;
	napi_is_exception_pending(env, &pending);
	if (pending && napi_get_and_clear_last_exception(env, &error) == napi_ok)
		napi_fatal_exception(env, error);
	return pending || status == napi_pending_exception;
}

static int create_handle(napi_env env, int fd, const struct seqpacket_config *config, napi_value *result);

static void on_connection(struct seqpacket *listener, int fd)
{
	struct handle *handle = (struct handle *)listener;
	struct seqpacket_config config = { .max_packet_bytes = handle->max_packet_bytes, .max_fds = listener->max_fds };
	napi_handle_scope scope;
	napi_value connection;
	int result;

	if (napi_open_handle_scope(handle->env, &scope) != napi_ok) {
		close(fd);
		return;
	}
	result = create_handle(handle->env, fd, &config, &connection);
	if (result < 0) {
		napi_value failure[2] = { number(handle->env, result), NULL };

		napi_create_string_utf8(handle->env, "uv_poll_init", NAPI_AUTO_LENGTH, &failure[1]);
		emit(handle, EVENT_ERROR, 2, failure);
	} else {
		// If nobody takes it, the collector finds it and closes it.
		emit(handle, EVENT_CONNECTION, 1, &connection);
	}
	napi_close_handle_scope(handle->env, scope);
}

static napi_value bytes_value(napi_env env, const uint8_t *data, size_t bytes)
{
	napi_value buffer, result;
	void *copy = NULL;

	if (napi_create_arraybuffer(env, bytes, &copy, &buffer) != napi_ok)
		return NULL;
	if (bytes > 0)
		memcpy(copy, data, bytes);
	return napi_create_typedarray(env, napi_uint8_array, bytes, buffer, 0, &result) == napi_ok ? result : NULL;
}

static napi_value fds_value(napi_env env, const int *fds, size_t count)
{
	napi_value result;

	if (napi_create_array_with_length(env, count, &result) != napi_ok)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		if (napi_set_element(env, result, (uint32_t)i, number(env, fds[i])) != napi_ok)
			return NULL;
	}
	return result;
}

static void on_packet(struct seqpacket *socket, const struct seqpacket_packet *packet)
{
	struct handle *handle = (struct handle *)socket;
	napi_env env = handle->env;
	napi_handle_scope scope;
	bool handed_over = false;
	int flags = (packet->truncated ? PACKET_TRUNCATED : 0) | (packet->control_truncated ? PACKET_CONTROL_TRUNCATED : 0);

	if (napi_open_handle_scope(env, &scope) == napi_ok) {
		napi_value values[3] = {
			bytes_value(env, packet->data, packet->bytes),
			number(env, flags),
			fds_value(env, packet->fds, packet->fd_count),
		};

		handed_over = values[0] && values[1] && values[2] && emit(handle, EVENT_PACKET, 3, values);
		napi_close_handle_scope(env, scope);
	}
	for (size_t i = 0; !handed_over && i < packet->fd_count; i++)
		close(packet->fds[i]);
}

static void emit_plain(struct seqpacket *socket, enum event event)
{
	struct handle *handle = (struct handle *)socket;
	napi_handle_scope scope;

	if (napi_open_handle_scope(handle->env, &scope) != napi_ok)
		return;
	emit(handle, event, 0, NULL);
	napi_close_handle_scope(handle->env, scope);
}

static void on_end(struct seqpacket *socket)
{
	emit_plain(socket, EVENT_END);
}

static void on_drain(struct seqpacket *socket)
{
	emit_plain(socket, EVENT_DRAIN);
}

static void on_error(struct seqpacket *socket, int error, const char *step)
{
	struct handle *handle = (struct handle *)socket;
	napi_handle_scope scope;

	if (napi_open_handle_scope(handle->env, &scope) != napi_ok)
		return;
	napi_value values[2] = { number(handle->env, error), NULL };
	if (napi_create_string_utf8(handle->env, step, NAPI_AUTO_LENGTH, &values[1]) == napi_ok)
		emit(handle, EVENT_ERROR, 2, values);
	napi_close_handle_scope(handle->env, scope);
}

static const struct seqpacket_events handle_events = {
	.connection = on_connection,
	.packet = on_packet,
	.end = on_end,
	.error = on_error,
	.drain = on_drain,
	.closed = on_closed,
};

// Takes the descriptor, also when it fails.
static int create_handle(napi_env env, int fd, const struct seqpacket_config *config, napi_value *result)
{
	struct handle *handle = calloc(1, sizeof(*handle));
	uv_loop_t *loop;
	int error;

	if (!handle || napi_get_uv_event_loop(env, &loop) != napi_ok) {
		free(handle);
		close(fd);
		return -ENOMEM;
	}
	handle->env = env;
	handle->max_packet_bytes = config->max_packet_bytes;
	error = seqpacket_open(&handle->socket, loop, fd, config, &handle_events);
	if (error < 0) {
		free(handle);
		return error;
	}
	if (napi_add_async_cleanup_hook(env, on_environment_exit, handle, &handle->cleanup) != napi_ok ||
	    napi_create_external(env, handle, on_finalized, NULL, result) != napi_ok) {
		handle->finalized = true;
		seqpacket_close(&handle->socket);
		return -ENOMEM;
	}
	return 0;
}

// listen(path, backlog, mode, maxPacketBytes, maxFds) -> handle
static napi_value js_listen(napi_env env, napi_callback_info info)
{
	napi_value arguments[5], result;
	int32_t backlog;
	uint32_t mode, max_packet_bytes, max_fds;
	const char *step = "uv_poll_init";
	char *path;

	if (!read_arguments(env, info, 5, arguments) || napi_get_value_int32(env, arguments[1], &backlog) != napi_ok ||
	    napi_get_value_uint32(env, arguments[2], &mode) != napi_ok ||
	    napi_get_value_uint32(env, arguments[3], &max_packet_bytes) != napi_ok || max_packet_bytes == 0 ||
	    napi_get_value_uint32(env, arguments[4], &max_fds) != napi_ok || max_fds > SEQPACKET_MAX_FDS ||
	    !(path = read_string(env, arguments[0])))
		return wrong_arguments(env);
	int fd = seqpacket_listen(path, backlog, (mode_t)mode, &step);
	free(path);
	if (fd < 0)
		return fail(env, fd, step);
	struct seqpacket_config config = { .listening = true, .max_packet_bytes = max_packet_bytes, .max_fds = max_fds };
	int error = create_handle(env, fd, &config, &result);
	return error < 0 ? fail(env, error, "uv_poll_init") : result;
}

// connect(path, maxPacketBytes, maxFds) -> handle
static napi_value js_connect(napi_env env, napi_callback_info info)
{
	napi_value arguments[3], result;
	uint32_t max_packet_bytes, max_fds;
	const char *step;
	char *path;

	if (!read_arguments(env, info, 3, arguments) ||
	    napi_get_value_uint32(env, arguments[1], &max_packet_bytes) != napi_ok || max_packet_bytes == 0 ||
	    napi_get_value_uint32(env, arguments[2], &max_fds) != napi_ok || max_fds > SEQPACKET_MAX_FDS ||
	    !(path = read_string(env, arguments[0])))
		return wrong_arguments(env);
	int fd = seqpacket_connect(path, &step);
	free(path);
	if (fd < 0)
		return fail(env, fd, step);
	struct seqpacket_config config = { .max_packet_bytes = max_packet_bytes, .max_fds = max_fds };
	int error = create_handle(env, fd, &config, &result);
	return error < 0 ? fail(env, error, "uv_poll_init") : result;
}

// start(handle, callback(event, …)): from now on events are delivered
static napi_value js_start(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct handle *handle;
	napi_valuetype type;

	if (!read_arguments(env, info, 2, arguments) || !(handle = read_handle(env, arguments[0])) ||
	    napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_function || handle->callback ||
	    handle->socket.closing || napi_create_reference(env, arguments[1], 1, &handle->callback) != napi_ok)
		return wrong_arguments(env);
	int error = seqpacket_start(&handle->socket);
	return error < 0 ? fail(env, error, "uv_poll_start") : NULL;
}

// send(handle, data, fd or -1) -> true: sent, false: would block
static napi_value js_send(napi_env env, napi_callback_info info)
{
	napi_value arguments[3];
	struct handle *handle;
	uint8_t *data;
	size_t bytes;
	int32_t fd;

	if (!read_arguments(env, info, 3, arguments) || !(handle = read_handle(env, arguments[0])) ||
	    !read_bytes(env, arguments[1], &data, &bytes) || napi_get_value_int32(env, arguments[2], &fd) != napi_ok ||
	    handle->socket.listening)
		return wrong_arguments(env);
	int result = seqpacket_send(&handle->socket, data, bytes, fd);
	return result < 0 ? fail(env, result, "sendmsg") : boolean(env, result == 1);
}

// peer(handle) -> [pid, uid, gid]
static napi_value js_peer(napi_env env, napi_callback_info info)
{
	napi_value argument, result;
	struct handle *handle;
	pid_t pid;
	uid_t uid;
	gid_t gid;

	if (!read_arguments(env, info, 1, &argument) || !(handle = read_handle(env, argument)))
		return wrong_arguments(env);
	int error = seqpacket_peer(&handle->socket, &pid, &uid, &gid);
	if (error < 0)
		return fail(env, error, "getsockopt");
	if (napi_create_array_with_length(env, 3, &result) != napi_ok)
		return NULL;
	napi_set_element(env, result, 0, number(env, pid));
	napi_set_element(env, result, 1, number(env, uid));
	napi_set_element(env, result, 2, number(env, gid));
	return result;
}

static bool read_switch(napi_env env, napi_callback_info info, struct handle **handle, bool *on)
{
	napi_value arguments[2];

	return read_arguments(env, info, 2, arguments) && (*handle = read_handle(env, arguments[0])) != NULL &&
	       napi_get_value_bool(env, arguments[1], on) == napi_ok;
}

// setReading(handle, on)
static napi_value js_set_reading(napi_env env, napi_callback_info info)
{
	struct handle *handle;
	bool on;

	if (!read_switch(env, info, &handle, &on))
		return wrong_arguments(env);
	int error = seqpacket_set_reading(&handle->socket, on);
	return error < 0 ? fail(env, error, "uv_poll_start") : NULL;
}

// setRef(handle, on): whether the handle keeps the process alive
static napi_value js_set_ref(napi_env env, napi_callback_info info)
{
	struct handle *handle;
	bool on;

	if (!read_switch(env, info, &handle, &on))
		return wrong_arguments(env);
	if (!handle->socket.closing && on)
		uv_ref((uv_handle_t *)&handle->socket.poll);
	else if (!handle->socket.closing)
		uv_unref((uv_handle_t *)&handle->socket.poll);
	return NULL;
}

// close(handle): idempotent
static napi_value js_close(napi_env env, napi_callback_info info)
{
	napi_value argument;
	struct handle *handle;

	if (!read_arguments(env, info, 1, &argument) || !(handle = read_handle(env, argument)))
		return wrong_arguments(env);
	close_handle(handle);
	return NULL;
}

// ---- Work in a namespace

// socketInNetns(netnsFd, family 4 or 6, stream, address or null, port, flags, mark, backlog) -> fd
static napi_value js_socket_in_netns(napi_env env, napi_callback_info info)
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

// A job that runs beside the event loop and settles a promise. The first member of what belongs to one function.
struct job {
	napi_async_work work;
	napi_deferred deferred;
	int netns_fd;
	int result;
	const char *step;
	int (*run)(struct job *job);
	napi_value (*value)(napi_env env, struct job *job); // NULL: no memory
	void (*free)(struct job *job);
};

static void free_job(struct job *job)
{
	if (job->netns_fd >= 0)
		close(job->netns_fd);
	job->free(job);
}

static void run_job(napi_env env, void *data)
{
	struct job *job = data;

	(void)env;
	job->result = job->run(job);
}

static void finish_job(napi_env env, napi_status status, void *data)
{
	struct job *job = data;
	napi_handle_scope scope;

	// Without a scope the environment is on its way out and nobody waits for the promise.
	if (napi_open_handle_scope(env, &scope) == napi_ok) {
		napi_value value = NULL;
		int error = status == napi_ok ? job->result : -ECANCELED;

		if (error == 0 && !(value = job->value(env, job)))
			error = -ENOMEM;
		if (error == 0)
			napi_resolve_deferred(env, job->deferred, value);
		else
			napi_reject_deferred(env, job->deferred, failure_value(env, error, job->step));
		napi_close_handle_scope(env, scope);
	}
	napi_delete_async_work(env, job->work);
	free_job(job);
}

// Takes the job, also when it fails.
static napi_value queue_job(napi_env env, struct job *job, const char *name)
{
	napi_value label, promise;

	job->step = "napi_queue_async_work";
	if (napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &label) != napi_ok ||
	    napi_create_promise(env, &job->deferred, &promise) != napi_ok ||
	    napi_create_async_work(env, NULL, label, run_job, finish_job, job, &job->work) != napi_ok) {
		free_job(job);
		return fail(env, -ENOMEM, "napi_create_async_work");
	}
	if (napi_queue_async_work(env, job->work) != napi_ok) {
		napi_delete_async_work(env, job->work);
		free_job(job);
		return fail(env, -ENOMEM, "napi_queue_async_work");
	}
	return promise;
}

// As queue_job, with a descriptor of its own: the caller may close its, and the number be used again, before the work begins.
static napi_value start_job(napi_env env, struct job *job, int netns_fd, const char *name)
{
	job->netns_fd = fcntl(netns_fd, F_DUPFD_CLOEXEC, 0);
	if (job->netns_fd < 0) {
		int error = -errno;

		free_job(job);
		return fail(env, error, "fcntl");
	}
	return queue_job(env, job, name);
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
static napi_value js_netlink_in_netns(napi_env env, napi_callback_info info)
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

static int run_xtables(struct job *job)
{
	return netns_xtables(job->netns_fd, &((struct xtables_job *)job)->list, &job->step);
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

// xtablesInNetns(netnsFd, names, onlyExisting, maxBytes) -> Promise<(Uint8Array | undefined | [errno, step])[]>. Names are one a line,
// each behind the digit of its family, and before tabs with the names of chains of which the share is wanted. Struct ipt_getinfo, then
// the entries unless they are more than maxBytes; undefined: only existing ones were asked for, and this one is not there.
static napi_value js_xtables_in_netns(napi_env env, napi_callback_info info)
{
	struct xtables_read like = { 0 };
	napi_value arguments[4];
	int32_t netns_fd;
	char *names;

	if (!read_arguments(env, info, 4, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_bool(env, arguments[2], &like.only_existing) != napi_ok ||
	    napi_get_value_uint32(env, arguments[3], &like.max_bytes) != napi_ok || !(names = read_string(env, arguments[1])))
		return wrong_arguments(env);
	struct xtables_job *xtables = calloc(1, sizeof(*xtables));
	if (!xtables) {
		free(names);
		return fail(env, -ENOMEM, "malloc");
	}
	xtables->list.names = names;
	int result = read_table_names(&like, &xtables->list);
	if (result < 0) {
		free_xtables(&xtables->job);
		return fail(env, result, result == -ENOMEM ? "malloc" : "getsockopt");
	}
	xtables->job.run = run_xtables;
	xtables->job.value = tables_value;
	xtables->job.free = free_xtables;
	return start_job(env, &xtables->job, netns_fd, "xtablesInNetns");
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
static napi_value js_make_netns(napi_env env, napi_callback_info info)
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

static napi_value init(napi_env env, napi_value exports)
{
	const napi_property_descriptor functions[] = {
#define FUNCTION(name, function) { name, NULL, function, NULL, NULL, NULL, napi_enumerable, NULL }
		FUNCTION("listen", js_listen),
		FUNCTION("connect", js_connect),
		FUNCTION("start", js_start),
		FUNCTION("send", js_send),
		FUNCTION("peer", js_peer),
		FUNCTION("setReading", js_set_reading),
		FUNCTION("setRef", js_set_ref),
		FUNCTION("close", js_close),
		FUNCTION("makeNetns", js_make_netns),
		FUNCTION("socketInNetns", js_socket_in_netns),
		FUNCTION("netlinkInNetns", js_netlink_in_netns),
		FUNCTION("xtablesInNetns", js_xtables_in_netns),
#undef FUNCTION
	};

	return napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions) == napi_ok ? exports
														     : NULL;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
