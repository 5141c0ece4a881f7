// SPDX-License-Identifier: Apache-2.0
// One exchange with the agent over its Unix socket.
#ifndef AMBIENT_AGENT_H
#define AMBIENT_AGENT_H

#include <sys/un.h>

#include "answer.h"

/* How an exchange ended, sorted by what to do next. */
enum agent_state {
	AGENT_ANSWERED, /* `answer` is complete (whatever its status) */
	AGENT_AWAY,     /* no connection, the error number says why */
	AGENT_BUSY,     /* it has so many connections waiting that the kernel takes no more */
	AGENT_DIED,     /* the connection ended before the answer did */
	AGENT_SILENT,   /* connected, and the deadline passed */
	AGENT_GARBAGE,  /* something else answered, see the fault of `answer` */
	AGENT_ISTIO,    /* istio-cni's agent has the socket, and has not taken the pod (yet) */
	AGENT_DONE,     /* istio-cni's agent has the socket: it has captured the pod, or knows it to be outside the mesh */
};

#define AGENT_SOCKET_NAME "pluginevent.sock"

/* The socket in `run_dir`; false: the path is longer than an address can be (107 bytes). */
bool agent_address(struct sockaddr_un *address, const char *run_dir);

/* How long an answer is waited for: until `deadline_ms`, or until `early_ms` if `gives_up` says so then. Both are times of the
 * monotonic clock. */
struct patience {
	int64_t deadline_ms, early_ms;
	bool (*gives_up)(const void *who);
	const void *who;
};

/* Sends head and body and reads the answer, also when not all could be sent. `*error` is an errno for AGENT_AWAY.
 * The socket is closed on return: nothing printed later can reach it, even if the runtime left 0, 1 or 2 closed. */
enum agent_state agent_exchange(const struct sockaddr_un *address, struct bytes head, struct bytes body,
				struct patience patience, struct answer *answer, int *error);

#endif
