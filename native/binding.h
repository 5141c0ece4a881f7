// SPDX-License-Identifier: Apache-2.0
// What the parts of the addon's JavaScript side share: arguments read, results made, failures thrown.
#ifndef AMBIENT_BINDING_H
#define AMBIENT_BINDING_H

#define NAPI_VERSION 8
#include <node_api.h>

#include "common.h"
#include "visitor.h"

napi_value number_value(napi_env env, int64_t value);
napi_value boolean_value(napi_env env, bool value);
napi_value bytes_value(napi_env env, const uint8_t *data, size_t bytes); // a copy; NULL: no memory

// A failure is thrown (or rejected) as the array [-errno, name of the system call]; src/linux/native.ts makes the Error.
napi_value failure_value(napi_env env, int error, const char *step);
napi_value throw_failure(napi_env env, int error, const char *step);
napi_value wrong_arguments(napi_env env);

bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments);
bool read_bytes(napi_env env, napi_value value, uint8_t **data, size_t *bytes);
// A string without NUL inside, to be freed.
char *read_string(napi_env env, napi_value value);

// A visit that settles a promise. The first member of what belongs to one function, which sets `run` of the visit and what is below.
struct job {
	struct visit visit; // first
	napi_threadsafe_function function; // acquired for it
	napi_deferred deferred;
	napi_value (*value)(napi_env env, struct job *job); // NULL: no memory
	void (*free)(struct job *job);
};

bool init_jobs(napi_env env);
// A promise. Takes the job, also when it fails.
napi_value queue_job(napi_env env, struct job *job);
// As queue_job, with a descriptor of its own: the caller may close its, and the number be used again, before the work begins.
napi_value start_job(napi_env env, struct job *job, int netns_fd);

// The functions, each told where it is written.
napi_value js_listen(napi_env env, napi_callback_info info);
napi_value js_connect(napi_env env, napi_callback_info info);
napi_value js_start(napi_env env, napi_callback_info info);
napi_value js_send(napi_env env, napi_callback_info info);
napi_value js_peer(napi_env env, napi_callback_info info);
napi_value js_set_reading(napi_env env, napi_callback_info info);
napi_value js_set_ref(napi_env env, napi_callback_info info);
napi_value js_close(napi_env env, napi_callback_info info);
napi_value js_socket_in_netns(napi_env env, napi_callback_info info);
napi_value js_namespace_owner(napi_env env, napi_callback_info info);
napi_value js_is_netns(napi_env env, napi_callback_info info);
napi_value js_make_netns(napi_env env, napi_callback_info info);
napi_value js_netlink_in_netns(napi_env env, napi_callback_info info);
napi_value js_xtables_in_netns(napi_env env, napi_callback_info info);
napi_value js_notify_in_netns(napi_env env, napi_callback_info info);
napi_value js_notify_listen(napi_env env, napi_callback_info info);
napi_value js_notify_close(napi_env env, napi_callback_info info);
napi_value js_poll_in_netns(napi_env env, napi_callback_info info);
napi_value js_poll_from(napi_env env, napi_callback_info info);
napi_value js_poll_close(napi_env env, napi_callback_info info);
napi_value js_watch_turns(napi_env env, napi_callback_info info);
napi_value js_read_turns(napi_env env, napi_callback_info info);

#endif
