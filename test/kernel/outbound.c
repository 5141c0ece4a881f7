// SPDX-License-Identifier: Apache-2.0
// A process of a pod that would send past ztunnel: tells what the kernel lets it do, and does it.
// usage: outbound hold [lowered]       tries, prints `mark=ok|EPERM packet=ok|EPERM`, holds until standard input ends;
//                                      lowered: with nothing in its effective set while it holds
//        outbound send WAY FROM TO MAC one datagram with the way's name to TO:53, or a connection to TO:7000
//        outbound listen               prints `udp NAME` or `tcp` for each that comes
#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ZTUNNEL_MARK 0x539
#define REPLY_MARK 0x111

// Makes everything permitted effective, or nothing.
static void set_effective(int everything)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		return;
	for (int i = 0; i < 2; i++)
		data[i].effective = everything ? data[i].permitted : 0;
	syscall(SYS_capset, &header, data);
}

static int set_mark(int fd, int mark)
{
	return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

static const char *verdict(int result)
{
	return result >= 0 ? "ok" : errno == EPERM ? "EPERM" : strerror(errno);
}

static int hold(int lowered)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char byte;

	set_effective(1);
	printf("mark=%s ", verdict(set_mark(socket(AF_INET, SOCK_DGRAM, 0), ZTUNNEL_MARK)));
	printf("packet=%s\n", verdict(socket(AF_PACKET, SOCK_RAW, 0)));
	fflush(stdout);
	if (lowered)
		set_effective(0);
	while (poll(&input, 1, -1) > 0 && read(0, &byte, 1) > 0)
		;
	return 0;
}

static uint16_t checksum(const void *data, size_t bytes)
{
	const uint8_t *at = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < bytes; i += 2)
		sum += (uint32_t)at[i] << 8 | at[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

// A whole frame on eth0, which meets no rule on its way out.
static int send_frame(const char *text, const char *from, const char *to, const char *mac)
{
	struct __attribute__((packed)) {
		struct ether_header ether;
		uint8_t ip[20];
		uint16_t udp[4];
		char text[16];
	} frame = { .ip = { 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17 } };
	struct sockaddr_ll place = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("eth0"), .sll_halen = 6 };
	size_t length = strlen(text);
	unsigned int byte[6];
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0 || length > sizeof(frame.text) ||
	    sscanf(mac, "%x:%x:%x:%x:%x:%x", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5]) != 6)
		return -1;
	for (int i = 0; i < 6; i++)
		frame.ether.ether_dhost[i] = place.sll_addr[i] = (uint8_t)byte[i];
	memcpy(frame.ether.ether_shost, "\x02\x00\x00\x00\x00\x01", 6);
	frame.ether.ether_type = htons(ETHERTYPE_IP);
	frame.ip[3] = (uint8_t)(28 + length);
	inet_pton(AF_INET, from, frame.ip + 12);
	inet_pton(AF_INET, to, frame.ip + 16);
	uint16_t sum = checksum(frame.ip, sizeof(frame.ip));
	memcpy(frame.ip + 10, &sum, sizeof(sum));
	frame.udp[0] = htons(40000);
	frame.udp[1] = htons(53);
	frame.udp[2] = htons((uint16_t)(8 + length));
	memcpy(frame.text, text, length);
	return sendto(fd, &frame, sizeof(frame) - sizeof(frame.text) + length, 0, (struct sockaddr *)&place,
		      sizeof(place)) < 0 ? -1 : 0;
}

static int send_one(const char *way, const char *from, const char *to, const char *mac)
{
	struct sockaddr_in place = { .sin_family = AF_INET };
	int is_stream = strncmp(way, "tcp", 3) == 0;
	int fd = socket(AF_INET, is_stream ? SOCK_STREAM : SOCK_DGRAM, 0);
	int result = 0;

	place.sin_port = htons(is_stream ? 7000 : 53);
	if (inet_pton(AF_INET, to, &place.sin_addr) != 1)
		return 2;
	if (strstr(way, "packet"))
		result = send_frame(way, from, to, mac);
	else {
		if (strstr(way, "mark"))
			result = set_mark(fd, ZTUNNEL_MARK);
		// the mark of ztunnel's replies leads to lo, but not a socket that is bound to the pod's device
		if (strstr(way, "reply"))
			result = set_mark(fd, REPLY_MARK) < 0 ? -1 : setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "eth0", 5);
		if (result == 0 && is_stream)
			result = connect(fd, (struct sockaddr *)&place, sizeof(place));
		else if (result == 0)
			result = sendto(fd, way, strlen(way), 0, (struct sockaddr *)&place, sizeof(place)) < 0 ? -1 : 0;
	}
	puts(verdict(result));
	return 0;
}

static int listen_here(void)
{
	struct sockaddr_in place = { .sin_family = AF_INET, .sin_port = htons(53) };
	struct pollfd wait[3] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN }, { .events = POLLIN } };
	char text[64];

	wait[1].fd = socket(AF_INET, SOCK_DGRAM, 0);
	wait[2].fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(wait[1].fd, (struct sockaddr *)&place, sizeof(place)) < 0)
		return 2;
	place.sin_port = htons(7000);
	if (bind(wait[2].fd, (struct sockaddr *)&place, sizeof(place)) < 0 || listen(wait[2].fd, 8) < 0)
		return 2;
	puts("listening");
	fflush(stdout);
	while (poll(wait, 3, -1) > 0 && !wait[0].revents) {
		if (wait[1].revents) {
			ssize_t bytes = recv(wait[1].fd, text, sizeof(text) - 1, 0);

			text[bytes < 0 ? 0 : bytes] = 0;
			printf("udp %s\n", text);
		}
		if (wait[2].revents) {
			close(accept(wait[2].fd, NULL, NULL));
			puts("tcp");
		}
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[1], "hold") == 0)
		return hold(argc > 2);
	if (argc == 6 && strcmp(argv[1], "send") == 0)
		return send_one(argv[2], argv[3], argv[4], argv[5]);
	if (argc == 2 && strcmp(argv[1], "listen") == 0)
		return listen_here();
	fprintf(stderr, "usage: outbound hold [lowered] | send WAY FROM TO MAC | listen\n");
	return 2;
}
