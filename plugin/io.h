// SPDX-License-Identifier: Apache-2.0
// Reading, writing and waiting, each with a deadline in milliseconds of the monotonic clock.
#ifndef AMBIENT_IO_H
#define AMBIENT_IO_H

#include "text.h"

#define MAX_INPUT_BYTES (1u << 20)

int64_t now_ms(void);
void sleep_ms(int64_t ms);

/* Waits for `events` of poll(2). Returns 1, 0 when the deadline passed, or -errno. */
int wait_for(int fd, short events, int64_t deadline_ms);

/* Reads stdin to its end. `*input` is what came, also after an error, and stays valid.
 * Returns 0, or -EFBIG past MAX_INPUT_BYTES, -ETIMEDOUT, -errno. */
int read_input(struct bytes *input, int64_t deadline_ms);

/* Writes all of `value`, however long the reader takes. Returns 0 or -errno. */
int write_all(int fd, struct bytes value);

/* Writes to stderr unless that would have to wait. */
void write_note(struct bytes value);

#endif
