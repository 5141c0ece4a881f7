// SPDX-License-Identifier: Apache-2.0
// The thread of a question that is asked again and again.
#include "netlink_poll.h"

#include "common.h"

#include <errno.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// A conversation takes 64 KiB of it.
#define STACK_BYTES (256 * 1024)
#define DEADLINE_MS 5000
#define MAX_ANSWER_BYTES (256 * 1024)

struct netlink_poll {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	int fd;
	uint8_t *request;
	size_t request_bytes;
	int every_ms;
	uint8_t *expected; // NULL: nothing is asked
	size_t expected_bytes;
	uint64_t round; // of netlink_poll_from()
	bool closing;
	const struct netlink_poll_events *events;
	void *context;
};

static void free_poll(struct netlink_poll *poll)
{
	if (poll->fd >= 0)
		close(poll->fd);
	free(poll->request);
	free(poll->expected);
	pthread_cond_destroy(&poll->wake);
	pthread_mutex_destroy(&poll->lock);
	free(poll);
}

// All but the numbers by which an answer finds its question, and its socket.
static bool is_same(const uint8_t *a, const uint8_t *b, size_t bytes)
{
	const size_t numbers = offsetof(struct nlmsghdr, nlmsg_seq), past_numbers = sizeof(struct nlmsghdr);

	for (size_t at = 0; at < bytes;) {
		struct nlmsghdr header;

		if (bytes - at < sizeof(header))
			return memcmp(a + at, b + at, bytes - at) == 0;
		memcpy(&header, a + at, sizeof(header));
		size_t end = at + NLMSG_ALIGN((size_t)header.nlmsg_len);
		// what an error quotes of the request has the numbers in it
		size_t compared = header.nlmsg_type == NLMSG_ERROR ? NLMSG_LENGTH(sizeof(int)) : header.nlmsg_len;
		if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > bytes - at)
			return false;
		if (memcmp(a + at, b + at, numbers) != 0 ||
		    (compared > past_numbers && memcmp(a + at + past_numbers, b + at + past_numbers, compared - past_numbers) != 0))
			return false;
		at = end;
	}
	return true;
}

// An answer that came after its deadline is not the next one's.
static void drain(int fd)
{
	char first;

	while (recv(fd, &first, sizeof(first), MSG_DONTWAIT | MSG_TRUNC) >= 0 || errno == EINTR || errno == ENOBUFS)
		;
}

// In the thread alone, with nothing locked: the kernel may take its time.
static void ask(struct netlink_poll *poll, struct netlink_exchange *exchange)
{
	drain(poll->fd);
	exchange->replies_bytes = 0;
	netlink_converse_on(poll->fd, exchange);
}

// With the lock held; gives it back meanwhile. Whether what began it is still so at the end.
static bool pause_for(struct netlink_poll *poll)
{
	uint64_t round = poll->round;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += poll->every_ms / 1000;
	until.tv_nsec += (long)(poll->every_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (!poll->closing && poll->round == round)
		if (pthread_cond_timedwait(&poll->wake, &poll->lock, &until) == ETIMEDOUT)
			break;
	return !poll->closing && poll->round == round;
}

static void *live(void *argument)
{
	struct netlink_poll *poll = argument;
	struct netlink_exchange exchange = {
		.deadline_ms = DEADLINE_MS,
		.enough_bytes = MAX_ANSWER_BYTES,
		.request = poll->request,
		.request_bytes = poll->request_bytes,
	};
	bool is_heard = true;

	pthread_mutex_lock(&poll->lock);
	while (!poll->closing) {
		if (!poll->expected) {
			pthread_cond_wait(&poll->wake, &poll->lock);
			continue;
		}
		if (!pause_for(poll))
			continue;
		uint64_t round = poll->round;
		pthread_mutex_unlock(&poll->lock);
		ask(poll, &exchange);
		pthread_mutex_lock(&poll->lock);
		if (poll->closing || poll->round != round ||
		    (exchange.result == 0 && exchange.replies_bytes == poll->expected_bytes &&
		     is_same(exchange.replies, poll->expected, poll->expected_bytes)))
			continue;
		free(poll->expected);
		poll->expected = NULL;
		pthread_mutex_unlock(&poll->lock);
		if (is_heard)
			is_heard = poll->events->changed(poll->context);
		pthread_mutex_lock(&poll->lock);
	}
	pthread_mutex_unlock(&poll->lock);
	if (is_heard)
		poll->events->closed(poll->context);
	free(exchange.replies);
	free_poll(poll);
	return NULL;
}

static int start_thread(struct netlink_poll *poll)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	int error = pthread_attr_init(&attributes);

	if (error)
		return -error;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, live, poll);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -error;
}

int netlink_poll_open(struct netlink_poll **result, int fd, const uint8_t *request, size_t request_bytes, int every_ms,
		      const struct netlink_poll_events *events, void *context)
{
	struct netlink_poll *poll = calloc(1, sizeof(*poll));
	pthread_condattr_t attributes;
	int error = -ENOMEM;

	if (!poll) {
		close(fd);
		return -ENOMEM;
	}
	pthread_mutex_init(&poll->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&poll->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	poll->fd = fd;
	poll->every_ms = every_ms;
	poll->events = events;
	poll->context = context;
	poll->request = malloc(request_bytes + 1);
	poll->request_bytes = request_bytes;
	if (poll->request) {
		memcpy(poll->request, request, request_bytes);
		error = start_thread(poll);
	}
	if (error < 0)
		free_poll(poll);
	else
		*result = poll;
	return error;
}

int netlink_poll_from(struct netlink_poll *poll, const uint8_t *answer, size_t answer_bytes)
{
	uint8_t *expected = malloc(answer_bytes + 1);

	if (!expected)
		return -ENOMEM;
	memcpy(expected, answer, answer_bytes);
	pthread_mutex_lock(&poll->lock);
	free(poll->expected);
	poll->expected = expected;
	poll->expected_bytes = answer_bytes;
	poll->round++;
	pthread_cond_signal(&poll->wake);
	pthread_mutex_unlock(&poll->lock);
	return 0;
}

void netlink_poll_close(struct netlink_poll *poll)
{
	pthread_mutex_lock(&poll->lock);
	poll->closing = true;
	pthread_cond_signal(&poll->wake);
	pthread_mutex_unlock(&poll->lock);
}
