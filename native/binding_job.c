// SPDX-License-Identifier: Apache-2.0
// Work beside the event loop, as a promise.
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

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

napi_value queue_job(napi_env env, struct job *job, const char *name)
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

napi_value start_job(napi_env env, struct job *job, int netns_fd, const char *name)
{
	job->netns_fd = fcntl(netns_fd, F_DUPFD_CLOEXEC, 0);
	if (job->netns_fd < 0) {
		int error = -errno;

		free_job(job);
		return fail(env, error, "fcntl");
	}
	return queue_job(env, job, name);
}
