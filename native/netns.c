// SPDX-License-Identifier: Apache-2.0
// Sockets in network namespaces, and namespaces that are made.
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define STACK_BYTES (512 * 1024)

// Work on a thread that enters the namespace and ends there, while the caller waits.
struct errand {
	int netns_fd;
	const struct netns_socket *options;
	const char *step;
	int result;
};

static int set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_options(int fd, const struct netns_socket *options)
{
	bool six = options->family == AF_INET6;
	int result = 0;

	if (options->set_v6only)
		result = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, options->v6only);
	if (result == 0 && options->reuse_address)
		result = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (result == 0 && options->reuse_port)
		result = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (result == 0 && options->set_mark)
		result = set_option(fd, SOL_SOCKET, SO_MARK, (int)options->mark);
	if (result == 0 && options->transparent)
		result = six ? set_option(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
			     : set_option(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
	return result;
}

static int bind_socket(int fd, const struct netns_socket *options)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(options->port) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(options->port) };
	void *address = options->family == AF_INET6 ? (void *)&six.sin6_addr : (void *)&four.sin_addr;
	int result;

	if (options->address && inet_pton(options->family, options->address, address) != 1)
		return -EINVAL;
	if (options->family == AF_INET6)
		result = bind(fd, (struct sockaddr *)&six, sizeof(six));
	else
		result = bind(fd, (struct sockaddr *)&four, sizeof(four));
	return result < 0 ? -errno : 0;
}

static int open_socket_here(const struct netns_socket *options, const char **step)
{
	int fd, result;

	*step = "socket";
	fd = socket(options->family, options->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	*step = "setsockopt";
	result = set_options(fd, options);
	if (result < 0)
		goto fail;
	*step = "bind";
	result = options->bind ? bind_socket(fd, options) : 0;
	if (result < 0)
		goto fail;
	*step = "listen";
	if (options->backlog > 0 && listen(fd, options->backlog) < 0) {
		result = -errno;
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return result;
}

static void *enter_and_open(void *argument)
{
	struct errand *errand = argument;

	errand->step = "setns";
	if (setns(errand->netns_fd, CLONE_NEWNET) < 0)
		errand->result = -errno;
	else
		errand->result = open_socket_here(errand->options, &errand->step);
	return NULL;
}

int netns_open_socket(int netns_fd, const struct netns_socket *options, const char **step)
{
	struct errand errand = { .netns_fd = netns_fd, .options = options };
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	int error;

	*step = "pthread_create";
	error = pthread_attr_init(&attributes);
	if (error)
		return -error;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	// No handler of the process may run on a thread that lives in another network.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, enter_and_open, &errand);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error)
		return -error;
	pthread_join(thread, NULL);
	*step = errand.step;
	return errand.result;
}

int namespace_owner(int namespace_fd, const char **step)
{
	int fd = ioctl(namespace_fd, NS_GET_USERNS);

	*step = "ioctl";
	return fd < 0 ? -errno : fd;
}

int is_netns(int fd, const char **step)
{
	int type = ioctl(fd, NS_GET_NSTYPE);

	*step = "ioctl";
	return type < 0 ? -errno : type == CLONE_NEWNET;
}

int netns_finish(const char **step)
{
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, result;

	*step = "socket";
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*step = "ioctl";
	result = ioctl(fd, SIOCSIFFLAGS, &loopback) < 0 ? -1 : ioctl(fd, SIOCGSKNS);
	if (result < 0)
		result = -errno;
	close(fd);
	return result;
}
