// SPDX-License-Identifier: Apache-2.0
// SEQPACKET sockets by the path of a file: listening there, and connected to whoever does.
#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fill_address(struct sockaddr_un *address, const char *path)
{
	size_t bytes = strlen(path);

	// An empty path would make the kernel invent an abstract name.
	if (bytes == 0)
		return -EINVAL;
	if (bytes >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, bytes + 1);
	return 0;
}

static int open_socket(const char **step)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*step = "socket";
	return fd < 0 ? -errno : fd;
}

int seqpacket_listen(const char *path, int backlog, mode_t mode, const char **step)
{
	struct sockaddr_un address;
	int fd, result;

	*step = "bind";
	result = fill_address(&address, path);
	if (result < 0)
		return result;
	fd = open_socket(step);
	if (fd < 0)
		return fd;
	// bind(2) gives the file the mode of the unbound socket: no moment with another mode.
	*step = "fchmod";
	if (fchmod(fd, mode) < 0)
		goto fail;
	*step = "bind";
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		goto fail;
	*step = "listen";
	if (listen(fd, backlog) < 0) {
		result = -errno;
		// The file is ours alone by now; without a listener it would only be in the next bind's way.
		unlink(path);
		close(fd);
		return result;
	}
	return fd;
fail:
	result = -errno;
	close(fd);
	return result;
}

int seqpacket_connect(const char *path, const char **step)
{
	struct sockaddr_un address;
	int fd, result;

	*step = "connect";
	result = fill_address(&address, path);
	if (result < 0)
		return result;
	fd = open_socket(step);
	if (fd < 0)
		return fd;
	*step = "connect";
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		result = -errno;
		close(fd);
		return result;
	}
	return fd;
}
