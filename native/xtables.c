// SPDX-License-Identifier: Apache-2.0
// Reads a table of iptables-legacy (x_tables) out of the kernel, inside a network namespace.
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#define MAX_TABLE_BYTES (128 * 1024 * 1024)
#define MAPPED_BYTES (256 * 1024)
#define MAX_ATTEMPTS 10
#define MAX_LIST_BYTES 4096 // a kernel has no more than five or six tables of a family

// Both families have the same numbers and the same structures around entries of their own.
_Static_assert(IPT_SO_GET_INFO == IP6T_SO_GET_INFO && IPT_SO_GET_ENTRIES == IP6T_SO_GET_ENTRIES, "option numbers");
_Static_assert(sizeof(struct ipt_getinfo) == XTABLES_INFO_BYTES && sizeof(struct ip6t_getinfo) == XTABLES_INFO_BYTES,
	       "struct ipt_getinfo");
_Static_assert(sizeof(struct ipt_get_entries) == sizeof(struct ip6t_get_entries), "struct ipt_get_entries");
_Static_assert(sizeof(((struct ipt_getinfo *)0)->name) == XTABLES_NAME_BYTES, "table names");

static int read_info(int fd, int level, const char *table, struct ipt_getinfo *info)
{
	socklen_t bytes = sizeof(*info);

	memset(info, 0, sizeof(*info));
	memcpy(info->name, table, XTABLES_NAME_BYTES);
	if (getsockopt(fd, level, IPT_SO_GET_INFO, info, &bytes) < 0)
		return -errno;
	return bytes == sizeof(*info) ? 0 : -EPROTO;
}

// However many namespaces have large tables, one of them at a time is read; what is kept of each stays until it is handed over.
static pthread_mutex_t large = PTHREAD_MUTEX_INITIALIZER;

// Zeroed memory, which goes back to the machine at once where it is much.
static void *take_memory(size_t bytes)
{
	if (bytes < MAPPED_BYTES)
		return calloc(1, bytes);
	pthread_mutex_lock(&large);
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		pthread_mutex_unlock(&large);
		return NULL;
	}
	madvise(memory, bytes, MADV_HUGEPAGE); // some thousand page faults less
	return memory;
}

static void give_back(void *memory, size_t bytes)
{
	if (bytes < MAPPED_BYTES) {
		free(memory);
		return;
	}
	munmap(memory, bytes);
	pthread_mutex_unlock(&large);
}

static int keep_all(struct xtables_read *table, const void *entries, size_t bytes)
{
	table->entries = malloc(bytes + 1);
	if (!table->entries)
		return -ENOMEM;
	memcpy(table->entries, entries, bytes);
	table->entries_bytes = bytes;
	return 0;
}

// -EAGAIN when the table has another size by now.
static int read_entries(int fd, int level, const struct ipt_getinfo *info, struct xtables_read *table)
{
	size_t bytes = sizeof(struct ipt_get_entries) + info->size;
	socklen_t length = (socklen_t)bytes;
	struct ipt_get_entries *answer;
	int result;

	if (info->size > MAX_TABLE_BYTES)
		return -EMSGSIZE;
	// The kernel leaves gaps (the rest of a name's field), which must not hold chance.
	answer = take_memory(bytes);
	if (!answer)
		return -ENOMEM;
	memcpy(answer->name, table->table, XTABLES_NAME_BYTES);
	answer->size = info->size;
	memcpy(table->info, info, sizeof(*info));
	if (getsockopt(fd, level, IPT_SO_GET_ENTRIES, answer, &length) < 0)
		result = -errno;
	else if (table->chains)
		result = xtables_share(table, (const uint8_t *)answer->entrytable, info->size);
	else
		result = keep_all(table, answer->entrytable, info->size);
	give_back(answer, bytes);
	return result;
}

// Whether the text, a name on each line, has the name.
static bool has_line(const char *text, const char *name)
{
	size_t bytes = strlen(name);

	for (const char *at = text; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
		if (strncmp(at, name, bytes) == 0 && (at[bytes] == '\n' || at[bytes] == '\0'))
			return true;
	return false;
}

// Whether the thread's namespace has the table, by the kernel's list; where that cannot be read, it is taken for there.
// Source: linux net/netfilter/x_tables.c xt_proto_init; fs/proc/proc_net.c, the list is that of the thread that opens it.
static bool may_exist(const struct xtables_read *table)
{
	const char *path = table->family == AF_INET6 ? "/proc/thread-self/net/ip6_tables_names"
						     : "/proc/thread-self/net/ip_tables_names";
	char list[MAX_LIST_BYTES + 1];
	size_t bytes = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	// With no such list in a /proc that is there, the kernel has none of these tables at all.
	if (fd < 0)
		return errno != ENOENT || access("/proc/thread-self/net", F_OK) < 0;
	while ((got = read(fd, list + bytes, MAX_LIST_BYTES - bytes)) > 0)
		bytes += (size_t)got;
	close(fd);
	list[bytes] = '\0';
	return got < 0 || bytes == MAX_LIST_BYTES || has_line(list, table->table);
}

static int read_table(struct xtables_read *table)
{
	int level = table->family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	struct ipt_getinfo info, again;
	int result = -EAGAIN;

	table->absent = table->only_existing && !may_exist(table);
	if (table->absent)
		return 0;
	table->step = "socket";
	// Any socket of the family will do; a raw one would take another capability.
	int fd = socket(table->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	table->step = "getsockopt";
	// Somebody may write the table between the two questions.
	for (int attempt = 0; attempt < MAX_ATTEMPTS && result == -EAGAIN; attempt++) {
		free(table->entries);
		table->entries = NULL;
		table->entries_bytes = 0; // it may have grown too large since
		result = read_info(fd, level, table->table, &info);
		if (result == 0 && info.size > table->max_bytes) {
			memcpy(table->info, &info, sizeof(info));
			break;
		}
		if (result == 0)
			result = read_entries(fd, level, &info, table);
		// The kernel compares no more than sizes: rules of the same length may have changed places.
		if (result == 0)
			result = read_info(fd, level, table->table, &again);
		if (result == 0 && memcmp(&info, &again, sizeof(info)) != 0)
			result = -EAGAIN;
	}
	close(fd);
	return result;
}

void xtables_read_tables(const struct xtables_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		list->tables[i].result = read_table(&list->tables[i]);
}
