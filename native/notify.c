// SPDX-License-Identifier: Apache-2.0
// What the kernel announces over netlink, as one event that is not repeated until somebody listens again: who floods a namespace costs
// others one wake-up, and itself what fits into a small queue.
#include "notify.h"

#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

// The kernel makes it the least that it gives; one announcement is queued however large it is. Source: linux net/core/sock.c,
// SOCK_MIN_RCVBUF; net/netlink/af_netlink.c, netlink_broadcast_deliver.
#define QUEUE_BYTES 1
// More announcements than such a queue can hold.
#define MAX_QUEUED 256

static int open_one(const struct notify_protocol *protocol, const char **step)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	int fd, result, on = 1, queue_bytes = QUEUE_BYTES;

	*step = "socket";
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol->protocol);
	if (fd < 0)
		return -errno;
	// What did not fit is no error: something else is queued then, and says the same.
	*step = "setsockopt";
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue_bytes, sizeof(queue_bytes)) < 0 ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on)) < 0)
		goto fail;
	*step = "bind";
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		goto fail;
	*step = "setsockopt";
	for (size_t i = 0; i < protocol->group_count; i++)
		if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &protocol->groups[i], sizeof(protocol->groups[i])) < 0)
			goto fail;
	return fd;
fail:
	result = -errno;
	close(fd);
	return result;
}

int notify_open(const struct notify_protocol *protocols, size_t count, int *fds, const char **step)
{
	for (size_t i = 0; i < count; i++) {
		fds[i] = open_one(&protocols[i], step);
		if (fds[i] < 0) {
			int error = fds[i];

			while (i > 0)
				close(fds[--i]);
			return error;
		}
	}
	return 0;
}

// Bounded: who announces faster than we read is heard of again at once.
static void drain(int fd)
{
	char first;

	for (int i = 0; i < MAX_QUEUED; i++)
		if (recv(fd, &first, sizeof(first), MSG_DONTWAIT | MSG_TRUNC) < 0 && errno != EINTR && errno != ENOBUFS)
			return;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct notify *notify = poll->data;

	(void)status;
	(void)events;
	for (size_t i = 0; i < notify->count; i++)
		uv_poll_stop(&notify->polls[i]);
	notify->events->heard(notify);
}

static void on_closed(uv_handle_t *handle)
{
	struct notify *notify = handle->data;

	if (--notify->open_count == 0)
		notify->events->closed(notify);
}

int notify_start(struct notify *notify, uv_loop_t *loop, const int *fds, size_t count, const struct notify_events *events)
{
	int result = 0;

	notify->events = events;
	notify->closing = false;
	notify->count = 0;
	notify->open_count = 0;
	for (size_t i = 0; i < count; i++) {
		if (result == 0)
			result = uv_poll_init(loop, &notify->polls[i], fds[i]);
		if (result < 0) {
			close(fds[i]);
			continue;
		}
		// What is only heard of keeps no process alive.
		uv_unref((uv_handle_t *)&notify->polls[i]);
		notify->polls[i].data = notify;
		notify->fds[i] = fds[i];
		notify->count++;
		notify->open_count++;
	}
	if (result < 0)
		notify_close(notify);
	return result;
}

int notify_listen(struct notify *notify)
{
	if (notify->closing)
		return -EBADF;
	for (size_t i = 0; i < notify->count; i++) {
		drain(notify->fds[i]);
		int result = uv_poll_start(&notify->polls[i], UV_READABLE, on_poll);
		if (result < 0)
			return result;
	}
	return 0;
}

void notify_close(struct notify *notify)
{
	if (notify->closing)
		return;
	notify->closing = true;
	for (size_t i = 0; i < notify->count; i++) {
		uv_close((uv_handle_t *)&notify->polls[i], on_closed);
		close(notify->fds[i]);
	}
}
