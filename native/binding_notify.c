// SPDX-License-Identifier: Apache-2.0
// Namespaces that are listened to, as handles in JavaScript.
#include "binding.h"
#include "notify.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

// Owned by two: the JavaScript value (until finalized) and the event loop (until closed). The callback does not keep it alive by itself:
// who listens holds the value.
struct listener {
	struct notify notify; // first: the core's callbacks get a pointer to it
	napi_env env;
	napi_ref callback;
	napi_async_cleanup_hook_handle cleanup;
	bool finalized;
	bool closed;
};

static void free_if_unowned(struct listener *listener)
{
	if (listener->finalized && listener->closed)
		free(listener);
}

static void close_listener(struct listener *listener)
{
	if (listener->callback)
		napi_delete_reference(listener->env, listener->callback);
	listener->callback = NULL;
	notify_close(&listener->notify);
}

static void on_closed(struct notify *notify)
{
	struct listener *listener = (struct listener *)notify;

	if (listener->cleanup)
		napi_remove_async_cleanup_hook(listener->cleanup);
	listener->closed = true;
	free_if_unowned(listener);
}

static void on_environment_exit(napi_async_cleanup_hook_handle hook, void *data)
{
	(void)hook;
	close_listener(data);
}

static void on_finalized(napi_env env, void *data, void *hint)
{
	struct listener *listener = data;

	(void)env;
	(void)hint;
	listener->finalized = true;
	if (listener->closed)
		free(listener);
	else
		close_listener(listener);
}

static void on_heard(struct notify *notify)
{
	struct listener *listener = (struct listener *)notify;
	napi_env env = listener->env;
	napi_handle_scope scope;
	napi_value global, callback, error;
	bool pending = false;

	if (napi_open_handle_scope(env, &scope) != napi_ok)
		return;
	if (listener->callback && napi_get_reference_value(env, listener->callback, &callback) == napi_ok && callback &&
	    napi_get_global(env, &global) == napi_ok &&
	    napi_make_callback(env, NULL, global, callback, 0, NULL, NULL) != napi_ok) {
		napi_is_exception_pending(env, &pending);
		if (pending && napi_get_and_clear_last_exception(env, &error) == napi_ok)
			napi_fatal_exception(env, error);
	}
	napi_close_handle_scope(env, scope);
}

static const struct notify_events listener_events = { .heard = on_heard, .closed = on_closed };

struct notify_job {
	struct job job; // first
	struct notify_protocol protocols[NOTIFY_SOCKETS];
	size_t count;
	int fds[NOTIFY_SOCKETS];
	bool opened;
};

static void free_notify(struct job *job)
{
	struct notify_job *notify = (struct notify_job *)job;

	for (size_t i = 0; notify->opened && i < notify->count; i++)
		close(notify->fds[i]);
	free(notify);
}

static int run_notify(struct visit *visit, const char **step)
{
	struct notify_job *notify = (struct notify_job *)visit;
	int result = notify_open(notify->protocols, notify->count, notify->fds, step);

	notify->opened = result == 0;
	return result;
}

static napi_value listener_value(napi_env env, struct job *job)
{
	struct notify_job *opened = (struct notify_job *)job;
	struct listener *listener = calloc(1, sizeof(*listener));
	napi_value result;
	uv_loop_t *loop;

	if (!listener || napi_get_uv_event_loop(env, &loop) != napi_ok) {
		free(listener);
		return NULL;
	}
	listener->env = env;
	opened->opened = false; // the listener's from here on
	if (notify_start(&listener->notify, loop, opened->fds, opened->count, &listener_events) < 0) {
		listener->finalized = true;
		if (listener->notify.open_count == 0)
			free(listener);
		return NULL;
	}
	if (napi_add_async_cleanup_hook(env, on_environment_exit, listener, &listener->cleanup) != napi_ok ||
	    napi_create_external(env, listener, on_finalized, NULL, &result) != napi_ok) {
		listener->finalized = true;
		notify_close(&listener->notify);
		return NULL;
	}
	return result;
}

static bool read_protocol(napi_env env, napi_value array, struct notify_protocol *protocol)
{
	napi_value value;
	uint32_t length;

	if (napi_get_array_length(env, array, &length) != napi_ok || length < 1 || length > 1 + NOTIFY_GROUPS ||
	    napi_get_element(env, array, 0, &value) != napi_ok ||
	    napi_get_value_int32(env, value, &protocol->protocol) != napi_ok)
		return false;
	for (uint32_t i = 1; i < length; i++)
		if (napi_get_element(env, array, i, &value) != napi_ok ||
		    napi_get_value_uint32(env, value, &protocol->groups[protocol->group_count++]) != napi_ok)
			return false;
	return true;
}

// notifyInNetns(netnsFd, [[protocol, group, …], …]) -> Promise<listener>, which hears nothing before listenAgain
napi_value js_notify_in_netns(napi_env env, napi_callback_info info)
{
	napi_value arguments[2], value;
	int32_t netns_fd;
	uint32_t length;

	if (!read_arguments(env, info, 2, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_array_length(env, arguments[1], &length) != napi_ok || length < 1 || length > NOTIFY_SOCKETS)
		return wrong_arguments(env);
	struct notify_job *notify = calloc(1, sizeof(*notify));
	if (!notify)
		return throw_failure(env, -ENOMEM, "malloc");
	notify->job.visit.run = run_notify;
	notify->job.value = listener_value;
	notify->job.free = free_notify;
	notify->count = length;
	for (uint32_t i = 0; i < length; i++) {
		if (napi_get_element(env, arguments[1], i, &value) != napi_ok || !read_protocol(env, value, &notify->protocols[i])) {
			free(notify);
			return wrong_arguments(env);
		}
	}
	return start_job(env, &notify->job, netns_fd);
}

static struct listener *read_listener(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
}

// notifyListen(listener, callback): forgets what was announced, and calls once when something is
napi_value js_notify_listen(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct listener *listener;
	napi_valuetype type;

	if (!read_arguments(env, info, 2, arguments) || !(listener = read_listener(env, arguments[0])) ||
	    napi_typeof(env, arguments[1], &type) != napi_ok || type != napi_function)
		return wrong_arguments(env);
	if (!listener->notify.closing && !listener->callback &&
	    napi_create_reference(env, arguments[1], 1, &listener->callback) != napi_ok)
		return wrong_arguments(env);
	int error = notify_listen(&listener->notify);
	return error < 0 ? throw_failure(env, error, "uv_poll_start") : NULL;
}

// notifyClose(listener): idempotent
napi_value js_notify_close(napi_env env, napi_callback_info info)
{
	napi_value argument;
	struct listener *listener;

	if (!read_arguments(env, info, 1, &argument) || !(listener = read_listener(env, argument)))
		return wrong_arguments(env);
	close_listener(listener);
	return NULL;
}
