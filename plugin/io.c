// SPDX-License-Identifier: Apache-2.0
// Reading, writing and waiting.
#include "io.h"

#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_ms(int64_t ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (ms > 0 && nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

int wait_for(int fd, short events, int64_t deadline_ms)
{
	struct pollfd wanted = { .fd = fd, .events = events };

	for (;;) {
		int64_t left = deadline_ms - now_ms();
		int ready = poll(&wanted, 1, left > 0 ? (int)left : 0);

		if (ready >= 0)
			return ready;
		if (errno != EINTR)
			return -errno;
	}
}

int read_input(struct bytes *input, int64_t deadline_ms)
{
	/* One byte more than is taken tells that there was more. */
	static unsigned char buffer[MAX_INPUT_BYTES + 1];

	*input = (struct bytes){ buffer, 0 };
	for (;;) {
		int ready = wait_for(STDIN_FILENO, POLLIN, deadline_ms);
		ssize_t got;

		if (ready <= 0)
			return ready < 0 ? ready : -ETIMEDOUT;
		got = read(STDIN_FILENO, buffer + input->len, sizeof(buffer) - input->len);
		if (got < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (got == 0)
			return 0;
		input->len += got > 0 ? (size_t)got : 0;
		if (input->len > MAX_INPUT_BYTES)
			return -EFBIG;
	}
}

int write_all(int fd, struct bytes value)
{
	while (value.len > 0) {
		ssize_t put = write(fd, value.at, value.len);

		if (put < 0 && errno == EAGAIN) {
			struct pollfd wanted = { .fd = fd, .events = POLLOUT };

			/* The reader is the runtime, which ends us when it has waited enough. */
			poll(&wanted, 1, -1);
			continue;
		}
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		value.at += put;
		value.len -= (size_t)put;
	}
	return 0;
}

void write_note(struct bytes value)
{
	struct pollfd wanted = { .fd = STDERR_FILENO, .events = POLLOUT };

	/* A pipe that says it is writable takes PIPE_BUF (4096) bytes without a wait. */
	if (value.len > 4096)
		value.len = 4096;
	if (poll(&wanted, 1, 0) == 1 && write(STDERR_FILENO, value.at, value.len) < 0)
		return; /* nobody is left to be told */
}
