// SPDX-License-Identifier: Apache-2.0
// What happens on SEQPACKET sockets as events in JavaScript, and how long a handle lives.
#include "binding_seqpacket.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum event { EVENT_CONNECTION, EVENT_PACKET, EVENT_END, EVENT_ERROR, EVENT_DRAIN };
enum packet_flag { PACKET_TRUNCATED = 1, PACKET_CONTROL_TRUNCATED = 2 };

static void free_if_unowned(struct handle *handle)
{
	if (handle->finalized && handle->closed)
		free(handle);
}

void close_handle(struct handle *handle)
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

int create_handle(napi_env env, int fd, const struct seqpacket_config *config, napi_value *result)
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
