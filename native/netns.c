// SPDX-License-Identifier: Apache-2.0
// Work inside a network namespace: the thread that each job has of its own, and sockets.
#include "common.h"
#include "netns.h"

#include <arpa/inet.h>
#include <errno.h>
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

static void *enter_and_run(void *argument)
{
	struct netns_job *job = argument;

	job->step = job->is_new ? "unshare" : "setns";
	if ((job->is_new ? unshare(CLONE_NEWNET) : setns(job->netns_fd, CLONE_NEWNET)) < 0)
		job->result = -errno;
	else
		job->result = job->run(job->argument, &job->step);
	return NULL;
}

int run_in_netns(struct netns_job *job, const char **step)
{
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
	error = pthread_create(&thread, &attributes, enter_and_run, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error)
		return -error;
	pthread_join(thread, NULL);
	*step = job->step;
	return job->result;
}

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

static int open_socket_here(void *argument, const char **step)
{
	const struct netns_socket *options = argument;
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

int netns_open_socket(int netns_fd, const struct netns_socket *options, const char **step)
{
	struct netns_job job = { .netns_fd = netns_fd, .run = open_socket_here, .argument = (void *)options };

	return run_in_netns(&job, step);
}

// The namespace of the thread with its loopback device up; nothing but the descriptor keeps it.
static int make_here(void *argument, const char **step)
{
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, result;

	(void)argument;
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

int netns_make(const char **step)
{
	struct netns_job job = { .is_new = true, .run = make_here };

	return run_in_netns(&job, step);
}
