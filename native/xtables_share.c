// SPDX-License-Identifier: Apache-2.0
// The share of an x_tables table that named chains have: their entries, and those of other chains that lead into them.
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#define MAX_CHAINS 16
#define NOWHERE SIZE_MAX

// Both families tell the same, in the same way, behind what they ask of a packet's header.
_Static_assert(offsetof(struct ipt_entry, next_offset) == offsetof(struct ipt_entry, target_offset) + sizeof(uint16_t) &&
		       offsetof(struct ip6t_entry, next_offset) == offsetof(struct ip6t_entry, target_offset) + sizeof(uint16_t),
	       "offsets in entries");

struct chain {
	const char *name;
	size_t name_bytes;
	size_t start; // of its first entry, behind the one with the name; NOWHERE: it is not there
	size_t end;   // of its last
};

struct walk {
	const uint8_t *entries;
	size_t bytes;
	bool six;
	struct ipt_getinfo info;
	struct chain chains[MAX_CHAINS];
	size_t chain_count;
	struct xtables_read *table; // its `entries` are the share
	size_t capacity;
};

struct entry {
	size_t offset;
	size_t next;
	const char *chain; // the name, where a chain begins behind this entry
	size_t chain_bytes; // of the name's field, at most
	int32_t verdict; // negative: it leads nowhere in the table
};

static bool read_entry(const struct walk *walk, size_t offset, struct entry *entry)
{
	size_t size = walk->six ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
	size_t at = walk->six ? offsetof(struct ip6t_entry, target_offset) : offsetof(struct ipt_entry, target_offset);
	size_t left = walk->bytes - offset;
	const uint8_t *start = walk->entries + offset;
	uint16_t offsets[2]; // of the target, and of the next entry

	if (left < size)
		return false;
	memcpy(offsets, start + at, sizeof(offsets));
	if (offsets[0] < size || offsets[0] + sizeof(struct xt_entry_target) > offsets[1] || offsets[1] > left)
		return false;
	size_t data_bytes = offsets[1] - offsets[0] - sizeof(struct xt_entry_target); // some targets have none
	const char *name = (const char *)start + offsets[0] + offsetof(struct xt_entry_target, u.user.name);
	const uint8_t *data = start + offsets[0] + sizeof(struct xt_entry_target);
	*entry = (struct entry){ .offset = offset, .next = offset + offsets[1], .verdict = -1 };
	if (memcmp(name, XT_ERROR_TARGET, sizeof(XT_ERROR_TARGET)) == 0) {
		entry->chain = (const char *)data;
		entry->chain_bytes = data_bytes;
	} else if (name[0] == '\0') {
		if (data_bytes < sizeof(entry->verdict))
			return false;
		memcpy(&entry->verdict, data, sizeof(entry->verdict));
	}
	return true;
}

// Names stand between tabs, up to the end of the line.
static int read_names(struct walk *walk, const char *names)
{
	for (; *names && *names != '\n'; names += *names == '\t') {
		if (walk->chain_count == MAX_CHAINS)
			return -E2BIG;
		struct chain *chain = &walk->chains[walk->chain_count++];

		*chain = (struct chain){ .name = names, .name_bytes = strcspn(names, "\t\n"), .start = NOWHERE };
		names += chain->name_bytes;
	}
	return 0;
}

static struct chain *named(struct walk *walk, const struct entry *entry)
{
	for (size_t i = 0; i < walk->chain_count; i++) {
		struct chain *chain = &walk->chains[i];

		if (chain->start == NOWHERE && chain->name_bytes < entry->chain_bytes &&
		    memcmp(entry->chain, chain->name, chain->name_bytes) == 0 && entry->chain[chain->name_bytes] == '\0')
			return chain;
	}
	return NULL;
}

