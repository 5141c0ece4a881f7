// SPDX-License-Identifier: Apache-2.0
// What the parts of the fuzzer share.
#ifndef AMBIENT_FUZZ_H
#define AMBIENT_FUZZ_H

#include "text.h"

#define FUZZ_MAX_BYTES (96 * 1024)

/* One thing to be fuzzed: runs an input and calls broken() when a promise is not kept. */
struct target {
	const char *name; /* also that of its folder in the corpus */
	void (*run)(struct bytes input);
	const char *const *words; /* tokens worth putting into inputs, NULL at the end */
};

extern const struct target targets[];
extern const size_t target_count;

/* Reports that a promise is broken, keeps the input and ends the process. */
_Noreturn void broken(const char *promise);
#define PROMISE(condition) ((condition) ? (void)0 : broken(#condition))

bool same(struct bytes one, struct bytes other);
/* A copy that ends with a zero, to be freed; an allocation of its own, so that the sanitizer sees each read past its end. */
char *string_of(struct bytes part);

void run_answer(struct bytes input);
void run_request(struct bytes input);

/* A small generator of its own (splitmix64), so that a seed gives the same inputs everywhere. */
uint64_t random_next(void);
size_t random_below(size_t limit);
void random_seed(uint64_t seed);

/* Changes `data` (of `len` bytes, room for FUZZ_MAX_BYTES) and returns its new length. */
size_t mutate(unsigned char *data, size_t len, struct bytes other, const char *const *words);

#endif
