// SPDX-License-Identifier: Apache-2.0
// What the binding may ask of the core: SEQPACKET sockets on an event loop, and work inside a network namespace.
//
// Functions return 0 (or a descriptor) or -errno. Where there is a `step`, it then names the system call that failed.
#ifndef AMBIENT_COMMON_H
#define AMBIENT_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

// The kernel's own limit (SCM_MAX_FD, unix(7)): more descriptors cannot come with one packet.
#define SEQPACKET_MAX_FDS 253

struct seqpacket;

// Valid during the callback; the descriptors are the callee's from the first moment.
struct seqpacket_packet {
	const uint8_t *data;
	size_t bytes;
	bool truncated;
	bool control_truncated;
	const int *fds;
	size_t fd_count;
};

// Any of these may call seqpacket_close(). Nothing but `closed` is called after that, and `closed` always is, once,
// from the event loop: only then may the struct seqpacket be freed.
struct seqpacket_events {
	void (*connection)(struct seqpacket *listener, int fd); // fd is the callee's
	void (*packet)(struct seqpacket *connection, const struct seqpacket_packet *packet);
	void (*end)(struct seqpacket *connection);
	void (*error)(struct seqpacket *socket, int error, const char *step);
	void (*drain)(struct seqpacket *connection);
	void (*closed)(struct seqpacket *socket);
};

struct seqpacket {
	uv_poll_t poll;
	const struct seqpacket_events *events;
	int fd;
	bool listening;
	bool started;
	bool reading;
	bool draining;
	bool ended;
	bool closing;
	size_t max_packet_bytes;
	size_t max_fds;
	uint8_t *buffer;
};

struct seqpacket_config {
	bool listening;
	size_t max_packet_bytes;
	size_t max_fds;
};

int seqpacket_listen(const char *path, int backlog, mode_t mode, const char **step);
int seqpacket_connect(const char *path, const char **step);

// Takes the descriptor, also when it fails. Nothing happens on the socket before seqpacket_start().
int seqpacket_open(struct seqpacket *socket, uv_loop_t *loop, int fd, const struct seqpacket_config *config,
		   const struct seqpacket_events *events);
int seqpacket_start(struct seqpacket *socket);
int seqpacket_set_reading(struct seqpacket *connection, bool on);
// 1: sent. 0: would block, nothing was sent, `drain` follows. fd < 0: none.
int seqpacket_send(struct seqpacket *connection, const uint8_t *data, size_t bytes, int fd);
int seqpacket_peer(const struct seqpacket *connection, pid_t *pid, uid_t *uid, gid_t *gid);
void seqpacket_close(struct seqpacket *socket);

struct netns_socket {
	int family;
	int type;
	const char *address; // NULL: any
	uint16_t port;
	uint32_t mark;
	int backlog; // 0: do not listen
	bool bind;
	bool set_v6only;
	bool v6only;
	bool reuse_address;
	bool reuse_port;
	bool transparent;
	bool set_mark;
};

int netns_open_socket(int netns_fd, const struct netns_socket *options, const char **step);

// A descriptor of the user namespace that owns a namespace; of a user namespace, its parent. Source: ioctl_nsfs(2), NS_GET_USERNS.
int namespace_owner(int namespace_fd, const char **step);

// 1: a network namespace, 0: one of another kind. Source: ioctl_nsfs(2), NS_GET_NSTYPE.
int is_netns(int fd, const char **step);

// Sets the loopback device of the thread's namespace up. A descriptor of it, which is all that keeps a new one.
int netns_finish(const char **step);

// One conversation with the kernel, in the thread's namespace. The caller frees `request` and `replies`.
struct netlink_exchange {
	int protocol;
	int deadline_ms;
	size_t enough_bytes; // over 0: the conversation ends once this much is received
	uint8_t *request;
	size_t request_bytes;
	uint8_t *replies; // the datagrams, one after the other, each padded as messages are
	size_t replies_bytes;
	size_t replies_capacity;
	int result; // 0, or -errno with the step that failed
	const char *step;
};

void netlink_converse(struct netlink_exchange *exchange);

// A socket for conversations in the thread's namespace, where it stays; or -errno.
int netlink_open(int protocol);
// As netlink_converse(), over such a socket, whatever thread has it.
void netlink_converse_on(int fd, struct netlink_exchange *exchange);

#define XTABLES_NAME_BYTES 32 // with the NUL
#define XTABLES_INFO_BYTES 84

// One x_tables table as the kernel gives it. The caller frees `entries`.
struct xtables_read {
	int family;       // AF_INET or AF_INET6
	uint32_t max_bytes; // a table with more bytes of entries comes without them
	char table[XTABLES_NAME_BYTES];
	const char *chains; // names between tabs, up to the end of the line: their share of the table; NULL: all of it
	bool only_existing; // not to create it by asking
	bool absent;        // nothing was read: the namespace has no such table
	uint8_t info[XTABLES_INFO_BYTES]; // struct ipt_getinfo, which is also struct ip6t_getinfo
	uint8_t *entries;                 // struct ipt_entry or struct ip6t_entry, one after the other, as a share each behind its place
	size_t entries_bytes;
	int result; // 0, or -errno with the step that failed
	const char *step;
};

// What stands before each entry of a share.
struct xtables_place {
	uint32_t offset;   // in the table, which is what verdicts name
	uint32_t position; // from 1 in its chain; 0: a chain begins behind it
};

#define XTABLES_SHARE_BYTES (4 * 1024 * 1024) // of one table, else -EMSGSIZE
#define XTABLES_SHARE_ENTRIES 10001 // of one chain, before the last, and of what leads into the chains

// Puts what the named chains have of the entries, and what leads into them, in `table`; each chain's last entry is always among it.
// An entry of another chain comes behind the one with that chain's name. Chains that are not there have nothing. -EPROTO: no table.
int xtables_share(struct xtables_read *table, const uint8_t *entries, size_t bytes);

// Tables to be read one after the other, in the thread's namespace; what became of each stands in it.
struct xtables_list {
	struct xtables_read *tables;
	size_t count;
	char *names; // which tables point into
};

void xtables_read_tables(const struct xtables_list *list);

#endif
