// SPDX-License-Identifier: Apache-2.0
// The head of the HTTP request that carries the environment to the agent.
#ifndef AMBIENT_REQUEST_H
#define AMBIENT_REQUEST_H

#include "text.h"

/* The agent reads no more than 64 KiB of head. */
#define MAX_HEAD_BYTES (64 * 1024 - 1)

/* Writes the head of `POST /cni` to `head`: each CNI_* variable of `environment` becomes a header of the same name with - for _.
 * A variable that cannot be carried (control bytes, a name that is no header name, one that clashes, too much in all) is left out,
 * and the first such is reported in `why`. Returns 0, or the CNI error code 4 when one was left out. */
int request_head(struct text *head, char *const *environment, size_t body_bytes, struct text *why);

#endif