// Where the chains are; whether any of them is there, or -errno.
static int find_chains(struct walk *walk)
{
	struct chain *current = NULL;
	struct entry entry;
	int found = 0;

	for (size_t offset = 0; offset < walk->bytes; offset = entry.next) {
		if (!read_entry(walk, offset, &entry))
			return -EPROTO;
		if (!entry.chain)
			continue;
		if (current)
			current->end = offset;
		current = named(walk, &entry);
		if (!current)
			continue;
		current->start = entry.next;
		current->end = walk->bytes;
		found = 1;
	}
	return found;
}

static const struct chain *begins(const struct walk *walk, size_t offset)
{
	for (size_t i = 0; i < walk->chain_count; i++)
		if (walk->chains[i].start == offset && walk->chains[i].end > offset)
			return &walk->chains[i];
	return NULL;
}

static bool leads_in(const struct walk *walk, int32_t verdict)
{
	for (size_t i = 0; verdict >= 0 && i < walk->chain_count; i++)
		if (walk->chains[i].start != NOWHERE && (size_t)verdict >= walk->chains[i].start &&
		    (size_t)verdict < walk->chains[i].end)
			return true;
	return false;
}

static bool is_hook(const struct walk *walk, size_t offset)
{
	for (size_t hook = 0; hook < NF_INET_NUMHOOKS; hook++)
		if ((walk->info.valid_hooks & (1U << hook)) && walk->info.hook_entry[hook] == offset)
			return true;
	return false;
}

static int add(struct walk *walk, const struct entry *entry, uint32_t position)
{
	struct xtables_read *table = walk->table;
	struct xtables_place place = { .offset = (uint32_t)entry->offset, .position = position };
	size_t bytes = entry->next - entry->offset;
	size_t needed = table->entries_bytes + sizeof(place) + bytes;

	// An entry may be as long as 64 KiB: what somebody in a pod makes of our chains is bounded in bytes, too.
	if (needed > XTABLES_SHARE_BYTES)
		return -EMSGSIZE;
	if (needed > walk->capacity) {
		size_t capacity = needed * 2;
		uint8_t *grown = realloc(table->entries, capacity);

		if (!grown)
			return -ENOMEM;
		table->entries = grown;
		walk->capacity = capacity;
	}
	memcpy(table->entries + table->entries_bytes, &place, sizeof(place));
	memcpy(table->entries + table->entries_bytes + sizeof(place), walk->entries + entry->offset, bytes);
	table->entries_bytes = needed;
	return 0;
}

static int add_share(struct walk *walk)
{
	const struct chain *own = NULL;
	struct entry entry, head = { .offset = NOWHERE };
	uint32_t position = 0, leads = 0;
	int result = 0;

	for (size_t offset = 0; offset < walk->bytes && result == 0; offset = entry.next) {
		if (!read_entry(walk, offset, &entry))
			return -EPROTO;
		if (entry.chain) {
			own = begins(walk, entry.next);
			head = entry;
			position = 0;
			if (!own)
				continue;
		} else {
			position = !own && is_hook(walk, offset) ? 1 : position + 1;
			if (own && position > XTABLES_SHARE_ENTRIES && entry.next != own->end)
				continue;
			if (!own && (!leads_in(walk, entry.verdict) || ++leads > XTABLES_SHARE_ENTRIES))
				continue;
			// the name of the chain that it stands in, once
			if (!own && head.offset != NOWHERE && (result = add(walk, &head, 0)) < 0)
				return result;
		}
		result = add(walk, &entry, position);
		head.offset = NOWHERE;
	}
	return result;
}

int xtables_share(struct xtables_read *table, const uint8_t *entries, size_t bytes)
{
	struct walk walk = {
		.entries = entries,
		.bytes = bytes,
		.six = table->family == AF_INET6,
		.table = table,
	};
	int result;

	memcpy(&walk.info, table->info, sizeof(walk.info));
	result = read_names(&walk, table->chains);
	if (result == 0)
		result = find_chains(&walk);
	return result > 0 ? add_share(&walk) : result;
}
