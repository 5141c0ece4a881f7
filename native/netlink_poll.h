// SPDX-License-Identifier: Apache-2.0
// The same question to the kernel again and again, where it announces nothing: on a thread of its own, which wakes nobody while the answer
// is the same, and keeps nobody waiting while the kernel has none.
#ifndef AMBIENT_NETLINK_POLL_H
#define AMBIENT_NETLINK_POLL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct netlink_poll;

// From the poll's thread.
struct netlink_poll_events {
	// Once, until netlink_poll_from() is called again: another answer came, or none. False: the context is gone, and
	// nothing is called any more.
	bool (*changed)(void *context);
	void (*closed)(void *context); // the last
};

// Takes the socket, also when it fails; copies the request. Asks nothing before netlink_poll_from(). 0 or -errno.
int netlink_poll_open(struct netlink_poll **poll, int fd, const uint8_t *request, size_t request_bytes, int every_ms,
		      const struct netlink_poll_events *events, void *context);

// Compares each answer from now on with this one, which is copied; the sockets that they came to make no difference. 0 or -errno.
int netlink_poll_from(struct netlink_poll *poll, const uint8_t *answer, size_t answer_bytes);

// Gives it back: it ends by itself, `closed` comes when it has.
void netlink_poll_close(struct netlink_poll *poll);

#endif
