// SPDX-License-Identifier: Apache-2.0
// Takes shares of a table, a struct ipt_getinfo and its entries on standard input, and of many broken copies of it; prints that of the
// whole one. To be built with sanitizers.
// usage: share FAMILY(4 or 6) CHAINS(between tabs) ROUNDS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "../../native/common.h"

static uint8_t input[1 << 20];

// The copy has no byte more than the table, so that who reads on is caught.
static int share(struct xtables_read *table, const uint8_t *from, size_t bytes)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);

	if (!copy)
		exit(2);
	memcpy(table->info, from, XTABLES_INFO_BYTES);
	memcpy(copy, from + XTABLES_INFO_BYTES, bytes);
	int result = xtables_share(table, copy, bytes);
	free(copy);
	return result;
}

int main(int argc, char **argv)
{
	size_t bytes = fread(input, 1, sizeof(input), stdin) - XTABLES_INFO_BYTES;
	struct xtables_read like = { .family = argc > 1 && argv[1][0] == '6' ? AF_INET6 : AF_INET };
	int refused = 0, rounds;

	if (argc != 4 || bytes > sizeof(input))
		return 2;
	like.chains = argv[2];
	rounds = atoi(argv[3]);
	srandom(1);
	for (int round = 0; round < rounds; round++) {
		static uint8_t broken[sizeof(input)];
		struct xtables_read table = like;
		size_t cut = round % 3 ? bytes : (size_t)random() % bytes;

		memcpy(broken, input, XTABLES_INFO_BYTES + bytes);
		for (int i = 0; i < round % 5; i++)
			broken[(size_t)random() % (XTABLES_INFO_BYTES + bytes)] = (uint8_t)random();
		refused += share(&table, broken, cut) < 0;
		free(table.entries);
	}
	fprintf(stderr, "%d of %d refused\n", refused, rounds);
	if (share(&like, input, bytes) < 0)
		return 1;
	fwrite(like.info, 1, sizeof(like.info), stdout);
	fwrite(like.entries, 1, like.entries_bytes, stdout);
	free(like.entries);
	return 0;
}
