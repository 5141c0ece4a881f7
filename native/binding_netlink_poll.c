// SPDX-License-Identifier: Apache-2.0
// Questions that are asked again and again, as handles in JavaScript.
#include "binding.h"
#include "netlink_poll.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What JavaScript holds. The poll's thread holds the function alone, as its context.
struct poll_handle {
	struct netlink_poll *poll; // NULL: closed
};

static void close_handle(void *data)
{
	struct poll_handle *handle = data;

	if (!handle->poll)
		return;
	netlink_poll_close(handle->poll);
	handle->poll = NULL;
}

static void on_finalized(napi_env env, void *data, void *hint)
{
	struct poll_handle *handle = data;

	(void)hint;
	close_handle(handle);
	napi_remove_env_cleanup_hook(env, close_handle, handle);
	free(handle);
}

// From the poll's thread. In an environment that is on its way out the failed call is the release.
static bool on_changed(void *context)
{
	return napi_call_threadsafe_function(context, NULL, napi_tsfn_nonblocking) == napi_ok;
}

static void on_closed(void *context)
{
	napi_release_threadsafe_function(context, napi_tsfn_release);
}

static const struct netlink_poll_events poll_events = { .changed = on_changed, .closed = on_closed };

struct poll_job {
	struct job job; // first
	int protocol;
	int every_ms;
	uint8_t *request;
	size_t request_bytes;
	int fd;
	napi_threadsafe_function function; // the thread's, once there is one
};

static void free_poll_job(struct job *job)
{
	struct poll_job *poll = (struct poll_job *)job;

	if (poll->fd >= 0)
		close(poll->fd);
	if (poll->function)
		napi_release_threadsafe_function(poll->function, napi_tsfn_release);
	free(poll->request);
	free(poll);
}

static int run_poll(struct visit *visit, const char **step)
{
	struct poll_job *poll = (struct poll_job *)visit;

	*step = "socket";
	poll->fd = netlink_open(poll->protocol);
	return poll->fd < 0 ? poll->fd : 0;
}

static napi_value poll_value(napi_env env, struct job *job)
{
	struct poll_job *opened = (struct poll_job *)job;
	struct poll_handle *handle = calloc(1, sizeof(*handle));
	napi_value result;
	int fd = opened->fd;

	if (!handle)
		return NULL;
	opened->fd = -1; // the poll's from here on
	if (netlink_poll_open(&handle->poll, fd, opened->request, opened->request_bytes, opened->every_ms, &poll_events,
			      opened->function) < 0) {
		free(handle);
		return NULL;
	}
	opened->function = NULL;
	if (napi_add_env_cleanup_hook(env, close_handle, handle) != napi_ok) {
		close_handle(handle);
		free(handle);
		return NULL;
	}
	if (napi_create_external(env, handle, on_finalized, NULL, &result) != napi_ok) {
		on_finalized(env, handle, NULL);
		return NULL;
	}
	return result;
}

// pollInNetns(netnsFd, protocol, request, everyMs, onchanged) -> Promise<handle>, which asks nothing before pollFrom
napi_value js_poll_in_netns(napi_env env, napi_callback_info info)
{
	napi_value arguments[5], name;
	napi_valuetype type;
	int32_t netns_fd;
	uint8_t *request;
	struct poll_job *poll = calloc(1, sizeof(*poll));

	if (!poll)
		return throw_failure(env, -ENOMEM, "malloc");
	poll->fd = -1;
	poll->job.visit.netns_fd = -1;
	if (!read_arguments(env, info, 5, arguments) || napi_get_value_int32(env, arguments[0], &netns_fd) != napi_ok ||
	    napi_get_value_int32(env, arguments[1], &poll->protocol) != napi_ok ||
	    !read_bytes(env, arguments[2], &request, &poll->request_bytes) ||
	    napi_get_value_int32(env, arguments[3], &poll->every_ms) != napi_ok || poll->every_ms <= 0 ||
	    napi_typeof(env, arguments[4], &type) != napi_ok || type != napi_function ||
	    !(poll->request = malloc(poll->request_bytes + 1)) ||
	    napi_create_string_utf8(env, "ambient poll", NAPI_AUTO_LENGTH, &name) != napi_ok ||
	    napi_create_threadsafe_function(env, arguments[4], NULL, name, 0, 1, NULL, NULL, NULL, NULL, &poll->function) !=
		    napi_ok) {
		free_poll_job(&poll->job);
		return wrong_arguments(env);
	}
	memcpy(poll->request, request, poll->request_bytes);
	// What is only asked again keeps no process alive.
	napi_unref_threadsafe_function(env, poll->function);
	poll->job.visit.run = run_poll;
	poll->job.value = poll_value;
	poll->job.free = free_poll_job;
	return start_job(env, &poll->job, netns_fd);
}

static struct poll_handle *read_handle(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
}

// pollFrom(handle, answer): asks again and again, and calls once when an answer is another one
napi_value js_poll_from(napi_env env, napi_callback_info info)
{
	napi_value arguments[2];
	struct poll_handle *handle;
	uint8_t *answer;
	size_t bytes;

	if (!read_arguments(env, info, 2, arguments) || !(handle = read_handle(env, arguments[0])) ||
	    !read_bytes(env, arguments[1], &answer, &bytes))
		return wrong_arguments(env);
	int error = handle->poll ? netlink_poll_from(handle->poll, answer, bytes) : -EBADF;
	return error < 0 ? throw_failure(env, error, "poll") : NULL;
}

// pollClose(handle): idempotent
napi_value js_poll_close(napi_env env, napi_callback_info info)
{
	napi_value argument;
	struct poll_handle *handle;

	if (!read_arguments(env, info, 1, &argument) || !(handle = read_handle(env, argument)))
		return wrong_arguments(env);
	close_handle(handle);
	return NULL;
}
