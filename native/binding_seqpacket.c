// SPDX-License-Identifier: Apache-2.0
// SEQPACKET sockets as handles in JavaScript: the functions that make, use and close them.
#include "binding_seqpacket.h"

#include <stdlib.h>

static struct handle *read_handle(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
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
