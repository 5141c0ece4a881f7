// SPDX-License-Identifier: Apache-2.0
// Visits of namespaces as promises.
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

// One for each environment: how visitors reach its event loop.
struct settler {
	napi_threadsafe_function function;
	size_t pending_count; // promises; while there are any, the event loop is kept up
};

static void free_job(struct job *job)
{
	if (job->visit.netns_fd >= 0)
		close(job->visit.netns_fd);
	job->free(job);
}

// From the visitor's thread. When the environment is on its way out, or gone, nobody waits for the promise.
static void visit_is_over(struct visit *visit)
{
	struct job *job = (struct job *)visit;
	napi_threadsafe_function function = job->function;

	if (napi_call_threadsafe_function(function, job, napi_tsfn_blocking) == napi_ok)
		napi_release_threadsafe_function(function, napi_tsfn_release);
	else
		free_job(job);
}

// Without an environment the queue is emptied because the environment ends.
static void settle(napi_env env, napi_value callback, void *context, void *data)
{
	struct settler *settler = context;
	struct job *job = data;
	napi_value value = NULL;
	int error = job->visit.result;

	(void)callback;
	if (!env) {
		free_job(job);
		return;
	}
	if (--settler->pending_count == 0)
		napi_unref_threadsafe_function(env, settler->function);
	if (error == 0 && !(value = job->value(env, job)))
		error = -ENOMEM;
	if (error == 0)
		napi_resolve_deferred(env, job->deferred, value);
	else
		napi_reject_deferred(env, job->deferred, failure_value(env, error, job->visit.step));
	free_job(job);
}

static void free_settler(napi_env env, void *data, void *hint)
{
	(void)env;
	(void)hint;
	free(data);
}

// What visits hold of the function they give back by themselves.
static void on_environment_exit(void *data)
{
	napi_release_threadsafe_function(((struct settler *)data)->function, napi_tsfn_release);
}

bool init_jobs(napi_env env)
{
	struct settler *settler = calloc(1, sizeof(*settler));
	napi_value name;

	if (!settler || napi_create_string_utf8(env, "ambient visits", NAPI_AUTO_LENGTH, &name) != napi_ok ||
	    napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, settler, free_settler, settler, settle,
					    &settler->function) != napi_ok) {
		free(settler);
		return false;
	}
	return napi_unref_threadsafe_function(env, settler->function) == napi_ok &&
	       napi_add_env_cleanup_hook(env, on_environment_exit, settler) == napi_ok &&
	       napi_set_instance_data(env, settler, NULL, NULL) == napi_ok;
}

napi_value queue_job(napi_env env, struct job *job)
{
	struct settler *settler = NULL;
	napi_value promise;
	int result;

	if (napi_get_instance_data(env, (void **)&settler) != napi_ok || !settler ||
	    napi_acquire_threadsafe_function(settler->function) != napi_ok) {
		free_job(job);
		return throw_failure(env, -ECANCELED, "napi_acquire_threadsafe_function");
	}
	if (napi_create_promise(env, &job->deferred, &promise) != napi_ok) {
		napi_release_threadsafe_function(settler->function, napi_tsfn_release);
		free_job(job);
		return throw_failure(env, -ENOMEM, "napi_create_promise");
	}
	job->function = settler->function;
	job->visit.done = visit_is_over;
	// before the visit can be over
	if (settler->pending_count++ == 0)
		napi_ref_threadsafe_function(env, settler->function);
	result = visit_netns(&job->visit);
	if (result < 0) {
		if (--settler->pending_count == 0)
			napi_unref_threadsafe_function(env, settler->function);
		napi_release_threadsafe_function(settler->function, napi_tsfn_release);
		napi_reject_deferred(env, job->deferred, failure_value(env, result, "pthread_create"));
		free_job(job);
	}
	return promise;
}

napi_value start_job(napi_env env, struct job *job, int netns_fd)
{
	job->visit.netns_fd = fcntl(netns_fd, F_DUPFD_CLOEXEC, 0);
	if (job->visit.netns_fd < 0) {
		int error = -errno;

		free_job(job);
		return throw_failure(env, error, "fcntl");
	}
	return queue_job(env, job);
}
