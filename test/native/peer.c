// SPDX-License-Identifier: Apache-2.0
// A SEQPACKET client without the addon, for what the addon itself cannot do: several descriptors in one packet,
// another user's credentials. usage: peer PATH fds COUNT | peer PATH user UID GID | peer PATH hello
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_FDS 253

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void connect_to(int fd, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("connect");
}

static void send_fds(int fd, int count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
	} control = { 0 };
	struct iovec data = { .iov_base = "many", .iov_len = 4 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes };
	int fds[MAX_FDS];

	if (count < 1 || count > MAX_FDS)
		exit(2);
	for (int i = 0; i < count; i++)
		fds[i] = open("/dev/null", O_RDONLY);
	message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
	memcpy(CMSG_DATA(&control.align), fds, (size_t)count * sizeof(int));
	if (sendmsg(fd, &message, 0) < 0)
		die("sendmsg");
}

int main(int argc, char **argv)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	char answer[100];
	ssize_t bytes;

	if (argc < 3 || fd < 0)
		return 2;
	if (strcmp(argv[2], "user") == 0 && argc == 5) {
		if (setgid((gid_t)atoi(argv[4])) < 0 || setuid((uid_t)atoi(argv[3])) < 0)
			die("setuid");
	}
	connect_to(fd, argv[1]);
	if (strcmp(argv[2], "fds") == 0 && argc == 4)
		send_fds(fd, atoi(argv[3]));
	if (strcmp(argv[2], "hello") == 0 && send(fd, "hi", 2, 0) < 0)
		die("send");
	bytes = recv(fd, answer, sizeof(answer), 0);
	printf("%.*s\n", bytes > 0 ? (int)bytes : 0, answer);
	return 0;
}
