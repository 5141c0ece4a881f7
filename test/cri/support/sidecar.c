// SPDX-License-Identifier: Apache-2.0
// The two programs of an injected pod that depend on its rules, as far as rules can tell them from the real ones.
// usage: sidecar check   what istio-validation does: connects to an address that nobody has, and must reach itself
//        sidecar proxy   relays what is led to it to where it was sent, and prints `WAY ADDRESS:PORT` for each connection
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter_ipv4.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Source: istio/istio tools/istio-iptables/pkg/constants (ports, 5 s, 126), tools/istio-iptables/pkg/validation (addresses, once a second).
#define OUTBOUND_PORT 15001
#define INBOUND_PORT 15006
#define STATUS_PORT 15021
#define PROBE_PORT 15002
#define PROBE_ADDRESS "127.0.0.6"
#define CHECK_MS 5000
#define PROBE_PAUSE_MS 1000
#define NO_RULES 126

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct sockaddr_in at(const char *address, int port)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, address, &name.sin_addr);
	return name;
}

static int listen_at(const char *address, int port)
{
	struct sockaddr_in name = at(address, port);
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 || listen(fd, 64) < 0) {
		perror("cannot listen");
		exit(1);
	}
	return fd;
}

// A connection from an address of our own; -1 where nobody takes it.
static int connect_from(const char *own, struct sockaddr_in peer)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in name = at(own, 0);

	if (bind(fd, (struct sockaddr *)&name, sizeof(name)) == 0 && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) == 0)
		return fd;
	close(fd);
	return -1;
}

// Where a connection was sent before rules led it to us.
static int original_of(int fd, struct sockaddr_in *name)
{
	socklen_t length = sizeof(*name);

	return getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, name, &length);
}

static int check(void)
{
	struct pollfd listeners[] = {
		{ .fd = listen_at("127.0.0.1", OUTBOUND_PORT), .events = POLLIN },
		{ .fd = listen_at("127.0.0.1", INBOUND_PORT), .events = POLLIN },
	};
	long end = now_ms() + CHECK_MS, next = now_ms();

	for (long now = next; now < end; now = now_ms()) {
		if (now >= next) {
			int probe = connect_from("127.0.0.1", at(PROBE_ADDRESS, PROBE_PORT));

			printf("probe: %s\n", probe < 0 ? strerror(errno) : "connected");
			if (probe >= 0)
				close(probe);
			next = now + PROBE_PAUSE_MS;
		}
		if (poll(listeners, 2, (next < end ? next : end) - now) <= 0)
			continue;
		for (int i = 0; i < 2; i++) {
			struct sockaddr_in name;
			int client = listeners[i].revents & POLLIN ? accept(listeners[i].fd, NULL, NULL) : -1;

			if (client < 0)
				continue;
			if (original_of(client, &name) == 0 && ntohs(name.sin_port) == PROBE_PORT)
				return 0;
			close(client);
		}
	}
	fprintf(stderr, "no redirect within %d ms\n", CHECK_MS);
	return NO_RULES;
}

static void relay(int client, int server)
{
	struct pollfd ends[] = { { .fd = client, .events = POLLIN }, { .fd = server, .events = POLLIN } };
	char buffer[16384];

	while (ends[0].fd >= 0 || ends[1].fd >= 0) {
		if (poll(ends, 2, -1) < 0)
			return;
		for (int i = 0; i < 2; i++) {
			int to = i == 0 ? server : client;
			ssize_t count;

			if (ends[i].fd < 0 || ends[i].revents == 0)
				continue;
			count = read(ends[i].fd, buffer, sizeof(buffer));
			if (count < 0)
				return;
			if (count == 0) {
				shutdown(to, SHUT_WR);
				ends[i].fd = -1;
			}
			for (ssize_t done = 0; done < count;) {
				ssize_t sent = write(to, buffer + done, count - done);

				if (sent < 0)
					return;
				done += sent;
			}
		}
	}
}

static void serve(int client, int port)
{
	struct sockaddr_in name;
	char text[INET_ADDRSTRLEN], request[4096];
	int server;

	if (port == STATUS_PORT) {
		static const char ready[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

		if (read(client, request, sizeof(request)) > 0 && write(client, ready, sizeof(ready) - 1) < 0)
			perror("cannot answer a probe");
		return;
	}
	if (original_of(client, &name) < 0 || ntohs(name.sin_port) == port) {
		puts("nobody's connection");
		return;
	}
	inet_ntop(AF_INET, &name.sin_addr, text, sizeof(text));
	printf("%s %s:%d\n", port == INBOUND_PORT ? "inbound" : "outbound", text, ntohs(name.sin_port));
	fflush(stdout);
	// as the real one: an address of its own, by which rules know that it was here
	server = connect_from(port == INBOUND_PORT ? "127.0.0.6" : "0.0.0.0", name);
	if (server >= 0)
		relay(client, server);
}

static int proxy(void)
{
	static const int ports[] = { OUTBOUND_PORT, INBOUND_PORT, STATUS_PORT };
	struct pollfd listeners[3];

	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 3; i++)
		listeners[i] = (struct pollfd){ .fd = listen_at("0.0.0.0", ports[i]), .events = POLLIN };
	for (;;) {
		if (poll(listeners, 3, -1) < 0)
			return 1;
		for (int i = 0; i < 3; i++) {
			int client = listeners[i].revents & POLLIN ? accept(listeners[i].fd, NULL, NULL) : -1;

			if (client < 0)
				continue;
			if (fork() == 0) {
				serve(client, ports[i]);
				_exit(0);
			}
			close(client);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "check") == 0)
		return check();
	if (argc == 2 && strcmp(argv[1], "proxy") == 0)
		return proxy();
	fprintf(stderr, "usage: sidecar check|proxy\n");
	return 2;
}
