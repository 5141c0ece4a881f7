// SPDX-License-Identifier: Apache-2.0
// The connection to the agent.
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io.h"

bool agent_address(struct sockaddr_un *address, const char *run_dir)
{
	/* The zero at the end stays. */
	struct text path = { .at = address->sun_path, .cap = sizeof(address->sun_path) - 1 };

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	text_add(&path, run_dir);
	text_add(&path, "/" AGENT_SOCKET_NAME);
	return !path.cut;
}

/* Sends what the socket takes now; true while something is left that may still be taken. */
static bool send_some(int fd, struct iovec parts[2])
{
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	while (parts[0].iov_len + parts[1].iov_len > 0) {
		ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN;
		for (int i = 0; i < 2; i++) {
			size_t step = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;

			parts[i].iov_base = (char *)parts[i].iov_base + step;
			parts[i].iov_len -= step;
			sent -= (ssize_t)step;
		}
	}
	return false;
}

/* Whether the time is over; asks once whether it is earlier than the deadline. */
static bool is_over(struct patience *patience)
{
	int64_t now = now_ms();

	if (now >= patience->deadline_ms)
		return true;
	if (now < patience->early_ms)
		return false;
	patience->early_ms = patience->deadline_ms;
	return patience->gives_up(patience->who);
}

static enum agent_state exchange(int fd, struct iovec parts[2], struct patience patience, struct answer *answer)
{
	static unsigned char part[64 * 1024];
	bool sending = true;

	while (answer->state < ANSWER_COMPLETE) {
		int64_t until_ms = patience.early_ms < patience.deadline_ms ? patience.early_ms : patience.deadline_ms;
		ssize_t got;
		int ready;

		sending = sending && send_some(fd, parts);
		/* The agent may answer, or go, before it has read everything: listen while sending. */
		ready = wait_for(fd, sending ? POLLIN | POLLOUT : POLLIN, until_ms);
		if (ready == 0 && !is_over(&patience))
			continue;
		if (ready <= 0)
			return AGENT_SILENT;
		got = read(fd, part, sizeof(part));
		if (got > 0)
			answer_add(answer, (struct bytes){ part, (size_t)got });
		else if (got == 0 || (errno != EAGAIN && errno != EINTR))
			answer_end(answer);
		/* With something always there to be read poll() never says that the time is over. */
		if (answer->state < ANSWER_COMPLETE && is_over(&patience))
			return AGENT_SILENT;
	}
	return answer->state == ANSWER_COMPLETE ? AGENT_ANSWERED :
	       answer->state == ANSWER_CUT      ? AGENT_DIED :
						  AGENT_GARBAGE;
}

enum agent_state agent_exchange(const struct sockaddr_un *address, struct bytes head, struct bytes body,
				struct patience patience, struct answer *answer, int *error)
{
	struct iovec parts[2] = { { (void *)head.at, head.len }, { (void *)body.at, body.len } };
	enum agent_state state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		*error = errno;
		state = *error == EAGAIN ? AGENT_BUSY : AGENT_AWAY;
	} else {
		state = exchange(fd, parts, patience, answer);
	}
	if (fd >= 0)
		close(fd);
	return state;
}
