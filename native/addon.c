// SPDX-License-Identifier: Apache-2.0
// The addon as JavaScript sees it. Converts arguments and results and nothing else; src/linux/native.ts is its only caller.
#include "binding.h"

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
		FUNCTION("namespaceOwner", js_namespace_owner),
		FUNCTION("isNetns", js_is_netns),
		FUNCTION("socketInNetns", js_socket_in_netns),
		FUNCTION("netlinkInNetns", js_netlink_in_netns),
		FUNCTION("xtablesInNetns", js_xtables_in_netns),
		FUNCTION("notifyInNetns", js_notify_in_netns),
		FUNCTION("notifyListen", js_notify_listen),
		FUNCTION("notifyClose", js_notify_close),
		FUNCTION("pollInNetns", js_poll_in_netns),
		FUNCTION("pollFrom", js_poll_from),
		FUNCTION("pollClose", js_poll_close),
		FUNCTION("watchTurns", js_watch_turns),
		FUNCTION("readTurns", js_read_turns),
#undef FUNCTION
	};

	if (!init_jobs(env))
		return NULL;
	return napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions) == napi_ok ? exports
														     : NULL;
}

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
