// SPDX-License-Identifier: Apache-2.0
// A SEQPACKET socket as a handle in JavaScript.
#ifndef AMBIENT_BINDING_SEQPACKET_H
#define AMBIENT_BINDING_SEQPACKET_H

#include "binding.h"

// Owned by two: the JavaScript value (until finalized) and the event loop (until closed). A started handle keeps its
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

// Takes the descriptor, also when it fails. 0, or -errno.
int create_handle(napi_env env, int fd, const struct seqpacket_config *config, napi_value *result);

// Idempotent.
void close_handle(struct handle *handle);

#endif
