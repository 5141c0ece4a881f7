// SPDX-License-Identifier: Apache-2.0
// Netlink sockets that hear what the kernel announces in one network namespace: that something of the kind happened, never what.
#ifndef AMBIENT_NOTIFY_H
#define AMBIENT_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define NOTIFY_SOCKETS 2 // protocols
#define NOTIFY_GROUPS 16 // of each

struct notify_protocol {
	int protocol;
	uint32_t groups[NOTIFY_GROUPS];
	size_t group_count;
};

// Opens one socket for each protocol in the thread's namespace, where they stay. All or none: 0, or -errno with the step that failed.
int notify_open(const struct notify_protocol *protocols, size_t count, int *fds, const char **step);

struct notify;

struct notify_events {
	void (*heard)(struct notify *notify);  // once, until notify_listen() is called again; may call notify_close()
	void (*closed)(struct notify *notify); // from the event loop: only then may the struct be freed
};

struct notify {
	uv_poll_t polls[NOTIFY_SOCKETS];
	int fds[NOTIFY_SOCKETS];
	size_t count;
	size_t open_count; // polls that are not closed yet
	const struct notify_events *events;
	bool closing;
};

// Takes the descriptors, also when it fails; nothing is heard before notify_listen(). After a failure `closed` comes all the same where
// `open_count` is over 0, and never where it is 0.
int notify_start(struct notify *notify, uv_loop_t *loop, const int *fds, size_t count, const struct notify_events *events);

// Forgets what was announced so far, and hears what comes from now on. 0 or -errno.
int notify_listen(struct notify *notify);

// Lets the namespace go at once. Idempotent.
void notify_close(struct notify *notify);

#endif
