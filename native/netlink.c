// SPDX-License-Identifier: Apache-2.0
// Conversations with the kernel over netlink, inside a network namespace.
#include "common.h"

#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// The kernel fills at most 32 KiB with one part of a dump, however much more is asked for. Source: linux net/netlink/af_netlink.c,
// netlink_recvmsg, max_recvmsg_len.
#define DATAGRAM_BYTES (64 * 1024)
#define MAX_REPLY_BYTES (64 * 1024 * 1024)
#define RECEIVE_QUEUE_BYTES (4 * 1024 * 1024) // the default loses acks of a batch of some hundred messages
#define SEND_QUEUE_BYTES (1024 * 1024) // a batch goes out in one piece; the default holds some 400 rules

// A stretch of the request that is sent at once: one dump, or all messages up to the next dump. The kernel runs one
// dump per socket at a time, and a transaction must be in one piece.
struct group {
	const uint8_t *start;
	size_t bytes;
	size_t unanswered;
	bool dump;
	bool failed;
};

static struct nlmsghdr read_header(const uint8_t *at)
{
	struct nlmsghdr header;

	memcpy(&header, at, sizeof(header));
	return header;
}

// The bytes the message takes with its padding, or 0 if it is malformed. The last one may lack the padding.
static size_t message_bytes(const uint8_t *at, size_t left, struct nlmsghdr *header)
{
	if (left < sizeof(*header))
		return 0;
	*header = read_header(at);
	if (header->nlmsg_len < sizeof(*header) || header->nlmsg_len > left)
		return 0;
	size_t padded = NLMSG_ALIGN((size_t)header->nlmsg_len);
	return padded < left ? padded : left;
}

