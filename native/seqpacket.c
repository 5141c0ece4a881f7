// SPDX-License-Identifier: Apache-2.0
// SEQPACKET listeners and connections with descriptor passing, driven by a libuv poll handle.
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// A busy socket must not keep the rest of the loop waiting; the poll is level triggered and comes back.
#define MAX_EVENTS_PER_WAKEUP 64

static void on_poll(uv_poll_t *poll, int status, int events);

static int update_poll(struct seqpacket *socket)
{
	int events = 0;

	if (socket->closing || !socket->started)
		return 0;
	if (socket->reading && !socket->ended)
		events |= UV_READABLE;
	if (socket->draining)
		events |= UV_WRITABLE;
	return events ? uv_poll_start(&socket->poll, events, on_poll) : uv_poll_stop(&socket->poll);
}

static void fail_connection(struct seqpacket *socket, int error, const char *step)
{
	// The last word on this connection: nothing more is read or drained while the owner closes it.
	socket->ended = true;
	socket->draining = false;
	update_poll(socket);
	socket->events->error(socket, error, step);
}

static void accept_some(struct seqpacket *socket)
{
	for (int i = 0; i < MAX_EVENTS_PER_WAKEUP && socket->reading && !socket->closing; i++) {
		int fd = accept4(socket->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			socket->events->connection(socket, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		// EMFILE and its kin do not go away by trying: the poll would spin until the owner has made room.
		int error = -errno;
		socket->reading = false;
		update_poll(socket);
		socket->events->error(socket, error, "accept4");
		return;
	}
}

static size_t collect_fds(struct msghdr *message, int *fds, size_t capacity)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (count < capacity)
				fds[count++] = fd;
			else
				close(fd);
		}
	}
	return count;
}

// 1: a packet was handed over. 0: nothing to read now, or the connection is over.
static int read_packet(struct seqpacket *socket)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(SEQPACKET_MAX_FDS * sizeof(int))];
	} control;
	int fds[SEQPACKET_MAX_FDS];
	struct iovec data = { .iov_base = socket->buffer, .iov_len = socket->max_packet_bytes };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1 };
	ssize_t bytes;

	// CMSG_SPACE would round up and let one descriptor more through than was asked for.
	message.msg_control = control.bytes;
	message.msg_controllen = CMSG_LEN(socket->max_fds * sizeof(int));
	bytes = recvmsg(socket->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (bytes < 0) {
		// ECONNRESET: the peer left without reading all of ours. What it sent before is still queued.
		if (errno == EINTR || errno == ECONNRESET)
			return 1;
		if (errno != EAGAIN)
			fail_connection(socket, -errno, "recvmsg");
		return 0;
	}
	size_t count = collect_fds(&message, fds, SEQPACKET_MAX_FDS);
	if (bytes == 0) {
		// Also what an empty packet looks like; peers of ours never send one.
		for (size_t i = 0; i < count; i++)
			close(fds[i]);
		socket->ended = true;
		update_poll(socket);
		socket->events->end(socket);
		return 0;
	}
	struct seqpacket_packet packet = {
		.data = socket->buffer,
		.bytes = (size_t)bytes,
		.truncated = (message.msg_flags & MSG_TRUNC) != 0,
		.control_truncated = (message.msg_flags & MSG_CTRUNC) != 0,
		.fds = fds,
		.fd_count = count,
	};
	socket->events->packet(socket, &packet);
	return 1;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct seqpacket *socket = poll->data;

	if (status < 0) {
		// libuv reports EPOLLERR as EBADF and stops the poll. Reading SO_ERROR clears the condition; then whatever
		// the peer sent before it went is still delivered, followed by the end.
		int error = 0;
		socklen_t bytes = sizeof(error);

		if (getsockopt(socket->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) < 0)
			error = errno;
		int result = error == 0 || error == ECONNRESET ? update_poll(socket) : -error;
		if (result < 0)
			fail_connection(socket, result, "poll");
		return;
	}
	if (events & UV_WRITABLE) {
		socket->draining = false;
		update_poll(socket);
		socket->events->drain(socket);
	}
	if (!(events & UV_READABLE))
		return;
	if (socket->listening) {
		accept_some(socket);
		return;
	}
	for (int i = 0; i < MAX_EVENTS_PER_WAKEUP; i++) {
		if (socket->closing || socket->ended || !socket->reading || read_packet(socket) == 0)
			return;
	}
}

int seqpacket_open(struct seqpacket *socket, uv_loop_t *loop, int fd, const struct seqpacket_config *config,
		   const struct seqpacket_events *events)
{
	int result;

	memset(socket, 0, sizeof(*socket));
	socket->events = events;
	socket->fd = fd;
	socket->listening = config->listening;
	socket->reading = true;
	socket->max_packet_bytes = config->max_packet_bytes;
	socket->max_fds = config->max_fds;
	if (!config->listening) {
		socket->buffer = malloc(config->max_packet_bytes);
		if (!socket->buffer) {
			close(fd);
			return -ENOMEM;
		}
	}
	result = uv_poll_init(loop, &socket->poll, fd);
	if (result < 0) {
		free(socket->buffer);
		close(fd);
		return result;
	}
	socket->poll.data = socket;
	return 0;
}

int seqpacket_start(struct seqpacket *socket)
{
	socket->started = true;
	return update_poll(socket);
}

int seqpacket_set_reading(struct seqpacket *socket, bool on)
{
	socket->reading = on;
	return update_poll(socket);
}

int seqpacket_send(struct seqpacket *socket, const uint8_t *data, size_t bytes, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { .iov_base = (void *)data, .iov_len = bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (socket->closing)
		return -EPIPE;
	if (fd >= 0) {
		struct cmsghdr *c = &control.align;

		memset(&control, 0, sizeof(control));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
	}
	for (;;) {
		if (sendmsg(socket->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 1;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		socket->draining = true;
		return update_poll(socket);
	}
}

int seqpacket_peer(const struct seqpacket *socket, pid_t *pid, uid_t *uid, gid_t *gid)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	if (socket->closing)
		return -ENOTCONN;
	if (getsockopt(socket->fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
		return -errno;
	*pid = peer.pid;
	*uid = peer.uid;
	*gid = peer.gid;
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	struct seqpacket *socket = handle->data;

	free(socket->buffer);
	socket->buffer = NULL;
	socket->events->closed(socket);
}

void seqpacket_close(struct seqpacket *socket)
{
	if (socket->closing)
		return;
	socket->closing = true;
	uv_close((uv_handle_t *)&socket->poll, on_closed);
	// uv_close() has taken the descriptor out of the poll set, so the peer can see the end at once.
	close(socket->fd);
	socket->fd = -1;
}
