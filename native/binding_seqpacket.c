// SPDX-License-Identifier: Apache-2.0
// SEQPACKET sockets as handles in JavaScript, and what happens on them as events.
#include "binding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum event { EVENT_CONNECTION, EVENT_PACKET, EVENT_END, EVENT_ERROR, EVENT_DRAIN };
enum packet_flag { PACKET_TRUNCATED = 1, PACKET_CONTROL_TRUNCATED = 2 };// Owned by two: the JavaScript value (until finalized) and the event loop (until closed). A started handle keeps its
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

static struct handle *read_handle(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
}
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
	arguments[0] = number_value(env, event);
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
		napi_value failure[2] = { number_value(handle->env, result), NULL };

		napi_create_string_utf8(handle->env, "uv_poll_init", NAPI_AUTO_LENGTH, &failure[1]);
		emit(handle, EVENT_ERROR, 2, failure);
	} else {
		// If nobody takes it, the collector finds it and closes it.
		emit(handle, EVENT_CONNECTION, 1, &connection);
	}
	napi_close_handle_scope(handle->env, scope);
}

static napi_value fds_value(napi_env env, const int *fds, size_t count)
{
	napi_value result;

	if (napi_create_array_with_length(env, count, &result) != napi_ok)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		if (napi_set_element(env, result, (uint32_t)i, number_value(env, fds[i])) != napi_ok)
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
			number_value(env, flags),
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
	napi_value values[2] = { number_value(handle->env, error), NULL };
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
napi_value js_listen(napi_env env, napi_callback_info info)
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
		return throw_failure(env, fd, step);
	struct seqpacket_config config = { .listening = true, .max_packet_bytes = max_packet_bytes, .max_fds = max_fds };
	int error = create_handle(env, fd, &config, &result);
	return error < 0 ? throw_failure(env, error, "uv_poll_init") : result;
}

// connect(path, maxPacketBytes, maxFds) -> handle
napi_value js_connect(napi_env env, napi_callback_info info)
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
		return throw_failure(env, fd, step);
	struct seqpacket_config config = { .max_packet_bytes = max_packet_bytes, .max_fds = max_fds };
	int error = create_handle(env, fd, &config, &result);
	return error < 0 ? throw_failure(env, error, "uv_poll_init") : result;
}

// start(handle, callback(event, …)): from now on events are delivered
napi_value js_start(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct handle *handle;
	napi_valuetype type;

	if (!read_arguments(env, info, 2, arguments) || !(handle = read_handle(env, arguments[0])) ||
	    napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_function || handle->callback ||
	    handle->socket.closing || napi_create_reference(env, arguments[1], 1, &handle->callback) != napi_ok)
		return wrong_arguments(env);
	int error = seqpacket_start(&handle->socket);
	return error < 0 ? throw_failure(env, error, "uv_poll_start") : NULL;
}

// send(handle, data, fd or -1) -> true: sent, false: would block
napi_value js_send(napi_env env, napi_callback_info info)
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
	return result < 0 ? throw_failure(env, result, "sendmsg") : boolean_value(env, result == 1);
}

// peer(handle) -> [pid, uid, gid]
napi_value js_peer(napi_env env, napi_callback_info info)
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
		return throw_failure(env, error, "getsockopt");
	if (napi_create_array_with_length(env, 3, &result) != napi_ok)
		return NULL;
	napi_set_element(env, result, 0, number_value(env, pid));
	napi_set_element(env, result, 1, number_value(env, uid));
	napi_set_element(env, result, 2, number_value(env, gid));
	return result;
}

static bool read_switch(napi_env env, napi_callback_info info, struct handle **handle, bool *on)
{
	napi_value arguments[2];

	return read_arguments(env, info, 2, arguments) && (*handle = read_handle(env, arguments[0])) != NULL &&
	       napi_get_value_bool(env, arguments[1], on) == napi_ok;
}

// setReading(handle, on)
napi_value js_set_reading(napi_env env, napi_callback_info info)
{
	struct handle *handle;
	bool on;

	if (!read_switch(env, info, &handle, &on))
		return wrong_arguments(env);
	int error = seqpacket_set_reading(&handle->socket, on);
	return error < 0 ? throw_failure(env, error, "uv_poll_start") : NULL;
}

// setRef(handle, on): whether the handle keeps the process alive
napi_value js_set_ref(napi_env env, napi_callback_info info)
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
napi_value js_close(napi_env env, napi_callback_info info)
{
	napi_value argument;
	struct handle *handle;

	if (!read_arguments(env, info, 1, &argument) || !(handle = read_handle(env, argument)))
		return wrong_arguments(env);
	close_handle(handle);
	return NULL;
}