static bool is_dump(const struct nlmsghdr *header)
{
	return (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
}

static int next_group(const struct netlink_exchange *exchange, size_t offset, struct group *group)
{
	memset(group, 0, sizeof(*group));
	group->start = exchange->request + offset;
	for (size_t at = offset; at < exchange->request_bytes;) {
		struct nlmsghdr header;
		size_t bytes = message_bytes(exchange->request + at, exchange->request_bytes - at, &header);

		if (bytes == 0)
			return -EINVAL;
		if (is_dump(&header)) {
			if (group->bytes > 0)
				return 0;
			group->dump = true;
			group->unanswered = 1;
			group->bytes = bytes;
			return 0;
		}
		if (header.nlmsg_flags & NLM_F_ACK)
			group->unanswered++;
		group->bytes += bytes;
		at += bytes;
	}
	return 0;
}

static bool expects_answer(const struct group *group, uint32_t sequence)
{
	for (size_t at = 0; at < group->bytes;) {
		struct nlmsghdr header;
		size_t bytes = message_bytes(group->start + at, group->bytes - at, &header);

		if (bytes == 0)
			return false;
		if (header.nlmsg_seq == sequence && (group->dump || (header.nlmsg_flags & NLM_F_ACK)))
			return true;
		at += bytes;
	}
	return false;
}

static void note_answers(struct group *group, const uint8_t *datagram, size_t left)
{
	struct nlmsghdr header;
	size_t bytes;

	for (; left > 0 && (bytes = message_bytes(datagram, left, &header)) > 0; datagram += bytes, left -= bytes) {
		if (header.nlmsg_type == NLMSG_ERROR) {
			int error = 0;

			if (header.nlmsg_len >= NLMSG_LENGTH(sizeof(error)))
				memcpy(&error, datagram + NLMSG_HDRLEN, sizeof(error));
			if (error != 0)
				group->failed = true;
		} else if (header.nlmsg_type != NLMSG_DONE) {
			continue;
		}
		if (group->unanswered > 0 && expects_answer(group, header.nlmsg_seq))
			group->unanswered--;
	}
}

// Puts a datagram behind what was received before, each where messages may begin.
static int keep(struct netlink_exchange *exchange, const uint8_t *datagram, size_t bytes)
{
	size_t needed = exchange->replies_bytes + NLMSG_ALIGN(bytes);

	if (needed > MAX_REPLY_BYTES)
		return -EMSGSIZE;
	if (needed > exchange->replies_capacity) {
		size_t capacity = exchange->replies_capacity * 2 > needed ? exchange->replies_capacity * 2 : needed;
		uint8_t *grown = realloc(exchange->replies, capacity);

		if (!grown)
			return -ENOMEM;
		exchange->replies = grown;
		exchange->replies_capacity = capacity;
	}
	memcpy(exchange->replies + exchange->replies_bytes, datagram, bytes);
	memset(exchange->replies + exchange->replies_bytes + bytes, 0, NLMSG_ALIGN(bytes) - bytes);
	exchange->replies_bytes = needed;
	return 0;
}

// The bytes of one datagram of the kernel, kept and in `datagram`; 0 for one to be ignored; or -errno.
static ssize_t receive(int fd, struct netlink_exchange *exchange, uint8_t *datagram)
{
	struct sockaddr_nl sender;
	struct iovec part = { .iov_base = datagram, .iov_len = DATAGRAM_BYTES };
	struct msghdr message = { .msg_name = &sender, .msg_namelen = sizeof(sender), .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t bytes = recvmsg(fd, &message, MSG_DONTWAIT);

	if (bytes < 0)
		return -errno;
	if (message.msg_flags & MSG_TRUNC)
		return -EMSGSIZE;
	// A process in the namespace may send to this socket, too; only port 0 is the kernel.
	if (message.msg_namelen < sizeof(sender) || sender.nl_pid != 0)
		return 0;
	int result = keep(exchange, datagram, (size_t)bytes);
	return result < 0 ? result : bytes;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int wait_readable(int fd, int64_t deadline)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	int64_t left = deadline - now_ms();

	if (left <= 0)
		return -ETIMEDOUT;
	if (poll(&poll_fd, 1, (int)left) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

static bool has_enough(const struct netlink_exchange *exchange)
{
	return exchange->enough_bytes > 0 && exchange->replies_bytes >= exchange->enough_bytes;
}

static int receive_answers(int fd, struct netlink_exchange *exchange, struct group *group, int64_t deadline)
{
	uint8_t datagram[DATAGRAM_BYTES];

	// After the last ack of messages one look more: an answer that nobody asked to be acked may be queued.
	while (!has_enough(exchange) && (group->unanswered > 0 || !group->dump)) {
		ssize_t bytes = receive(fd, exchange, datagram);

		if (bytes == -EINTR)
			continue;
		if (bytes == -EAGAIN) {
			// The kernel answers before send returns. After a failure it may leave the other acks out, so
			// waiting for them would only reach the deadline.
			if (group->unanswered == 0 || group->failed)
				return 0;
			int result = wait_readable(fd, deadline);
			if (result < 0)
				return result;
			continue;
		}
		if (bytes < 0)
			return (int)bytes;
		if (bytes > 0)
			note_answers(group, datagram, (size_t)bytes);
		if (now_ms() > deadline)
			return -ETIMEDOUT;
	}
	return 0;
}

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

int netlink_open(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

	if (fd < 0)
		return -errno;
	// Each of these only makes answers better or safer; an older kernel without it still answers.
	set_option(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
	set_option(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
	if (set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_QUEUE_BYTES) < 0)
		set_option(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_QUEUE_BYTES);
	if (set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, SEND_QUEUE_BYTES) < 0)
		set_option(fd, SOL_SOCKET, SO_SNDBUF, SEND_QUEUE_BYTES);
	return fd;
}

static int converse(int fd, struct netlink_exchange *exchange)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int64_t deadline = now_ms() + exchange->deadline_ms;
	int result = 0;

	for (size_t offset = 0; offset < exchange->request_bytes && result == 0 && !has_enough(exchange);) {
		struct group group;

		exchange->step = "sendto";
		result = next_group(exchange, offset, &group);
		if (result < 0)
			break;
		if (sendto(fd, group.start, group.bytes, MSG_NOSIGNAL, (struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
			result = -errno;
			break;
		}
		exchange->step = "recvmsg";
		result = receive_answers(fd, exchange, &group, deadline);
		offset += group.bytes;
	}
	return result;
}

void netlink_converse_on(int fd, struct netlink_exchange *exchange)
{
	exchange->result = converse(fd, exchange);
}

void netlink_converse(struct netlink_exchange *exchange)
{
	int fd = netlink_open(exchange->protocol);

	exchange->step = "socket";
	exchange->result = fd < 0 ? fd : converse(fd, exchange);
	if (fd >= 0)
		close(fd);
}
