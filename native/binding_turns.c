// SPDX-License-Identifier: Apache-2.0
// How long the turns of the event loop take, which is how late others may be. Unlike a timer it wakes nobody up.
#include "binding.h"

#include <stdlib.h>
#include <string.h>

// Four to an octave of nanoseconds: a quarter too long at most.
#define PER_OCTAVE 4
#define BUCKETS (64 * PER_OCTAVE)

struct turns {
	uv_prepare_t prepare; // first
	napi_async_cleanup_hook_handle cleanup;
	uint64_t last_ns;
	uint64_t idle_ns;
	uint64_t max_ns;
	uint64_t total;
	uint64_t counts[BUCKETS];
};

static size_t bucket_of(uint64_t ns)
{
	unsigned octave = ns < PER_OCTAVE ? 2 : 63 - (unsigned)__builtin_clzll(ns);

	return ns < PER_OCTAVE ? (size_t)ns : octave * PER_OCTAVE + ((ns >> (octave - 2)) & (PER_OCTAVE - 1));
}

// Its upper end.
static double bucket_ns(size_t bucket)
{
	size_t octave = bucket / PER_OCTAVE;

	return octave < 2 ? (double)bucket : (double)(bucket % PER_OCTAVE + PER_OCTAVE + 1) * (double)(1ULL << (octave - 2));
}

// Before the loop waits: what passed since it was here last, without the waiting, is a turn. Node has libuv count the waiting.
static void on_prepare(uv_prepare_t *prepare)
{
	struct turns *turns = (struct turns *)prepare;
	uint64_t now_ns = uv_hrtime(), idle_ns = uv_metrics_idle_time(prepare->loop);
	uint64_t passed_ns = now_ns - turns->last_ns, waited_ns = idle_ns - turns->idle_ns;
	uint64_t busy_ns = passed_ns > waited_ns ? passed_ns - waited_ns : 0;

	turns->last_ns = now_ns;
	turns->idle_ns = idle_ns;
	turns->counts[bucket_of(busy_ns)]++;
	turns->total++;
	if (busy_ns > turns->max_ns)
		turns->max_ns = busy_ns;
}

static void on_closed(uv_handle_t *handle)
{
	napi_remove_async_cleanup_hook(((struct turns *)handle)->cleanup);
	free(handle);
}

static void on_environment_exit(napi_async_cleanup_hook_handle hook, void *data)
{
	(void)hook;
	uv_close(data, on_closed);
}

static struct turns *read_turns(napi_env env, napi_value value)
{
	napi_valuetype type;
	void *result = NULL;

	if (napi_typeof(env, value, &type) != napi_ok || type != napi_external)
		return NULL;
	return napi_get_value_external(env, value, &result) == napi_ok ? result : NULL;
}

// watchTurns() -> handle, until the environment ends
napi_value js_watch_turns(napi_env env, napi_callback_info info)
{
	struct turns *turns = calloc(1, sizeof(*turns));
	napi_value result;
	uv_loop_t *loop;

	(void)info;
	if (!turns || napi_get_uv_event_loop(env, &loop) != napi_ok ||
	    napi_create_external(env, turns, NULL, NULL, &result) != napi_ok ||
	    napi_add_async_cleanup_hook(env, on_environment_exit, turns, &turns->cleanup) != napi_ok) {
		free(turns);
		return NULL;
	}
	uv_prepare_init(loop, &turns->prepare);
	uv_prepare_start(&turns->prepare, on_prepare);
	uv_unref((uv_handle_t *)&turns->prepare);
	turns->last_ns = uv_hrtime();
	turns->idle_ns = uv_metrics_idle_time(loop);
	return result;
}

static double quantile_ns(const struct turns *turns, double quantile)
{
	uint64_t left = (uint64_t)((double)turns->total * quantile);

	for (size_t i = 0; i < BUCKETS; i++) {
		if (left < turns->counts[i])
			return bucket_ns(i) < (double)turns->max_ns ? bucket_ns(i) : (double)turns->max_ns;
		left -= turns->counts[i];
	}
	return (double)turns->max_ns;
}

// readTurns(handle, forget) -> [p50, p99, longest] in ns of those since they were forgotten last
napi_value js_read_turns(napi_env env, napi_callback_info info)
{
	napi_value arguments[2], result, value;
	struct turns *turns;
	bool forget;

	if (!read_arguments(env, info, 2, arguments) || !(turns = read_turns(env, arguments[0])) ||
	    napi_get_value_bool(env, arguments[1], &forget) != napi_ok)
		return wrong_arguments(env);
	double read[3] = { quantile_ns(turns, 0.5), quantile_ns(turns, 0.99), (double)turns->max_ns };
	if (forget) {
		memset(turns->counts, 0, sizeof(turns->counts));
		turns->total = turns->max_ns = 0;
	}
	if (napi_create_array_with_length(env, 3, &result) != napi_ok)
		return NULL;
	for (uint32_t i = 0; i < 3; i++)
		if (napi_create_double(env, read[i], &value) != napi_ok || napi_set_element(env, result, i, value) != napi_ok)
			return NULL;
	return result;
}
